"""The replay runner and the landscapes it replays."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import measure_kernels as kernels
import numpy as np
import pytest
from runner_contract import RunnerContract
from synthetic import synthetic, synthetic_features, synthetic_space

from loopwright import jsonio
from loopwright.errors import ConfigError, RecordsError
from loopwright.measure.landscape import Landscape, landscape, load, save
from loopwright.measure.replay import ReplayRunner
from loopwright.measure.request import MeasureRequest, Runner
from loopwright.outcome import Failed, FailureKind, FailureStage, Timed
from loopwright.space.config import Config

SCAPE = synthetic(0)
TASK = kernels.task()


def request(row: int, *, check: bool = False) -> MeasureRequest:
    return MeasureRequest(TASK, SCAPE.space.decode(SCAPE.space.points[row]), check=check)


class TestReplayRunner(RunnerContract):
    @pytest.fixture
    def new_runner(self) -> Callable[[], Runner]:
        return lambda: ReplayRunner(SCAPE, slots=2)

    @pytest.fixture
    def good(self) -> MeasureRequest:
        return request(int(SCAPE.ns.argmin()))

    @pytest.fixture
    def bad(self) -> MeasureRequest:
        return request(int(np.flatnonzero(np.isinf(SCAPE.ns))[0]))


def test_what_was_recorded_comes_back() -> None:
    with ReplayRunner(SCAPE) as runner:
        for row in range(0, len(SCAPE), 500):
            outcome = runner.submit(request(row, check=True)).result(0)
            if isinstance(outcome, Timed):
                assert outcome.best_ns == SCAPE.ns[row]
                assert outcome.checked
            else:
                assert outcome.kind == SCAPE.failures[row]


def test_what_was_not_recorded_is_refused() -> None:
    missing = Config.of(
        dict(request(0).config.items) | {"tile_w": (1, 2, 28), "tile_oc": (4, 1, 16)}
    )

    with pytest.raises(ConfigError, match="has no measurement"):
        ReplayRunner(SCAPE).submit(MeasureRequest(TASK, missing))


def same(one: Landscape, other: Landscape) -> bool:
    configs = [[s.space.decode(p) for p in s.space.points[:50]] for s in (one, other)]
    return (
        configs[0] == configs[1]
        and np.allclose(one.ns, other.ns, rtol=1e-6)
        and one.failures == other.failures
        and one.origin == other.origin
        and one.space.names == other.space.names
    )


def test_a_file_round_trips_and_equal_landscapes_give_equal_bytes(tmp_path: Path) -> None:
    files = [tmp_path / "a.json.gz", tmp_path / "b.json.gz"]
    save(SCAPE, files[0])
    loaded = load(files[0])
    save(loaded, files[1])

    assert same(SCAPE, loaded)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].stat().st_size < 120_000


def test_trials_become_a_landscape_over_the_values_that_occur() -> None:
    space = synthetic_space()
    points = space.sample(np.random.default_rng(0), 400)
    configs = list(dict.fromkeys(space.decode(point) for point in points if point[3] == 1))
    crash = Failed(FailureStage.RUN, FailureKind.CRASH, "signal 11")
    lost = Failed(FailureStage.RUN, FailureKind.WORKER_LOST, "gone")
    trials = [(c, Timed((float(i),), 1.0 + i)) for i, c in enumerate(configs[2:])]
    scape = landscape("x", SCAPE.origin, space, [(configs[0], crash), (configs[1], lost), *trials])

    assert len(scape) == len(configs) - 1
    assert scape.failures == {0: FailureKind.CRASH}
    assert len(scape.space.knobs[3].values) == 1
    assert {scape.space.decode(p) for p in scape.space.points} == {*configs} - {configs[1]}
    assert scape.best_ns == 1.0


def test_no_trials_are_no_landscape() -> None:
    with pytest.raises(RecordsError, match="no trial"):
        landscape("x", SCAPE.origin, synthetic_space(), [])


@pytest.mark.parametrize("damage", ["text", "cut", "version", "index", "missing"])
def test_a_damaged_file_is_one_line_of_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.json.gz"
    save(SCAPE, path)
    data = path.read_bytes()
    raw = gzip.decompress(data).decode()
    match damage:
        case "text":
            path.write_bytes(b"hello")
        case "cut":
            path.write_bytes(data[:2000])
        case "version":
            path.write_bytes(gzip.compress(raw.replace('"v":1', '"v":9').encode()))
        case "index":
            content = jsonio.loads(raw, dict)
            content["columns"][0][0] = 999
            path.write_bytes(gzip.compress(jsonio.dumps(content).encode()))
        case _:
            path.unlink()

    with pytest.raises(RecordsError, match="is not a landscape of format 1") as error:
        load(path)
    assert "\n" not in str(error.value)


def test_synthetic_landscapes_repeat_and_differ_by_seed() -> None:
    assert same(synthetic(3), synthetic(3))
    assert not np.allclose(synthetic(3).ns[:100], synthetic(4).ns[:100])
    finite = SCAPE.ns[np.isfinite(SCAPE.ns)]
    assert np.quantile(finite, 0.01) > 1.1 * SCAPE.best_ns  # good points are rare


def test_synthetic_features_tell_points_apart() -> None:
    features = synthetic_features(SCAPE.space, SCAPE.space.points)

    assert features.dtype == np.float32
    assert len(np.unique(features, axis=0)) == len(SCAPE)
