"""What a device makes of tickets, orders and time, without I/O."""

from __future__ import annotations

import pytest

from loopwright.errors import FleetError
from loopwright.fleet.agent.standing import NEVER, Standing
from loopwright.fleet.security.tickets import Ticket, check_ticket
from loopwright.fleet.wire.faults import Denied
from loopwright.fleet.wire.messages import DeviceOrder
from loopwright.fleet.words import EndReason

OPEN_S = 10.0


def ticket(epoch: int, lease: str | None = None, ttl_ms: int = 1000, boot: str = "b") -> Ticket:
    return Ticket(lease or f"l{epoch}", "h/d", boot, epoch, "t", (), ttl_ms)


def order(epoch: int = 0, ttl_ms: int = 1000, **more: object) -> DeviceOrder:
    lease = f"l{epoch}" if epoch else ""
    return DeviceOrder(name="h/d", lease=lease, epoch=epoch, ttl_ms=ttl_ms, admin="enabled", **more)  # type: ignore[arg-type]


@pytest.fixture
def standing() -> Standing:
    made = Standing("h/d", "b")
    made.accept(ticket(5), 100.0)
    return made


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (ticket(4), "epoch 4 of h/d is over"),
        (ticket(5, "other"), "lease other on h/d has ended"),
        (ticket(9, boot="before"), "has started anew"),
    ],
)
def test_an_old_ticket_is_refused(standing: Standing, shown: Ticket, words: str) -> None:
    with pytest.raises(Denied, match=words):
        check_ticket(shown, standing.state)


def test_the_same_ticket_opens_again_and_lives_no_longer(standing: Standing) -> None:
    check_ticket(ticket(5), standing.state)
    standing.accept(ticket(5), 100.9)

    assert standing.deadline == 101.0


def test_a_higher_epoch_is_accepted(standing: Standing) -> None:
    check_ticket(ticket(6), standing.state)
    standing.accept(ticket(6), 100.5)

    assert (standing.lease, standing.epoch, standing.deadline) == ("l6", 6, 101.5)


def test_a_lease_expires_at_its_deadline_once_and_its_ticket_with_it(standing: Standing) -> None:
    assert standing.due == 101.0
    assert standing.tick(100.999) is None
    ended = standing.tick(101.0)
    assert ended is not None
    assert ended.reason is EndReason.EXPIRED
    assert standing.tick(102.0) is None
    assert standing.due == NEVER
    with pytest.raises(Denied, match="has expired"):
        check_ticket(ticket(5), standing.state)


def test_an_order_for_the_lease_gives_it_time(standing: Standing) -> None:
    assert standing.order(order(5, ttl_ms=3000), 100.5, OPEN_S) is None

    assert standing.deadline == 103.5


def test_an_order_of_before_changes_nothing(standing: Standing) -> None:
    assert standing.order(order(4, fence=3), 100.5, OPEN_S) is None

    assert (standing.lease, standing.deadline) == ("l5", 101.0)


def test_a_fence_ends_the_session_and_refuses_its_ticket(standing: Standing) -> None:
    ended = standing.order(order(fence=5, kill=True, why="revoked"), 100.5, OPEN_S)

    assert ended is not None
    assert ended.reason is EndReason.REVOKED
    with pytest.raises(Denied):
        check_ticket(ticket(5), standing.state)
    check_ticket(ticket(6), standing.state)


def test_a_fence_below_a_session_leaves_it_alone(standing: Standing) -> None:
    assert standing.order(order(fence=4, kill=True), 100.5, OPEN_S) is None
    assert standing.lease == "l5"


def test_a_newer_grant_ends_the_older_session_and_is_kept_for_a_while(standing: Standing) -> None:
    ended = standing.order(order(6, ttl_ms=60_000, fence=5), 100.5, OPEN_S)

    assert ended is not None
    assert standing.reserved == "l6"
    assert standing.due == 110.5
    assert standing.tick(110.5) is None
    assert standing.reserved == ""
    check_ticket(ticket(6), standing.state)


def test_the_reason_of_an_order_is_told(standing: Standing) -> None:
    ended = standing.order(order(fence=5, why="preempted"), 100.5, OPEN_S)

    assert ended is not None
    assert ended.reason is EndReason.PREEMPTED


def test_a_lease_that_is_to_be_yielded_ends_as_preempted_at_its_deadline(
    standing: Standing,
) -> None:
    standing.order(order(5, ttl_ms=1000, why="preempted"), 100.0, OPEN_S)
    ended = standing.tick(101.0)

    assert ended is not None
    assert ended.reason is EndReason.PREEMPTED


def test_one_that_is_renewed_after_all_ends_as_expired(standing: Standing) -> None:
    standing.order(order(5, ttl_ms=1000, why="preempted"), 100.0, OPEN_S)
    standing.order(order(5, ttl_ms=1000), 100.5, OPEN_S)
    ended = standing.tick(101.5)

    assert ended is not None
    assert ended.reason is EndReason.EXPIRED


def test_epochs_never_go_back(standing: Standing) -> None:
    seen = [standing.last_epoch]
    for epoch, fence in ((3, 0), (0, 9), (7, 2), (12, 11), (0, 1)):
        standing.order(order(epoch, fence=fence, kill=bool(fence)), 100.5, OPEN_S)
        seen.append(standing.last_epoch)

    assert seen == sorted(seen)


def test_a_word_of_a_newer_tracker_is_refused_and_changes_nothing(standing: Standing) -> None:
    newer = DeviceOrder(
        name="h/d", lease="", epoch=0, ttl_ms=1000, admin="asleep", fence=5, kill=True
    )

    with pytest.raises(FleetError, match=r"wants h/d 'asleep'.*update this agent"):
        standing.order(newer, 100.5, OPEN_S)

    assert standing.lease == "l5"
