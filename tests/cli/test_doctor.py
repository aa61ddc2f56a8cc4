from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest

from loopwright.cli import doctor, packages
from loopwright.cli.doctor import MachineFigures

if TYPE_CHECKING:
    from conftest import Run

MACHINE = MachineFigures(
    model="Some CPU",
    kernel="Linux 6",
    target="x86-64-avx2-00000000",
    device="some-cpu-2c-01234567",
    cores=4,
    usable_cores=2,
    vector_bits=256,
    l1=32768,
    l2=1048576,
    l3=33554432,
    memory_bytes=8 << 30,
    fma_gflops={1: 117.4, 2: 232.0},
    fed_gflops=110.2,
    read_gbs=15.0,
    triad_gbs=14.0,
    noise=0.02,
    region_us=0.0734,
)


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "measure", lambda: MACHINE)


def test_the_doctor_shows_the_peak_the_bandwidth_and_the_cores(run: Run) -> None:
    text = run("doctor").out
    assert "117 GFLOP/s on 1 thread, 232 GFLOP/s on 2 threads" in text
    assert "15.0 GB/s read" in text
    assert "2 usable of 4" in text
    assert "something else is running" not in text


def test_the_doctor_shows_what_a_parallel_region_costs(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "threads      73.4 ns a parallel region on 2 threads" in run("doctor").out
    assert json.loads(run("doctor", "-o", "json").out)["machine"]["region_us"] == 0.0734
    monkeypatch.setattr(doctor, "measure", lambda: dataclasses.replace(MACHINE, region_us=None))
    assert "threads      not measured: there is one core" in run("doctor").out


def test_a_noisy_machine_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = dataclasses.replace(MACHINE, noise=0.3)
    monkeypatch.setattr(doctor, "measure", lambda: noisy)
    assert "30.0%: something else is running" in run("doctor").out


def test_a_missing_package_says_how_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = packages.Package("no_such_package", "wishing", "wish")
    monkeypatch.setattr(packages, "PACKAGES", (gone,))
    assert "missing, for wishing: pip install 'loopwright[wish]'" in run("doctor").out
    found = json.loads(run("doctor", "-o", "json").out)
    assert found["packages"]["no_such_package"]["version"] is None
    assert found["machine"]["fma_gflops"] == {"1": 117.4, "2": 232.0}
