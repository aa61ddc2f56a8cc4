"""Targets: presets and this machine, their texts, and what kernels are filed under."""

from __future__ import annotations

import gzip
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

import loopwright as lw
from loopwright.errors import ConfigError
from loopwright.records.shipped import FOLDER, ShippedRecords
from loopwright.records.store import Query
from loopwright.target.cpu import CpuTarget
from loopwright.target.host import host, machine_of
from loopwright.target.parse import parse
from loopwright.target.presets import EXTENSIONS, PRESETS, keys_for

# What kernels of each preset are filed under since the first release; records carry it.
KEYS = {
    "x86-64-sse4": "x86-64-sse4-d033547a",
    "x86-64-avx2": "x86-64-avx2-7e41dfc6",
    "x86-64-avx512": "x86-64-avx512-bbd4460d",
    "aarch64-neon": "aarch64-neon-f23ac5ca",
}
AVX512 = (
    "flags : sse sse2 pni ssse3 sse4_1 sse4_2 popcnt cx16 avx avx2 fma f16c bmi1 bmi2 abm movbe "
    "avx512f avx512bw avx512cd avx512dq avx512vl"
)


def with_all_extensions(name: str) -> lw.Target:
    return replace(PRESETS[name], extensions=EXTENSIONS[name])


@pytest.mark.parametrize("name", PRESETS)
def test_kernels_that_use_no_extension_keep_their_key(name: str) -> None:
    assert PRESETS[name].key == with_all_extensions(name).key == KEYS[name]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.gz")), ids=lambda p: p.name)
def test_records_that_ship_are_found_by_machines_with_extensions(path: Path) -> None:
    name = next(name for name, key in KEYS.items() if path.name.startswith(key))
    shipped = gzip.decompress(path.read_bytes()).decode().splitlines()
    target = with_all_extensions(name)
    found = ShippedRecords(target).best(Query(target=target.key))
    assert len(found) == len(shipped) > 0
    assert {record.key.target for record in found} == {target.key}


def test_every_preset_knows_what_its_machines_may_have() -> None:
    assert EXTENSIONS.keys() == PRESETS.keys()
    assert set(EXTENSIONS["x86-64-avx512"]) == {"avx512vnni", "avx512bf16"}
    assert set(EXTENSIONS["aarch64-neon"]) == {"dotprod", "bf16"}


def test_a_kernel_that_uses_an_extension_is_filed_under_it() -> None:
    machine = with_all_extensions("x86-64-avx512")
    with_vnni = machine.using("avx512vnni")
    assert with_vnni.features == (*machine.features, "avx512vnni")
    assert with_vnni.key != machine.key
    assert machine.using("avx512vnni", "avx512bf16") == machine.using("avx512bf16", "avx512vnni")
    assert machine.using() == machine


def test_an_extension_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="x86-64-avx512 has no extension 'avx512vnni'"):
        PRESETS["x86-64-avx512"].using("avx512vnni")


def test_a_machine_runs_kernels_with_and_without_its_extensions() -> None:
    plain, machine = PRESETS["x86-64-avx512"], with_all_extensions("x86-64-avx512")
    keys = keys_for(machine)
    assert keys_for(plain) == set(KEYS.values()) - {KEYS["aarch64-neon"]}
    assert keys_for(plain) < keys
    for used in (("avx512vnni",), ("avx512bf16",), ("avx512vnni", "avx512bf16")):
        assert machine.using(*used).key in keys
        assert machine.using(*used).key not in keys_for(plain)


@pytest.mark.parametrize(
    ("architecture", "cpuinfo", "preset", "extensions"),
    [
        ("x86_64", AVX512, "x86-64-avx512", ()),
        ("x86_64", f"{AVX512} avx512_vnni", "x86-64-avx512", ("avx512vnni",)),
        (
            "x86_64",
            f"{AVX512} avx512_bf16 avx512_vnni",
            "x86-64-avx512",
            ("avx512vnni", "avx512bf16"),
        ),
        ("x86_64", "flags : sse avx512_vnni", "x86-64-sse4", ()),
        ("aarch64", "Features\t: fp asimd", "aarch64-neon", ()),
        ("aarch64", "Features\t: fp asimd asimddp bf16", "aarch64-neon", ("dotprod", "bf16")),
        ("arm64", "", "aarch64-neon", ()),
    ],
)
def test_a_machine_is_known_by_its_flags(
    architecture: str, cpuinfo: str, preset: str, extensions: tuple[str, ...]
) -> None:
    machine = machine_of(architecture, f"processor : 0\n{cpuinfo}\n")
    assert machine == replace(PRESETS[preset], extensions=extensions)


@pytest.mark.parametrize("name", PRESETS)
def test_the_text_of_a_target_is_read_back(name: str) -> None:
    for target in (PRESETS[name], with_all_extensions(name), replace(PRESETS[name], l2=77)):
        assert parse(str(target)) == target
        assert pickle.loads(pickle.dumps(target)) == target
    assert parse(str(host())) == parse("cpu") == host()


def test_the_extensions_of_a_target_may_be_given() -> None:
    found = parse("x86-64-avx512 extensions=avx512bf16,avx512vnni cores=3")
    assert found == replace(with_all_extensions("x86-64-avx512"), cores=3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unknown target ''; use one of cpu, x86-64-sse4"),
        ("z80", "unknown target 'z80'; use one of cpu, x86-64-sse4"),
        ("x86-64-avx2 cores=0", "option 'cores=0' is not one of cores=N l1=BYTES"),
        ("x86-64-avx2 extensions=avx512vnni", "option 'extensions=avx512vnni' is not one of"),
        ("x86-64-avx512 extensions=dotprod", "extensions=avx512vnni,avx512bf16"),
        ("x86-64-avx512 extensions=", "option 'extensions=' is not one of"),
    ],
)
def test_a_text_that_is_not_a_target_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse(text)


def test_the_public_name_of_targets_is_what_all_of_them_are() -> None:
    assert isinstance(host(), lw.Target)
    assert not isinstance("cpu", lw.Target)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=str)
def test_every_preset_says_where_its_figures_come_from(preset: CpuTarget) -> None:
    assert preset.kind == "cpu"
    assert len(preset.core.source) > 40
