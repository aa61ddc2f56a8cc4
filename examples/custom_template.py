"""An operator of one's own, with a template of one's own: a 3x3 box blur in two passes.

    python examples/custom_template.py

The expression says what a blurred pixel is. The template says which programs compute it: how many
rows a strip has, how wide the vectors are, and whether the sums along the rows are made for the
whole image first or anew for each strip. Tuning finds out which is fast here.
"""

from __future__ import annotations

import tempfile

import numpy as np

import loopwright as lw


def box_blur(height: int, width: int) -> lw.Workload:
    """The mean of 3x3 pixels of an image that has a border of one pixel."""
    image = lw.te.placeholder((height + 2, width + 2), name="image")
    rows = lw.te.compute(
        (height + 2, width),
        lambda y, x: image[y, x] + image[y, x + 1] + image[y, x + 2],
        name="rows",
    )
    blurred = lw.te.compute(
        (height, width),
        lambda y, x: (rows[y, x] + rows[y + 1, x] + rows[y + 2, x]) * (1 / 9),
        name="blurred",
    )
    return lw.workload(blurred, name="box_blur")


def space(workload: lw.Workload, target: lw.Target) -> lw.Space:
    """The knobs: rows a strip, elements a vector, and where the sums along the rows are made."""
    height, _ = workload.outputs[0].shape
    lanes = target.lanes(workload.outputs[0].dtype)
    return lw.Space(
        (
            lw.Split("strip", height, policy="factors"),
            lw.Choice("vector", (lanes // 2, lanes, 2 * lanes, 4 * lanes)),
            lw.Choice("sums", ("first", "each strip")),
        )
    )


def schedule(s: lw.Schedule, config: lw.Configuration) -> None:
    """Apply the knobs; runs once for many configs, so it may branch on a choice, not on a size."""
    rows, blurred = s["rows"], s["blurred"]
    y, x = blurred.loops
    strip, _ = blurred.split(y, config.sizes("strip")[1])
    blurred.parallel(strip)
    if config.text("sums") == "each strip":
        rows.compute_at(blurred, strip)
    for stage, loop in ((blurred, x), (rows, rows.loops[-1])):
        _, lane = stage.split(loop, config.integer("vector"))
        stage.vectorize(lane)


BOX_BLUR = lw.Template("example.box_blur", 1, space, schedule)


def main() -> None:
    """Tune the blur, call it, and compare it with NumPy."""
    task = lw.task(box_blur(510, 1022), template=BOX_BLUR)
    with tempfile.TemporaryDirectory() as folder:
        records = f"sqlite:///{folder}/records.db"
        result = lw.tune(task, trials=32, records=records, seed=0)
        blur = lw.build(task, records=records)
    print(f"{result.gflops:.1f} GFLOP/s, the best of {result.trials}: {blur.config}")

    image = np.random.default_rng(0).random((512, 1024), dtype=np.float32)
    shifted = [image[y : y + 510, x : x + 1022] for y in range(3) for x in range(3)]
    np.testing.assert_allclose(blur(image), np.mean(shifted, axis=0), rtol=1e-5)
    print("equal to NumPy")


if __name__ == "__main__":
    main()
