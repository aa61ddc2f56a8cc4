"""The policies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from loopwright.errors import ConfigError
from loopwright.learn.gbt import GbtModel, Trainer
from loopwright.search.autotvm import AutotvmPolicy
from loopwright.search.genetic import GeneticPolicy
from loopwright.search.model_based import ModelPolicy
from loopwright.search.policy import Featurizer, Policy
from loopwright.search.unguided import GridPolicy, RandomPolicy
from loopwright.space.space import Space

_Maker: TypeAlias = Callable[[Space, np.random.Generator, Featurizer, Trainer | None], Policy]


def _model(
    space: Space, rng: np.random.Generator, featurize: Featurizer, trainer: Trainer | None
) -> Policy:
    model = GbtModel("rank", int(rng.integers(1 << 30)), trainer=trainer)
    return ModelPolicy(space, rng, featurize, model)


def _autotvm(
    space: Space, rng: np.random.Generator, featurize: Featurizer, trainer: Trainer | None
) -> Policy:
    return AutotvmPolicy(space, rng, featurize, trainer=trainer)


_MAKERS: Mapping[str, _Maker] = {
    "model": _model,
    "genetic": lambda space, rng, _, __: GeneticPolicy(space, rng),
    "random": lambda space, rng, _, __: RandomPolicy(space, rng),
    "grid": lambda space, _rng, _, __: GridPolicy(space),
    "autotvm": _autotvm,
}
NAMES = tuple(_MAKERS)


def make_policy(
    name: str,
    space: Space,
    rng: np.random.Generator,
    featurize: Featurizer,
    trainer: Trainer | None = None,
) -> Policy:
    """The policy called `name` over `space`; those that do not learn ignore `featurize`.

    `trainer` trains cost models in another process.
    Raises: ConfigError for an unknown name, or a space that the policy cannot take.
    """
    if name not in _MAKERS:
        raise ConfigError(f"unknown policy {name!r}; use one of {', '.join(NAMES)}")
    return _MAKERS[name](space, rng, featurize, trainer)
