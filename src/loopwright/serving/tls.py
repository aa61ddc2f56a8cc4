"""TLS 1.3 contexts that trust one certificate authority alone, and where certificates lie.

    ca.crt ca.key            the authority; ca.key stays on the machine that issues
    server.crt server.key    of a server
    NAME.crt NAME.key        of a client that shows a certificate in place of a token

Private keys have mode 0600, and one that others may read is refused.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from loopwright.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Certificate:
    """Where a certificate and its key lie."""

    certificate: Path
    key: Path


def server_context(
    folder: Path, *, file: str = "server", clients: Path | None = None
) -> ssl.SSLContext:
    """What a server listens with: TLS 1.3 only.

    Args:
        clients: certificate of the authority whose clients may, but need not, show theirs.

    Raises: ConfigError for files that are missing, unusable, or a key that others may read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    _load(context, files_of(folder, file))
    if clients is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        _trust(context, clients)
    return context


def client_context(ca: Path, own: Certificate | None = None) -> ssl.SSLContext:
    """What a client dials with: TLS 1.3 only, the name is checked, `ca` alone trusted.

    Args:
        own: shown to a server that asks for one.

    Raises: ConfigError as `server_context` does.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    _trust(context, ca / "ca.crt" if ca.is_dir() else ca)
    if own is not None:
        _load(context, own)
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca} is not the certificate of an authority: {error}") from error


def _load(context: ssl.SSLContext, files: Certificate) -> None:
    try:
        mode = files.key.stat().st_mode
        if mode & 0o077:
            raise ConfigError(f"others may read {files.key}: chmod 600 it")
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{files.certificate} and {files.key} are not a certificate and its key: {error}; make "
            "them with: loopwright ca issue"
        ) from error


def own_certificate(path: Path) -> Certificate:
    """The certificate at `path`, whose key lies beside it as `.key`."""
    return Certificate(path, path.with_suffix(".key"))


def files_of(folder: Path, name: str) -> Certificate:
    """Where the certificate called `name` lies in `folder`."""
    return Certificate(folder / f"{name}.crt", folder / f"{name}.key")
