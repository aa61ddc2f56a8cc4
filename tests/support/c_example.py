"""What the example program beside an exported library fills its inputs with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def example_input(shape: tuple[int, ...], dtype: str) -> npt.NDArray[np.generic]:
    """An input of the example, as `export/c_text.py` writes it in C."""
    steps = np.arange(np.prod(shape)) % 7
    whole = dtype not in ("float32", "float64")
    return (steps if whole else steps * 0.25 - 0.75).astype(dtype).reshape(shape)
