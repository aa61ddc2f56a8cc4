"""One message of each type, with every field set, and the bytes that version 1 writes for it.

Run as a script it writes the golden file anew, which is right only when a message that no release
has spoken yet changes; afterwards fields are only added, and the old file stays as it is.
"""

from __future__ import annotations

from pathlib import Path

from loopwright.fleet.wire import codec
from loopwright.fleet.wire import messages as m
from loopwright.fleet.wire.frame import Frame
from loopwright.kernel_call import KernelCall, WireParam

GOLDEN = Path(__file__).parent.parent / "fleet" / "wire" / "golden" / "protocol-1.txt"
DIGEST, NONCE = bytes(range(32)), bytes(range(32, 64))
DEVICE = m.DeviceInfo(
    name="lab/cpu0",
    labels={"board": "rpi4", "kind": "cpu"},
    target="llvm -mcpu=cortex-a72",
    device="BCM2711 4x1500 MHz",
    cores=(0, 1, 2, 3),
    addresses=("tcp://10.0.0.7:7071", "unix:///run/agent.sock"),
    tier=1,
)
REPORT = m.DeviceReport(
    name="lab/cpu0",
    occupancy="active",
    health="good",
    lease="lease-1",
    epoch=7,
    last_epoch=7,
    drift=0.01,
    temperature_c=51.5,
    detail="warm",
)
PARAM = WireParam("a", "float32", (4, 8), ((0, 8, 4), (1, 1, 8)), "winograd")
ITEM = KernelCall(
    3, DIGEST, "kernel_0", (PARAM,), 1, 4096, 2, 11, True, 1, 5, 100, 2000, 1 << 30, 1.5e6, NONCE
)
ORDER = m.DeviceOrder(
    name="lab/cpu0",
    lease="lease-1",
    epoch=7,
    ttl_ms=9000,
    admin="enabled",
    probe=True,
    kill=True,
    why="y",
    fence=6,
)
MODULES = {"bitstream": "0" * 64}
SAMPLES: tuple[m.Message, ...] = (
    m.Hello(
        role="agent",
        proto_min=1,
        proto_max=2,
        software="loopwright 1.0",
        auth="key",
        principal="lab",
        secret="s3cret",
        trace="00-ab-cd-01",
        mac=True,
    ),
    m.Welcome(
        proto=1,
        tracker="tracker-1",
        tracker_epoch=9,
        sync_ms=2000,
        principal="lab",
        role=1,
        device_key=DIGEST,
        proof=NONCE,
    ),
    m.Challenge(NONCE, True),
    m.Proof(DIGEST, NONCE),
    m.Error(
        code="auth",
        detail="the token is not known here",
        retry_after_ms=1500,
        fatal=False,
        digest=DIGEST,
        item=4,
        answers=6,
    ),
    m.Ping(41),
    m.Pong(41),
    m.Register("boot-1", (DEVICE,), True, ({"runtime": "ab" * 32},)),
    m.Sync(12, (REPORT,)),
    m.Desired(12, (ORDER,), 2000),
    m.Superseded("lab/cpu0", "boot-2"),
    m.Acquire(
        request="req-1",
        selector="board=rpi4",
        count=2,
        ttl_ms=15_000,
        priority=3,
        max_wait_ms=60_000,
        modules=MODULES,
        tags={"wl": "conv2d"},
    ),
    m.Queued("req-1", 4, "3 match, 2 leased"),
    m.Granted(
        "req-1",
        (
            m.Grant(
                lease="lease-1",
                device=DEVICE,
                incarnation="boot-1",
                epoch=7,
                ttl_ms=15_000,
                ticket=b"ticket",
                key=DIGEST,
            ),
        ),
    ),
    m.Refused("req-1", "quota", "8 of 8 leases", 5000),
    m.Renew("lease-1", 7),
    m.Renewed("lease-1", "yield-please", 9000, "a gang waits", "preempted"),
    m.Release("lease-1", 7, "device-lost"),
    m.Released("lease-1", "released"),
    m.Cancel("req-1"),
    m.Ask(5, "devices", "kind=cpu", "lease-1", "lab/cpu0"),
    m.Answer(5, b"[]", "lab/cpu1"),
    m.Command(6, "drain", {"device": "lab/cpu0", "why": "fan"}),
    m.Done(6, b"{}"),
    m.Open(ticket=b"ticket", nonce=NONCE, proto_min=1, proto_max=2, trace="00-ab-cd-01", mac=True),
    m.Opened(
        lease="lease-1",
        epoch=7,
        ttl_ms=15_000,
        device=DEVICE,
        tier=1,
        max_wall_ms=2000,
        max_memory=1 << 30,
        max_blob=1 << 26,
        modules={"runtime": "0" * 64},
    ),
    m.Configure({"runtime": "0" * 64}),
    m.Configured(("runtime",)),
    m.Have((DIGEST, NONCE)),
    m.Missing((DIGEST,), (4096,)),
    m.Stored(DIGEST),
    m.RunBatch((ITEM,)),
    m.Result(
        id=3,
        status="ok",
        ns=(1.5e6, 1.25e6),
        stage="run",
        kind="crash",
        detail="signal 11",
        run_s=0.25,
        tier=1,
        temperature_c=51.5,
        drift=0.01,
        canary=2,
        good=1,
        lost=1,
    ),
    m.Close(),
    m.Closed("released", "bye"),
    m.PutHead(DIGEST, 1 << 20, 3 << 20),
    m.OutputHead(3, 0, 128),
)


def encoded(message: m.Message) -> Frame:
    """The frame of a sample; heads of data frames carry four bytes."""
    if isinstance(message, (m.PutHead, m.OutputHead)):
        return codec.data_frame(message, b"data", 5)
    return codec.to_frame(message, 5)


def main() -> None:
    """Write the golden file."""
    lines = [f"{type(sample).__name__} {encoded(sample).encode().hex()}\n" for sample in SAMPLES]
    GOLDEN.write_text("".join(lines))


if __name__ == "__main__":
    main()
