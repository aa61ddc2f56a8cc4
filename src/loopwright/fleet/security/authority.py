"""A small certificate authority in a folder: it issues certificates to servers and clients.

Importing this needs the extra `[tls]`; using certificates does not, see `serving.tls`.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from loopwright.errors import ConfigError
from loopwright.fleet.wire.fields import check_name
from loopwright.serving.tls import Certificate, files_of

try:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import (
        SECP256R1,
        EllipticCurvePrivateKey,
        generate_private_key,
    )
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )
except ImportError as error:
    raise ConfigError(
        "certificates need the package cryptography: pip install 'loopwright[tls]'"
    ) from error

CA_DAYS, LEAF_DAYS = 3650, 397
_SKEW = datetime.timedelta(hours=1)  # a clock that is a little behind still accepts a new one
_PRIVATE, _PUBLIC = 0o600, 0o644


def init(folder: Path, now: datetime.datetime, *, name: str = "loopwright") -> Certificate:
    """A new authority in `folder`, which is made with mode 0700.

    Raises: ConfigError when one is there already.
    """
    made = files_of(folder, "ca")
    for path in (made.certificate, made.key):
        if path.exists():
            raise ConfigError(f"{path} is there already; choose another folder for a new authority")
    key = _new_key()
    subject = _named(f"{name} fleet CA")
    builder = _begin(subject, subject, key, now, CA_DAYS)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    _make_folder(folder)
    _save(made, _signed(builder, key), key)
    return made


def issue_server(
    folder: Path, names: Sequence[str], now: datetime.datetime, *, file: str = "server"
) -> Certificate:
    """A certificate for a tracker or an agent that is reached as `names`: hosts or IP addresses.

    Raises: ConfigError without names, or when the authority or the file name is not usable.
    """
    if not names:
        raise ConfigError("a server's certificate needs the names it is reached by (--name)")
    alternatives: list[x509.GeneralName] = [_alternative(name) for name in names]
    return _issue(folder, file, names[0], now, client=False, alternatives=alternatives)


def issue_client(folder: Path, name: str, now: datetime.datetime) -> Certificate:
    """A certificate for a client that is called `name`, as are its files.

    Raises: ConfigError as `issue_server` does; Denied for a name that is not valid.
    """
    return _issue(folder, name, name, now, client=True, alternatives=[])


def _issue(
    folder: Path,
    file: str,
    name: str,
    now: datetime.datetime,
    *,
    client: bool,
    alternatives: list[x509.GeneralName],
) -> Certificate:
    made = files_of(folder, check_name(file, "a certificate"))
    if "/" in file or file == "ca":
        raise ConfigError(f"a certificate cannot be called {file!r}")
    ca_certificate, ca_key = _authority(folder)
    key = _new_key()
    identifier = ca_certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    purposes = x509.oid.ExtendedKeyUsageOID
    builder = (
        _begin(_named(name), ca_certificate.subject, key, now, LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([purposes.CLIENT_AUTH if client else purposes.SERVER_AUTH]),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier.value),
            critical=False,
        )
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    for path in (made.certificate, made.key):  # a new one replaces the old
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    _save(made, _signed(builder, ca_key), key)
    return made


def _authority(folder: Path) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    files = files_of(folder, "ca")
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        key = load_pem_private_key(files.key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{folder} holds no authority: {error}; make one with: loopwright ca init"
        ) from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ConfigError(f"{files.key} is not a key that loopwright ca init made")
    return certificate, key


def _begin(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePrivateKey,
    now: datetime.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _signed(builder: x509.CertificateBuilder, key: EllipticCurvePrivateKey) -> x509.Certificate:
    return builder.sign(key, SHA256())


def _named(name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    except ValueError as error:
        raise ConfigError(f"{name[:80]!r} cannot be a certificate's name: {error}") from error


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(check_name(name, "a host"))
    except ValueError as error:
        raise ConfigError(f"{name!r} is neither a host nor an IP address: {error}") from error


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _new_key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}") from error


def _save(files: Certificate, certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> None:
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write(files.key, secret, _PRIVATE)
    _write(files.certificate, certificate.public_bytes(Encoding.PEM), _PUBLIC)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Make a file that was not there, never readable by others for a moment if it is private."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
