"""What every runner must do. A test class of a runner inherits `RunnerContract` and gives the
fixtures.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, wait

import pytest

from loopwright.errors import LoopwrightError
from loopwright.measure.request import MeasureRequest, Runner
from loopwright.outcome import Failed, Timed

WAIT_S = 120.0


class RunnerContract:
    """Needs the fixtures `new_runner` (a factory), `good` and `bad` (requests that end so)."""

    def test_a_good_candidate_is_timed(
        self, new_runner: Callable[[], Runner], good: MeasureRequest
    ) -> None:
        with new_runner() as runner:
            outcome = runner.submit(good).result(WAIT_S)

        assert isinstance(outcome, Timed), outcome
        assert outcome.best_ns == min(outcome.ns)
        assert outcome.best_ns > 0

    def test_a_bad_candidate_is_a_value_not_an_exception(
        self, new_runner: Callable[[], Runner], bad: MeasureRequest
    ) -> None:
        with new_runner() as runner:
            outcome = runner.submit(bad).result(WAIT_S)

        assert isinstance(outcome, Failed)
        assert outcome.detail
        assert "\n" not in outcome.detail

    def test_every_request_in_flight_gets_its_own_outcome(
        self, new_runner: Callable[[], Runner], good: MeasureRequest, bad: MeasureRequest
    ) -> None:
        with new_runner() as runner:
            requests = [good, bad] * (runner.slots + 1)
            futures = [runner.submit(request) for request in requests]
            wait(futures, WAIT_S)
            kinds = [type(f.result(0)) for f in futures]

        assert kinds == [Timed, Failed] * (len(requests) // 2)

    def test_slots_are_at_least_one(self, new_runner: Callable[[], Runner]) -> None:
        with new_runner() as runner:
            assert runner.slots >= 1

    def test_closing_settles_every_future(
        self, new_runner: Callable[[], Runner], good: MeasureRequest
    ) -> None:
        runner = new_runner()
        futures = [runner.submit(good) for _ in range(3 * runner.slots)]
        runner.close()

        assert all(f.done() for f in futures)
        for future in futures:
            try:
                outcome = future.result(0)
            except CancelledError:
                continue
            assert isinstance(outcome, Timed | Failed)

    def test_closing_again_is_harmless_and_submitting_then_is_refused(
        self, new_runner: Callable[[], Runner], good: MeasureRequest
    ) -> None:
        runner = new_runner()
        runner.close()
        runner.close()

        with pytest.raises(LoopwrightError, match="closed"):
            runner.submit(good)
