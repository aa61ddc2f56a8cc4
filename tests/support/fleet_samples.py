"""One message of each type, with every field set, and the bytes that version 1 writes for it.

Run as a script it writes the golden file anew, which is right only when a message that no release
has spoken yet changes; afterwards fields are only added, and the old file stays as it is.
"""

from __future__ import annotations

from pathlib import Path

from loopwright.fleet.wire import messages as m
from loopwright.fleet.wire.frame import Frame
from loopwright.kernel_call import KernelCall, WireParam

GOLDEN = Path(__file__).parent.parent / "fleet" / "wire" / "golden" / "protocol-1.txt"
DIGEST, NONCE = bytes(range(32)), bytes(range(32, 64))
DEVICE = m.DeviceInfo(
    "lab/cpu0",
    {"board": "rpi4", "kind": "cpu"},
    "llvm -mcpu=cortex-a72",
    "BCM2711 4x1500 MHz",
    (0, 1, 2, 3),
    ("tcp://10.0.0.7:7071", "unix:///run/agent.sock"),
    1,
)
REPORT = m.DeviceReport("lab/cpu0", "active", "good", "lease-1", 7, 7, 0.01, 51.5, "warm")
PARAM = WireParam("a", "float32", (4, 8), ((0, 8, 4), (1, 1, 8)), "winograd")
ITEM = KernelCall(
    3, DIGEST, "kernel_0", (PARAM,), 1, 4096, 2, 11, True, 1, 5, 100, 2000, 1 << 30, 1.5e6, NONCE
)
ORDER = m.DeviceOrder("lab/cpu0", "lease-1", 7, 9000, "enabled", True, True, "y", 6)
MODULES = {"bitstream": "0" * 64}
SAMPLES: tuple[m.Message, ...] = (
    m.Hello("agent", 1, 2, "loopwright 1.0", "key", "lab", "s3cret", "00-ab-cd-01", True),
    m.Welcome(1, "tracker-1", 9, 2000, "lab", 1, DIGEST, NONCE),
    m.Challenge(NONCE, True),
    m.Proof(DIGEST, NONCE),
    m.Error("auth", "the token is not known here", 1500, False, DIGEST, 4),
    m.Ping(41),
    m.Pong(41),
    m.Register("boot-1", (DEVICE,), True, ({"runtime": "ab" * 32},)),
    m.Sync(12, (REPORT,)),
    m.Desired(12, (ORDER,), 2000),
    m.Superseded("lab/cpu0", "boot-2"),
    m.Acquire("req-1", "board=rpi4", 2, 15_000, 3, 60_000, MODULES, {"wl": "conv2d"}),
    m.Queued("req-1", 4, "3 match, 2 leased"),
    m.Granted("req-1", (m.Grant("lease-1", DEVICE, "boot-1", 7, 15_000, b"ticket", DIGEST),)),
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
    m.Open(b"ticket", NONCE, 1, 2, "00-ab-cd-01", True),
    m.Opened("lease-1", 7, 15_000, DEVICE, 1, 2000, 1 << 30, 1 << 26, {"runtime": "0" * 64}),
    m.Configure({"runtime": "0" * 64}),
    m.Configured(("runtime",)),
    m.Have((DIGEST, NONCE)),
    m.Missing((DIGEST,), (4096,)),
    m.Stored(DIGEST),
    m.RunBatch((ITEM,)),
    m.Result(3, "ok", (1.5e6, 1.25e6), "run", "crash", "signal 11", 0.25, 1, 51.5, 0.01, 2, 1, 1),
    m.Close(),
    m.Closed("released", "bye"),
    m.PutHead(DIGEST, 1 << 20, 3 << 20),
    m.OutputHead(3, 0, 128),
)


def encoded(message: m.Message) -> Frame:
    """The frame of a sample; heads of data frames carry four bytes."""
    if isinstance(message, (m.PutHead, m.OutputHead)):
        return m.data_frame(message, b"data", 5)
    return m.to_frame(message, 5)


def main() -> None:
    """Write the golden file."""
    lines = [f"{type(sample).__name__} {encoded(sample).encode().hex()}\n" for sample in SAMPLES]
    GOLDEN.write_text("".join(lines))


if __name__ == "__main__":
    main()
