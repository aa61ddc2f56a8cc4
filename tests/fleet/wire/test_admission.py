"""In which order half-open connections are served: a law over whatever happens, and the cases."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from loopwright.fleet.wire.admission import Admission, AdmissionLimits
from loopwright.fleet.wire.faults import Fault

LIMITS = AdmissionLimits(
    total=4,
    per_host=2,
    crowded=3,
    waiting=5,
    speak_s=0.5,
    silent_s=3.0,
    served_s=3.0,
    waiting_s=10.0,
)
HOSTS = ("a", "b", "c", "")


@dataclass(eq=False)
class One:
    host: str
    came: float = 0.0
    deadline: float = 0.0


def spoken(admission: Admission[One], *hosts: str, now: float = 0.0) -> list[One]:
    """Guests that have come and spoken."""
    guests = [One(host) for host in hosts]
    for guest in guests:
        admission.came(guest, now)
        assert admission.spoke(guest, now)
    return guests


def served(admission: Admission[One], now: float = 0.0) -> list[One]:
    """All that can be served now."""
    found = []
    while (guest := admission.next(now)) is not None:
        found.append(guest)
    return found


def test_a_host_with_its_share_waits_and_keeps_no_other_waiting() -> None:
    admission: Admission[One] = Admission(LIMITS)
    first, second, third, other = spoken(admission, "a", "a", "a", "b")
    assert served(admission) == [first, second, other]
    assert third in admission.guests
    assert not admission.silent(third)
    admission.left(other)
    assert served(admission) == []
    admission.left(first)
    assert served(admission) == [third]


def test_this_machine_has_no_share_of_its_own_but_the_whole() -> None:
    admission: Admission[One] = Admission(LIMITS)
    guests = spoken(admission, "", "", "", "", "")
    assert served(admission) == guests[:4]
    admission.left(guests[2])
    assert served(admission) == guests[4:]


def test_newcomers_take_the_place_of_the_silent_and_of_nobody_else() -> None:
    admission: Admission[One] = Admission(LIMITS)
    spoken(admission, "a", "a", "b", "b")
    served(admission)
    silent = [One(host) for host in ("a", "a", "a", "c", "", "")]
    for at, guest in enumerate(silent):
        admission.came(guest, at / 10)
    # The third of one host, and the fifth of all: the oldest of them has time for its first bytes.
    assert [guest.deadline for guest in silent] == [0.5, 0.6, 3.2, 3.3, 3.4, 3.5]
    assert admission.overdue(0.5) == silent[:1]
    assert admission.fault_of(silent[0]) is Fault.PER_HOST
    assert admission.fault_of(silent[1]) is Fault.EVICTED
    assert admission.spoke(silent[0], 0.5)  # it was in time
    assert admission.overdue(1.0) == silent[1:2]
    assert all(admission.silent(guest) for guest in silent[1:])


def test_of_very_many_silent_ones_the_oldest_goes_at_once() -> None:
    admission: Admission[One] = Admission(LIMITS)
    guests = [One("") for _ in range(4 + 3 + 2)]
    for at, guest in enumerate(guests):
        admission.came(guest, at / 100)
    assert admission.overdue(0.08) == guests[:1]
    assert admission.oldest_silent() is guests[0]


def test_who_finds_no_room_to_wait_is_told_at_once() -> None:
    admission: Admission[One] = Admission(LIMITS)
    spoken(admission, *["a"] * 5)
    late = One("a")
    admission.came(late, 0.0)
    assert not admission.spoke(late, 0.0)
    assert len(admission) == 5


def test_time_begins_anew_when_one_is_served() -> None:
    admission: Admission[One] = Admission(LIMITS)
    *_, waits = spoken(admission, "a", "a", "a", now=1.0)
    first, second = served(admission, 1.0)
    assert (admission.due, waits.deadline) == (4.0, 11.0)
    assert admission.overdue(4.0) == [first, second]
    for guest in (first, second):
        admission.left(guest)
    assert served(admission, 5.0) == [waits]
    assert waits.deadline == 8.0


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["comes", "speaks", "leaves", "time"]),
            st.sampled_from(HOSTS),
            st.integers(0, 9),
        ),
        max_size=60,
    )
)
def test_whatever_happens_nobody_waits_who_could_be_served_and_nobody_is_put_out(
    steps: list[tuple[str, str, int]],
) -> None:
    admission: Admission[One] = Admission(LIMITS)
    now, at_work, waiting, silent = 0.0, [], [], []  # type: ignore[var-annotated]
    for what, host, number in steps:
        if what == "comes":
            silent.append(One(host))
            admission.came(silent[-1], now)
        elif what == "speaks" and silent:
            guest = silent.pop(number % len(silent))
            if admission.spoke(guest, now):
                waiting.append(guest)
        elif what == "leaves" and at_work:
            admission.left(at_work.pop(number % len(at_work)))
        elif what == "time":
            now += number / 4
        for late in admission.overdue(now):
            group = next(group for group in (silent, waiting, at_work) if late in group)
            assert late.deadline <= now
            if group is silent:  # nobody is put out before it could speak, but for very many
                assert now >= late.came + LIMITS.speak_s or len(silent) > LIMITS.crowded
            group.remove(late)
            admission.left(late)
        for guest in served(admission, now):
            waiting.remove(guest)
            at_work.append(guest)
        shares = Counter(guest.host for guest in at_work if guest.host)
        assert len(at_work) <= LIMITS.total
        assert max(shares.values(), default=0) <= LIMITS.per_host
        for guest in waiting:
            full = len(at_work) == LIMITS.total
            assert full or (guest.host and shares[guest.host] == LIMITS.per_host)
        assert set(admission.guests) == {*silent, *waiting, *at_work}
        deadlines = [guest.deadline for guest in admission.guests]
        assert admission.due == min(deadlines, default=None)
        assert len(silent) <= LIMITS.total + LIMITS.crowded + 1
