"""The policies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from loopwright.errors import ConfigError
from loopwright.learn.gbt import GbtModel
from loopwright.search.autotvm import AutotvmPolicy
from loopwright.search.genetic import GeneticPolicy
from loopwright.search.grid import GridPolicy
from loopwright.search.model_based import ModelPolicy
from loopwright.search.policy import Featurizer, Policy
from loopwright.search.random_search import RandomPolicy
from loopwright.space.space import Space

_Maker: TypeAlias = Callable[[Space, np.random.Generator, Featurizer], Policy]


def _model(space: Space, rng: np.random.Generator, featurize: Featurizer) -> Policy:
    return ModelPolicy(space, rng, featurize, GbtModel("rank", int(rng.integers(1 << 30))))


_MAKERS: Mapping[str, _Maker] = {
    "model": _model,
    "genetic": lambda space, rng, _: GeneticPolicy(space, rng),
    "random": lambda space, rng, _: RandomPolicy(space, rng),
    "grid": lambda space, _rng, _: GridPolicy(space),
    "autotvm": AutotvmPolicy,
}
NAMES = tuple(_MAKERS)


def make_policy(name: str, space: Space, rng: np.random.Generator, featurize: Featurizer) -> Policy:
    """The policy called `name` over `space`; those that do not learn leave `featurize` alone.

    Raises: ConfigError for an unknown name, or a space that the policy cannot take.
    """
    if name not in _MAKERS:
        raise ConfigError(f"unknown policy {name!r}; use one of {', '.join(NAMES)}")
    return _MAKERS[name](space, rng, featurize)
