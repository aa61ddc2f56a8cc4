from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from search_tasks import featurizer, task

from loopwright.errors import ConfigError, EnvironmentFailure
from loopwright.measure.landscape import Landscape
from loopwright.measure.replay import ReplayRunner
from loopwright.measure.request import MeasureRequest
from loopwright.outcome import Failed, FailureKind, FailureStage, Outcome, Timed
from loopwright.records.record import Record
from loopwright.records.store import Query, SqlStore
from loopwright.search.journal import Journal
from loopwright.search.policies import make_policy
from loopwright.search.policy import Policy, Trial
from loopwright.search.result import Budget, Event, TaskResumed, TrialDone, TuneResult
from loopwright.search.tuner import PolicyFactory, TuneOptions, tune_tasks
from loopwright.templates.task import Task


def factory(name: str) -> PolicyFactory:
    def make(task: Task, rng: np.random.Generator) -> Policy:
        return make_policy(name, task.space, rng, featurizer(task.space))

    return make


@dataclass
class Watched:
    """A replay runner that remembers requests and may change outcomes; it never says `checked`
    unasked."""

    scape: Landscape
    slots: int = 3
    change: Callable[[MeasureRequest, Outcome], Outcome] = lambda _, outcome: outcome
    requests: list[MeasureRequest] = field(default_factory=list)

    def submit(self, request: MeasureRequest) -> Future[Outcome]:
        self.requests.append(request)
        outcome = ReplayRunner(self.scape).submit(request).result()
        future: Future[Outcome] = Future()
        future.set_result(self.change(request, outcome))
        return future

    def close(self) -> None: ...

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None: ...


@dataclass
class Memory:
    """A store in memory."""

    records: list[Record] = field(default_factory=list)

    def append(self, records: Iterable[Record]) -> int:
        self.records += records
        return 1

    def query(self, query: Query) -> Iterator[Record]:
        for record in self.records:
            if record.key.workload == query.workload and record.key.version == query.version:
                yield record


def journal(store: Memory | SqlStore, policy: str = "random", seed: int = 0) -> Journal:
    return Journal(store, "here", policy, seed, "test 1", now=lambda: 1e9)


def ns_of(scape: Landscape, request: MeasureRequest) -> float:
    outcome = ReplayRunner(scape).submit(request).result()
    return outcome.best_ns if isinstance(outcome, Timed) else np.inf


def test_the_best_is_the_fastest_measured_and_the_curve_leads_to_it(scape: Landscape) -> None:
    runner = Watched(scape)
    (result,) = tune_tasks([task(scape)], runner, factory("random"), budget=Budget(100))

    assert result.best is not None
    assert result.best.ns == min(ns_of(scape, request) for request in runner.requests)
    assert result.best.gflops == pytest.approx(result.task.flops / result.best.ns)
    assert result.trials == 100
    assert result.curve[-1] == (result.best.trial + 1, result.best.ns)
    steps = np.array(result.curve)
    assert (np.diff(steps[:, 0]) > 0).all()
    assert (np.diff(steps[:, 1]) < 0).all()
    assert sum(result.failures.values()) > 0


def test_each_config_is_a_trial_once_and_rechecks_are_no_trials(scape: Landscape) -> None:
    events: list[Event] = []
    runner = Watched(scape)
    tune_tasks([task(scape)], runner, factory("model"), budget=Budget(60), on_event=events.append)
    done = [e for e in events if isinstance(e, TrialDone)]

    first = [e for e in done if not e.recheck]
    assert len({e.config for e in first}) == len(first) == 60
    assert first[-1].n == 60
    assert len(done) == len(runner.requests)


def test_every_new_best_was_checked_before_it_was_crowned(scape: Landscape) -> None:
    best = np.inf
    events: list[Event] = []
    tune_tasks(
        [task(scape)], Watched(scape), factory("random"), budget=Budget(80), on_event=events.append
    )
    for event in events:
        assert isinstance(event, TrialDone)
        if event.best is not None and event.best.ns < best:
            best = event.best.ns
            assert isinstance(event.outcome, Timed)
            assert event.outcome.checked
            assert event.outcome.best_ns == best
    assert best < np.inf


def test_a_fast_but_wrong_config_never_wins(scape: Landscape) -> None:
    liars: set[str] = set()

    def lie(request: MeasureRequest, outcome: Outcome) -> Outcome:
        wrong = int(scape.space.encode(request.config)[2]) == 1
        if not wrong or isinstance(outcome, Failed):
            return outcome
        liars.add(request.config.key)
        if request.check:
            return Failed(FailureStage.CHECK, FailureKind.WRONG_OUTPUT, "3 wrong")
        return replace(outcome, best_ns=1.0)

    (result,) = tune_tasks(
        [task(scape)], Watched(scape, change=lie), factory("model"), budget=Budget(80)
    )

    assert liars
    assert result.best is not None
    assert result.best.config.key not in liars
    assert result.failures[FailureKind.WRONG_OUTPUT] > 0


def test_without_checks_every_time_counts(scape: Landscape) -> None:
    runner = Watched(scape)
    (result,) = tune_tasks(
        [task(scape)],
        runner,
        factory("random"),
        budget=Budget(40),
        options=TuneOptions(check=False),
    )

    assert len(runner.requests) == 40
    assert not any(request.check for request in runner.requests)
    assert result.best is not None


def test_slow_candidates_are_abandoned_relative_to_the_best(scape: Landscape) -> None:
    runner = Watched(scape, slots=1)
    tune_tasks(
        [task(scape)],
        runner,
        factory("random"),
        budget=Budget(30),
        options=TuneOptions(check=False, abandon=3.0),
    )
    best = np.inf
    for request in runner.requests:
        limit = request.plan.abandon_ns
        assert limit == (None if np.isinf(best) else pytest.approx(3.0 * best))
        best = min(best, ns_of(scape, request))


def test_the_budget_of_time_stops_the_run(scape: Landscape) -> None:
    ticks = iter(range(10_000))
    (result,) = tune_tasks(
        [task(scape)],
        Watched(scape, slots=1),
        factory("random"),
        budget=Budget(seconds=50.0),
        clock=lambda: float(next(ticks)),
    )

    assert 5 < result.trials < 50


def test_the_trials_are_shared_over_the_tasks_by_what_the_model_gains(scape: Landscape) -> None:
    tasks = [task(scape, f"t{i}", 8) for i in range(3)]
    results = tune_tasks(
        tasks,
        ReplayRunner(scape),
        factory("random"),
        budget=Budget(60),
        counts=[1, 10, 1],
        options=TuneOptions(warm_up=10),
    )

    assert sum(r.trials for r in results) == 180
    assert min(r.trials for r in results) >= 10
    assert results[1].trials > results[0].trials


def test_a_task_alone_goes_as_it_goes_beside_others(scape: Landscape) -> None:
    tasks = [task(scape, f"t{i}") for i in range(2)]
    options = TuneOptions(warm_up=40)
    both = tune_tasks(
        tasks, ReplayRunner(scape), factory("model"), budget=Budget(40), options=options
    )
    (alone,) = tune_tasks(
        tasks[1:], ReplayRunner(scape), factory("model"), budget=Budget(40), options=options
    )

    assert both[1].best == alone.best


def test_an_exhausted_space_ends_the_run(scape: Landscape) -> None:
    few = replace(
        scape,
        space=type(scape.space)(scape.space, scape.space.points[:25]),
        ns=scape.ns[:25],
    )
    (result,) = tune_tasks([task(few)], ReplayRunner(few), factory("model"), budget=Budget(100))

    assert result.exhausted
    assert result.trials == 25


def run(scape: Landscape, store: Memory, trials: int, **more: int | str) -> TuneResult:
    seed, policy = int(more.get("seed", 0)), str(more.get("policy", "random"))
    (result,) = tune_tasks(
        [task(scape)],
        ReplayRunner(scape),
        factory(policy),
        budget=Budget(trials),
        journal=journal(store, policy, seed),
        seed=seed,
    )
    return result


def test_the_same_command_goes_on_where_it_ended(scape: Landscape) -> None:
    store = Memory()
    first = run(scape, store, 30)
    written = len(store.records)
    again = run(scape, store, 30)
    more = run(scape, store, 50)

    assert (again.resumed, again.trials) == (30, 30)
    assert len(store.records) > written
    assert again.best == first.best
    assert again.failures == first.failures
    assert again.curve == first.curve
    assert (more.resumed, more.trials) == (30, 50)
    trials = {record.trial: record.config for record in store.records}
    assert sorted(trials) == list(range(50))
    assert len(set(trials.values())) == 50


def test_trials_of_another_policy_or_seed_are_known_but_do_not_count(scape: Landscape) -> None:
    store = Memory()
    first = run(scape, store, 30)
    other = run(scape, store, 30, policy="model")
    reseeded = run(scape, store, 30, seed=1)

    assert first.best is not None
    for later in (other, reseeded):
        assert (later.resumed, later.trials) == (0, 30)
        assert later.best is not None
        assert later.best.ns <= first.best.ns
    configs = [r.config for r in store.records]
    assert len(set(configs)) == 90


def test_records_that_no_longer_fit_the_space_are_left_alone(scape: Landscape) -> None:
    store = Memory()
    run(scape, store, 20)
    few = scape.space.points[:, 0] != scape.space.encode(store.records[0].config)[0]
    smaller = task(scape)
    space = type(scape.space)(scape.space, scape.space.points[few])
    events: list[Event] = []
    tune_tasks(
        [replace(smaller, space=space)],
        ReplayRunner(scape),
        factory("random"),
        budget=Budget(20),
        journal=journal(store),
        on_event=events.append,
    )

    assert isinstance(events[0], TaskResumed)


def test_a_failing_runner_loses_no_record(scape: Landscape) -> None:
    store = Memory()
    answered = 0

    def fail(_: MeasureRequest, outcome: Outcome) -> Outcome:
        nonlocal answered
        answered += 1
        if answered > 12:
            raise EnvironmentFailure("the device is gone")
        return outcome

    with pytest.raises(EnvironmentFailure, match="gone"):
        tune_tasks(
            [task(scape)],
            Watched(scape, slots=1, change=fail),
            factory("random"),
            budget=Budget(50),
            journal=journal(store),
        )
    assert len(store.records) == 12
    assert run(scape, store, 20).trials == 20


def test_an_interrupt_gives_what_there_is(scape: Landscape) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, TrialDone) and event.n == 20:
            raise KeyboardInterrupt

    (result,) = tune_tasks(
        [task(scape)],
        ReplayRunner(scape),
        factory("random"),
        budget=Budget(50),
        on_event=interrupt,
    )

    assert result.interrupted
    assert result.trials == 20
    assert result.best is not None


def test_a_real_store_resumes_too(scape: Landscape) -> None:
    with SqlStore("sqlite://") as store:
        for trials in (10, 25):
            (result,) = tune_tasks(
                [task(scape)],
                ReplayRunner(scape),
                factory("genetic"),
                budget=Budget(trials),
                journal=journal(store, "genetic"),
            )
        best = store.best(Query())

    assert result.resumed == 10
    assert result.best is not None
    assert [record.best_ns for record in best] == [result.best.ns]


def test_machine_failures_are_recorded_and_go_on(scape: Landscape) -> None:
    lost = Failed(FailureStage.RUN, FailureKind.WORKER_LOST, "gone")
    (result,) = tune_tasks(
        [task(scape)],
        Watched(scape, change=lambda _, __: lost),
        factory("model"),
        budget=Budget(30),
    )

    assert result.best is None
    assert result.gflops == 0
    assert result.failures == {FailureKind.WORKER_LOST: 30}


def test_the_same_seed_gives_the_same_run(scape: Landscape) -> None:
    one, two = (run(scape, Memory(), 60, policy="model", seed=4) for _ in range(2))

    assert one.curve == two.curve


@pytest.mark.parametrize(
    ("trials", "seconds", "match"),
    [(None, None, "needs a number"), (0, None, "above zero"), (None, 0.0, "above zero")],
)
def test_a_budget_needs_a_limit(trials: int | None, seconds: float | None, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Budget(trials, seconds)


def test_counts_must_fit_the_tasks(scape: Landscape) -> None:
    with pytest.raises(ConfigError, match="as many counts"):
        tune_tasks(
            [task(scape)],
            ReplayRunner(scape),
            factory("random"),
            budget=Budget(5),
            counts=[1, 2],
        )


def test_no_tasks_give_no_results(scape: Landscape) -> None:
    assert tune_tasks([], ReplayRunner(scape), factory("random"), budget=Budget(5)) == ()


@dataclass
class Doubting(Watched):
    """A runner on a device that was too slow: from one trial to another it doubts what it said."""

    factor: float = 2.0
    doubts: tuple[int, int] = (4, 12)

    def submit(self, request: MeasureRequest) -> Future[Outcome]:
        number = len(self.requests)
        future = super().submit(request)
        begin, end = self.doubts
        if number == end:  # each twice: once is enough
            for doubted in self.requests[begin:end] * 2:
                assert doubted.on_doubt is not None
                doubted.on_doubt()
        return future


def test_a_trial_whose_device_was_too_slow_is_measured_again_once_and_is_no_other_trial(
    scape: Landscape,
) -> None:
    def slowly(request: MeasureRequest, outcome: Outcome) -> Outcome:
        seen = runner.requests.index(request)
        if 4 <= seen < 12 and seen == len(runner.requests) - 1 and isinstance(outcome, Timed):
            return replace(outcome, best_ns=2 * outcome.best_ns)
        return outcome

    store, events = Memory(), list[Event]()
    runner = Doubting(scape, change=slowly)
    (result,) = tune_tasks(
        [task(scape)],
        runner,
        factory("random"),
        budget=Budget(40),
        journal=journal(store),
        on_event=events.append,
        options=TuneOptions(check=False),
    )
    doubted = [request.config for request in runner.requests[4:12]]
    done = [event for event in events if isinstance(event, TrialDone)]
    again = [event for event in done if event.recheck]

    assert result.trials == 40
    assert [event.config for event in again] == doubted
    assert len(store.records) == len(runner.requests) == 48
    for config in doubted:
        first, second = (record for record in store.records if record.config == config)
        assert first.trial == second.trial
        if first.best_ns is not None:
            assert first.best_ns == 2 * second.best_ns  # type: ignore[operator]  # timed too
    assert result.best is not None
    assert result.best.ns == min(ns_of(scape, request) for request in runner.requests)


def test_a_time_stands_although_the_second_measurement_took_too_long(scape: Landscape) -> None:
    def late(request: MeasureRequest, outcome: Outcome) -> Outcome:
        if sum(other.config == request.config for other in runner.requests) > 1:
            return Failed(FailureStage.RUN, FailureKind.RUN_TIMEOUT, "its device was slow")
        return outcome

    def spied(told: list[Trial]) -> PolicyFactory:
        def make(task: Task, rng: np.random.Generator) -> Policy:
            policy = factory("random")(task, rng)
            tell = policy.tell

            def spy(trials: Sequence[Trial]) -> None:
                told.extend(trials)
                tell(trials)

            monkey.setattr(policy, "tell", spy)
            return policy

        return make

    runner, store = Doubting(scape, change=late), Memory()
    options = TuneOptions(check=False)
    told, resumed = list[Trial](), list[Trial]()
    with pytest.MonkeyPatch.context() as monkey:
        for heard in (told, resumed):
            (result,) = tune_tasks(
                [task(scape)],
                runner,
                spied(heard),
                budget=Budget(20),
                journal=journal(store),
                options=options,
            )
            assert result.best is not None
            assert result.best.ns == min(ns_of(scape, request) for request in runner.requests)
    timed = {trial.config.key for trial in told if isinstance(trial.outcome, Timed)}
    late_keys = {trial.config.key for trial in told if isinstance(trial.outcome, Failed)}
    assert len(runner.requests) == 28
    assert not timed & late_keys
    assert resumed == told


def test_a_wrong_program_is_not_measured_again_however_slow_its_device_was(
    scape: Landscape,
) -> None:
    def wrongly(request: MeasureRequest, outcome: Outcome) -> Outcome:
        wrong = request.check and 4 <= runner.requests.index(request) < 12
        return (
            Failed(FailureStage.CHECK, FailureKind.WRONG_OUTPUT, "off by 3") if wrong else outcome
        )

    store = Memory()
    runner = Doubting(scape, slots=1, change=wrongly)
    tune_tasks(
        [task(scape)],
        runner,
        factory("random"),
        budget=Budget(40),
        journal=journal(store),
        options=TuneOptions(check_share=1.0),
    )
    wrong = [request.config for request in runner.requests[4:12]]

    assert len(store.records) == len(runner.requests) == 40
    assert all(record.best_ns is None for record in store.records if record.config in wrong)


def test_a_doubted_time_that_becomes_the_best_is_checked_first(scape: Landscape) -> None:
    best = min(float(ns) for ns in scape.ns if np.isfinite(ns))

    def slowly(request: MeasureRequest, outcome: Outcome) -> Outcome:
        configs = [each.config for each in runner.requests]
        if len(configs) < 10 or request.config != configs[9]:
            return outcome
        first = configs.count(request.config) == 1
        return Timed((), 1e9 if first else best / 2, checked=request.check)

    runner = Doubting(scape, change=slowly, doubts=(9, 10))
    options = TuneOptions(check_share=0.0)
    (result,) = tune_tasks(
        [task(scape)], runner, factory("random"), budget=Budget(20), options=options
    )
    config = runner.requests[9].config

    asked = [request.check for request in runner.requests if request.config == config]
    assert asked == [False, False, True]
    assert result.best is not None
    assert (result.best.ns, result.best.config) == (best / 2, config)


def test_nothing_is_measured_again_when_the_time_is_over(scape: Landscape) -> None:
    runner = Doubting(scape)
    tune_tasks(
        [task(scape)],
        runner,
        factory("random"),
        budget=Budget(1000, seconds=30),
        clock=lambda: 100.0 if len(runner.requests) > 12 else 0.0,
        options=TuneOptions(check=False),
    )

    assert len({request.config for request in runner.requests}) == len(runner.requests) == 13
