"""Tune one convolution, build the best program found, and call it on NumPy arrays.

    python examples/quickstart.py [TRIALS]

The records stay in `quickstart.db`: run it again, and it goes on where it stopped.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

import loopwright as lw

RECORDS = "sqlite:///quickstart.db"


def main(trials: int = 64) -> None:
    """Tune, build, call, check."""
    task = lw.task(
        "conv2d",
        data=(1, 64, 28, 28),
        weight=(64, 64, 3, 3),
        strides=(1, 1),
        padding=(1, 1, 1, 1),
        target="cpu",
        threads=1,
    )
    result = lw.tune(task, trials=trials, records=RECORDS, policy="model", seed=0)
    print(f"{result.gflops:.0f} GFLOP/s after {result.trials} trials")

    rng = np.random.default_rng(0)
    data = rng.standard_normal((1, 64, 28, 28), dtype=np.float32)
    weight = rng.standard_normal((64, 64, 3, 3), dtype=np.float32)
    conv = lw.build(task, records=RECORDS).bind(weight=weight)  # weights are laid out once
    output = conv(data)  # NCHW in, NCHW out

    wanted = reference(data, weight)
    np.testing.assert_allclose(output, wanted, atol=1e-5 * float(np.abs(wanted).max()))
    print(f"output {output.shape}, equal to NumPy; built with {conv.config}")


def reference(
    data: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """The convolution by NumPy, in float64."""
    padded = np.pad(data[0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    height, width = data.shape[2:]
    taps = [
        np.einsum("oi,iyx->oyx", weight[:, :, r, c], padded[:, r : r + height, c : c + width])
        for r in range(3)
        for c in range(3)
    ]
    return np.asarray(np.stack(taps).sum(axis=0)[None], np.float64)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64)
