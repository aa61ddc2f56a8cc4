"""A tuned model beside the engines that people use now, each in its own process, in turns."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loopwright.api.optimize import difference, example_inputs
from loopwright.errors import UnsupportedError
from loopwright.graph.fill import fill
from loopwright.graph.models import bundled_paths, resolve
from loopwright.graph.onnx_file import import_onnx
from loopwright.layout import Array
from loopwright.peers.compare import peers_on
from loopwright.peers.interleave import Contender, Timing, interleave
from loopwright.peers.peer import Peer
from loopwright.peers.wire import ModelSpec, Ready
from loopwright.runtime.model_file import read_manifest

OURS = "loopwright"
_VOCABULARY = 1000  # token ids below this are in the vocabulary of every bundled model


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """A model's timings by engine, ours among them; `ready` is what each said when it had loaded.

    `error` is the largest difference of our outputs from the first peer's, as a share of their
    scale; None without a peer. `refused` says why an engine is left out.
    """

    name: str
    threads: int
    timings: Mapping[str, Timing]
    ready: Mapping[str, Ready]
    refused: Mapping[str, str]
    error: float | None

    @property
    def ours_ns(self) -> float:
        """The median of our calls."""
        return self.timings[OURS].median_ns

    @property
    def best_peer(self) -> str | None:
        """The fastest peer."""
        peers = {name: t.median_ns for name, t in self.timings.items() if name != OURS}
        return min(peers, key=lambda name: peers[name], default=None)

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the fastest peer we are."""
        best = self.best_peer
        return None if best is None else self.timings[best].median_ns / self.ours_ns


def compare_model(
    tuned: Path, model: str, engines: Sequence[str], threads: int, rounds: int = 15
) -> ModelComparison:
    """`tuned`, made of the ONNX model `model`, timed in turns with `engines`.

    Raises: ModelError for a model that cannot be read; UnsupportedError or EnvironmentFailure for
        an engine that cannot be used.
    """
    manifest = read_manifest(tuned)
    inputs = example_inputs(manifest.inputs)
    for name, array in inputs.items():
        if array.dtype.kind in "iu":
            spread = np.random.default_rng(0).integers(0, _VOCABULARY, array.shape)
            inputs[name] = spread.astype(array.dtype)
    with tempfile.TemporaryDirectory() as folder, peers_on([OURS, *engines], threads) as peers:
        path = onnx_file(model, Path(folder))
        given = Path(folder) / "inputs.npz"
        with given.open("wb") as file:
            np.savez(file, allow_pickle=False, **inputs)
        ready: dict[str, Ready] = {}
        refused: dict[str, str] = {}
        outputs: dict[str, dict[str, Array]] = {}
        for name, peer in peers.items():
            written = Path(folder) / f"{name}.npz"
            spec = ModelSpec(str(tuned if name == OURS else path), str(given), str(written))
            try:
                ready[name] = peer.load_model(spec)
            except UnsupportedError as error:
                refused[name] = str(error)
                continue
            with np.load(written) as found:
                outputs[name] = {key: found[key] for key in found.files}
        contenders: dict[str, Contender] = {name: _contender(peers[name]) for name in ready}
        timings = interleave(contenders, rounds=rounds)
    others = [found for name, found in outputs.items() if name != OURS]
    apart = difference(outputs[OURS], others[0]) if others else None
    return ModelComparison(manifest.name, threads, timings, ready, refused, apart)


def onnx_file(model: str, folder: Path) -> Path:
    """The ONNX file of `model`; a bundled one gets its weights, in `folder`."""
    path = resolve(model)
    if path not in bundled_paths():
        return path
    onnx = import_onnx()
    filled = folder / path.name
    onnx.save(fill(onnx.load(str(path))), str(filled))
    return filled


def _contender(peer: Peer) -> Contender:
    return lambda: peer.time(1, min_repeat_s=0.02)


def show_ratio(ratio: float | None) -> str:
    """`1.52x`, or nothing."""
    return "" if ratio is None or math.isnan(ratio) else f"{ratio:.2f}x"
