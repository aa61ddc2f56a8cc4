"""A tuned model against the engines that people use now, each in its own process, in turns."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loopwright.deploy.finish import difference
from loopwright.errors import EnvironmentFailure, UnsupportedError
from loopwright.frontends.onnx.bundled import bundled_paths, fill, resolve
from loopwright.frontends.onnx.file import import_onnx
from loopwright.layout import Array
from loopwright.peers.compare import peers_on
from loopwright.peers.interleave import Contender, ContenderTiming, interleave
from loopwright.peers.model_inputs import indexed_rows, model_inputs
from loopwright.peers.peer import Peer
from loopwright.peers.wire import ModelSpec, PeerReady
from loopwright.runtime.cpu.model import require_loadable

OURS = "loopwright"
REFERENCE = "onnxruntime"
"""The peer whose outputs count as right, where it takes part."""


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """A model's timings by engine, ours among them; `ready` is what each said when it had loaded.

    `error` is the largest difference of our outputs from those of the engine `reference`, as a
    share of their scale; None without a peer. `refused` says why an engine is left out.
    """

    name: str
    threads: int
    timings: Mapping[str, ContenderTiming]
    ready: Mapping[str, PeerReady]
    refused: Mapping[str, str]
    reference: str | None
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
    tuned: Path, model: str | None, engines: Sequence[str], threads: int, rounds: int = 15
) -> ModelComparison:
    """`tuned`, made from the ONNX model `model`, timed in turns with `engines`.

    An engine that cannot run the model, or whose process ends while it does, is left out.

    Args:
        model: an ONNX file or the name of a bundled model; None if there are no engines.

    Raises: ModelError for a model that cannot be read, ConfigError for a tuned one of another
        machine; UnsupportedError or EnvironmentFailure for an engine that is not there, and when
        our own cannot run `tuned`.
    """
    manifest = require_loadable(tuned)
    with tempfile.TemporaryDirectory() as folder, peers_on([OURS, *engines], threads) as peers:
        source = None if model is None else onnx_file(model, Path(folder))
        inputs = model_inputs(manifest.inputs, {} if source is None else indexed_rows(source))
        given = Path(folder) / "inputs.npz"
        with given.open("wb") as file:
            np.savez(file, allow_pickle=False, **inputs)
        ready: dict[str, PeerReady] = {}
        refused: dict[str, str] = {}
        outputs: dict[str, dict[str, Array]] = {}
        for name, peer in peers.items():
            written = Path(folder) / f"{name}.npz"
            path = tuned if name == OURS else source
            try:
                ready[name] = peer.load_model(ModelSpec(str(path), str(given), str(written)))
            except (UnsupportedError, EnvironmentFailure) as error:
                if name == OURS:
                    raise
                refused[name] = str(error)
                continue
            with np.load(written) as found:
                outputs[name] = {key: found[key] for key in found.files}
        contenders: dict[str, Contender] = {name: _contender(peers[name]) for name in ready}
        timings = interleave(contenders, rounds=rounds)
    reference = _reference(outputs)
    apart = None if reference is None else difference(outputs[OURS], outputs[reference])
    return ModelComparison(
        name=manifest.name,
        threads=threads,
        timings=timings,
        ready=ready,
        refused=refused,
        reference=reference,
        error=apart,
    )


def _reference(outputs: Mapping[str, Mapping[str, Array]]) -> str | None:
    """Whose outputs ours are compared with."""
    return next((name for name in (REFERENCE, *outputs) if name in outputs and name != OURS), None)


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
