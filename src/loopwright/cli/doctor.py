"""`loopwright doctor`: what this machine is, what it can do, and what is missing."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import typer

from loopwright.cli.common import (
    Output,
    OutputOption,
    console,
    print_json,
    records_url,
    show_ns,
)
from loopwright.cli.fleet.connect import CaOption, FleetOption, TokenOption, where
from loopwright.version import __version__

NOISY = 0.05
REGION_THREADS = 2


@dataclass(frozen=True, slots=True)
class MachineFigures:
    """What this machine is and what it can do; speeds are measured now.

    `fma_gflops` is the peak of float32 multiply-adds by number of threads, `fed_gflops` that of one
    thread whose operands come from the L1 cache; bandwidths are GB/s of one thread, `noise` is how
    much slower the median of equal bursts is than the best. `region_us` is what a parallel region
    costs on two threads, None where there is one core.
    """

    model: str
    kernel: str
    target: str
    device: str
    cores: int
    usable_cores: int
    vector_bits: int
    l1: int
    l2: int
    l3: int
    memory_bytes: int
    fma_gflops: dict[int, float]
    fed_gflops: float
    read_gbs: float
    triad_gbs: float
    noise: float
    region_us: float | None


def doctor(
    context: typer.Context,
    fleet: FleetOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show this machine and what is missing, or with --fleet whether a fleet can be used."""
    if fleet is not None:
        from loopwright.cli.fleet.checkup import check_fleet

        check_fleet(where(context, fleet, token, ca), output)
        return
    _show_machine(context, output)


def _show_machine(context: typer.Context, output: Output) -> None:
    from loopwright.cli.packages import PACKAGES, find

    machine = measure()
    packages = [find(package) for package in PACKAGES]
    url = records_url(context, None)
    if output is Output.JSON:
        print_json(
            {
                "loopwright": __version__,
                "python": platform.python_version(),
                "machine": machine,
                "records": url,
                "packages": {
                    p.package.name: {"version": p.version, "advice": p.advice} for p in packages
                },
            }
        )
        return
    screen = console()
    screen.print(f"loopwright {__version__}, Python {platform.python_version()}")
    for name, text in _lines(machine):
        screen.print(f"  {name:<12} {text}")
    screen.print(f"  {'records':<12} {url}")
    for found in packages:
        if found.version is not None:
            screen.print(f"  {found.package.name:<12} {found.version}")
        else:
            what = f"missing, for {found.package.purpose}: {found.advice}"
            screen.print(f"  {found.package.name:<12} {what}", markup=False)


def measure() -> MachineFigures:
    """This machine, measured now; it takes about a second."""
    from loopwright.records.device import fingerprint
    from loopwright.runtime.cpu import machine
    from loopwright.runtime.cpu.region import measure_region
    from loopwright.runtime.facts import facts
    from loopwright.target.host import host

    target, found = host(), facts()
    bandwidth = machine.measure_bandwidth()
    threads = sorted({1, target.cores})
    return MachineFigures(
        model=found.model,
        kernel=found.kernel,
        target=target.key,
        device=fingerprint(target),
        cores=found.cores,
        usable_cores=target.cores,
        vector_bits=target.vector_bits,
        l1=target.l1,
        l2=target.l2,
        l3=target.l3,
        memory_bytes=found.memory_bytes,
        fma_gflops={n: machine.measure_fma_peak(n) for n in threads},
        fed_gflops=machine.measure_fed_fma(),
        read_gbs=bandwidth.read,
        triad_gbs=bandwidth.triad,
        noise=machine.noise(),
        region_us=measure_region(REGION_THREADS) / 1e3 if target.cores >= REGION_THREADS else None,
    )


def _lines(machine: MachineFigures) -> list[tuple[str, str]]:
    peaks = ", ".join(
        f"{gflops:.0f} GFLOP/s on {threads} thread{'s' if threads > 1 else ''}"
        for threads, gflops in machine.fma_gflops.items()
    )
    region = "not measured: there is one core"
    if machine.region_us is not None:
        region = f"{show_ns(machine.region_us * 1e3)} a parallel region on {REGION_THREADS} threads"
    advice = ": something else is running, timings repeat badly" if machine.noise > NOISY else ""
    return [
        ("processor", f"{machine.model}, {machine.kernel}"),
        ("target", f"{machine.target}, {machine.vector_bits}-bit vectors"),
        ("device", machine.device),
        ("cores", f"{machine.usable_cores} usable of {machine.cores}"),
        (
            "memory",
            f"{machine.memory_bytes / 2**30:.1f} GiB; caches {machine.l1 >> 10} KiB, "
            f"{machine.l2 >> 10} KiB, {machine.l3 >> 20} MiB",
        ),
        ("FMA peak", f"{peaks} (float32)"),
        ("FMA fed", f"{machine.fed_gflops:.0f} GFLOP/s on 1 thread, operands from the L1 cache"),
        ("bandwidth", f"{machine.read_gbs:.1f} GB/s read, {machine.triad_gbs:.1f} GB/s triad"),
        ("threads", region),
        ("noise", f"{machine.noise:.1%}{advice}"),
    ]
