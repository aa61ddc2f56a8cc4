from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from loopwright.records.curve import curves

if TYPE_CHECKING:
    from conftest import MakeRecord


def test_a_curve_is_the_best_so_far_in_the_order_of_trials(make_record: MakeRecord) -> None:
    records = [make_record(n, ns) for n, ns in enumerate([None, 1000.0, 2000.0, 500.0])]
    (curve,) = curves(list(reversed(records)))
    assert curve.policy == "model"
    assert curve.gflops.tolist() == [[0.0, 2000.0, 2000.0, 4000.0]]


def test_runs_of_a_policy_are_the_rows_and_a_shorter_one_keeps_its_last_value(
    make_record: MakeRecord,
) -> None:
    long = [make_record(n, ns) for n, ns in enumerate([1000.0, 500.0, 250.0])]
    short = [dataclasses.replace(make_record(0, 2000.0), seed=8)]
    (curve,) = curves([*long, *short])
    assert curve.gflops.tolist() == [[2000.0, 4000.0, 8000.0], [1000.0, 1000.0, 1000.0]]
    np.testing.assert_array_equal(curve.median, [1500.0, 2500.0, 4500.0])


def test_of_a_trial_that_was_measured_twice_the_later_record_counts(
    make_record: MakeRecord,
) -> None:
    first, again = make_record(0, 500.0), make_record(0, None)
    (curve,) = curves([first, again, make_record(1, 1000.0)])
    assert curve.gflops.tolist() == [[0.0, 2000.0]]


def test_policies_and_tasks_have_curves_of_their_own(make_record: MakeRecord) -> None:
    random = dataclasses.replace(make_record(0), policy="random")
    found = curves([make_record(0), make_record(0, threads=2), random])
    assert [(c.key.threads, c.policy) for c in found] == [(1, "model"), (1, "random"), (2, "model")]
