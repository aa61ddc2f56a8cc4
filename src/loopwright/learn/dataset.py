"""What a cost model learns from: features of candidates, and how fast they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from loopwright.errors import InternalError

FeatureMatrix: TypeAlias = npt.NDArray[np.float32]
Floats: TypeAlias = npt.NDArray[np.float64]
Groups: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Observations:
    """The trials of one workload: `features` float32 [N, F] and `ns` float64 [N] per call.

    A candidate that failed through its own fault has infinite `ns`: it ranks slowest.
    """

    workload: str
    features: FeatureMatrix
    ns: Floats

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.ns.shape != (len(self.features),):
            raise InternalError(
                f"observations of {self.workload}: features {self.features.shape} and times "
                f"{self.ns.shape} do not fit together"
            )


@dataclass(frozen=True, slots=True)
class Dataset:
    """Trials of any number of workloads, each compared only within its workload.

    `throughput` float64 [N] is the best time of the row's workload divided by the row's own: 1
    for the best, 0 for a failure. `groups` int64 [N] numbers the workloads from 0 and ascends.
    """

    features: FeatureMatrix
    throughput: Floats
    groups: Groups

    def __len__(self) -> int:
        return len(self.throughput)

    @property
    def group_sizes(self) -> Groups:
        """The number of rows of each workload, int64 [G]."""
        return np.bincount(self.groups)


class CostModel(Protocol):
    """Learns to order the candidates of a workload by speed."""

    def fit(self, dataset: Dataset) -> None:
        """Train on `dataset` from scratch; what was learned before is discarded."""
        ...

    def predict(self, features: FeatureMatrix) -> Floats:
        """Scores [N], higher is faster; comparable within a workload only."""
        ...


def collect(observations: Sequence[Observations]) -> Dataset:
    """The dataset of `observations`; several of one workload are merged.

    Raises: InternalError when there is none.
    """
    if not observations:
        raise InternalError("a dataset needs observations")
    by_workload: dict[str, list[Observations]] = {}
    for seen in observations:
        by_workload.setdefault(seen.workload, []).append(seen)
    features: list[FeatureMatrix] = []
    throughput: list[Floats] = []
    for together in by_workload.values():
        features += [seen.features for seen in together]
        throughput.append(relative_throughput(np.concatenate([seen.ns for seen in together])))
    sizes = [len(group) for group in throughput]
    return Dataset(
        np.concatenate(features),
        np.concatenate(throughput),
        np.repeat(np.arange(len(sizes), dtype=np.int64), sizes),
    )


def relative_throughput(ns: Floats) -> Floats:
    """The best of `ns` over each of `ns`, float64 [N] in 0..1; an infinite time gives 0."""
    finite = ns[np.isfinite(ns)]
    if not finite.size:
        return np.zeros(len(ns))
    return np.asarray(np.where(np.isfinite(ns), finite.min() / ns, 0.0))
