"""Simulated fleets keep the rules; a book with a planted mistake is caught breaking them."""

from __future__ import annotations

import math
from collections import Counter

import msgspec
import pytest

from loopwright.fleet.book.book import LeaseBook
from loopwright.fleet.book.effects import Effect, EndLease, SaveLease
from loopwright.fleet.book.events import AgentUp, Event, GiveBack, Restored, Synced, TokenOver
from loopwright.fleet.sim.simulate import simulate, variant
from loopwright.fleet.words import EndReason, Health

RUNS, STEPS = 50, 20_000


class TestSoundBook:
    def test_a_million_steps_over_many_seeds_break_no_rule(self) -> None:
        steps = checks = sessions = 0
        ended: Counter[EndReason] = Counter()
        faults: Counter[str] = Counter()
        for seed in range(RUNS):
            outcome = simulate(seed, STEPS, variant(seed))
            assert outcome.violations == (), f"seed {seed}"
            steps += outcome.steps
            checks += outcome.checks
            sessions += outcome.sessions
            ended.update(outcome.ended)
            faults.update(outcome.faults)
        assert steps >= 1_000_000
        assert checks > steps / 20
        assert sessions > 10_000
        # A run that met no fault, or in which leases end in one way alone, shows nothing.
        assert len(faults) == 17
        assert min(faults.values()) > 20
        met = {reason for reason, count in ended.items() if count}
        assert met == set(EndReason)

    def test_a_seed_is_a_run(self) -> None:
        assert simulate(7, 5_000) == simulate(7, 5_000)
        assert simulate(7, 5_000) != simulate(8, 5_000)


class Reuses(LeaseBook):
    """Begins epochs anew after a restart."""

    def apply(self, event: Event, now: float) -> tuple[Effect, ...]:
        if isinstance(event, Restored):
            rows = tuple(msgspec.structs.replace(row, epochs=0) for row in event.devices)
            event = msgspec.structs.replace(event, devices=rows)
        return super().apply(event, now)


class Hasty(LeaseBook):
    """Grants a device before it has reported."""

    def apply(self, event: Event, now: float) -> tuple[Effect, ...]:
        effects = super().apply(event, now)
        if isinstance(event, AgentUp):
            for spec in event.devices:
                device = self._state.devices[spec.name]
                device.synced, device.health = True, Health.GOOD
        return effects


class Drowsy(LeaseBook):
    """Forgets now and then to look for a request when a device becomes free."""

    def apply(self, event: Event, now: float) -> tuple[Effect, ...]:
        drowsy = isinstance(event, Synced) and event.seq % 10 == 0
        state = self._state
        if not drowsy:
            return super().apply(event, now)
        why, state.read_only = state.read_only, "asleep"
        effects = super().apply(event, now)
        state.read_only = why
        state.freed.clear()
        return effects


class Forgetful(LeaseBook):
    """Loses a lease now and then, without a word."""

    def apply(self, event: Event, now: float) -> tuple[Effect, ...]:
        effects = super().apply(event, now)
        for effect in effects:
            if isinstance(effect, SaveLease) and effect.row.epoch % 10 == 0:
                device = self._state.devices[effect.row.device]
                lease = device.lease
                if lease is not None:
                    self._state.disarm(lease)
                    del self._state.leases[lease.id]
                    lease.request.leases.remove(lease)
                    lease.request.tenant.live -= 1
                    device.lease = None
        return effects


class Repeats(LeaseBook):
    """Ends a lease twice."""

    def apply(self, event: Event, now: float) -> tuple[Effect, ...]:
        effects = super().apply(event, now)
        ends = tuple(e for e in effects if isinstance(e, EndLease))
        return effects + ends if isinstance(event, GiveBack) else effects


class Loses(LeaseBook):
    """Never trusts again a device that was being cleaned."""

    def apply(self, event: Event, now: float) -> tuple[Effect, ...]:
        effects = super().apply(event, now)
        for device in self._state.devices.values():
            if device.releasing is not None and device.top % 50 == 0:
                device.stuck = True
                device.health = Health.BAD
                device.reserved = 0
                self._state.index.set_free(device, free=False)
        return effects


class Impatient(LeaseBook):
    """Waits for no device of before."""

    def apply(self, event: Event, now: float) -> tuple[Effect, ...]:
        effects = super().apply(event, now)
        self._state.settling_until = -math.inf
        return effects


class Mute(LeaseBook):
    """Says nothing of leases that only a device knows."""

    def apply(self, event: Event, now: float) -> tuple[Effect, ...]:
        effects = super().apply(event, now)
        return tuple(e for e in effects if not isinstance(e, EndLease) or e.tenant)


class Amnesic(LeaseBook):
    """Does not know after a start which leases ended before."""

    def apply(self, event: Event, now: float) -> tuple[Effect, ...]:
        if isinstance(event, Restored):
            event = msgspec.structs.replace(event, ended=())
        return super().apply(event, now)


class Callous(LeaseBook):
    """Takes a client whose connection is gone for dead, whatever its session says."""

    def apply(self, event: Event, now: float) -> tuple[Effect, ...]:
        for device in self._state.devices.values():
            device.open = 0
            if device.lease is not None and device.lease.request.away_since < now:
                device.lease.gone_since = device.lease.request.away_since
        return super().apply(event, now)


class Lenient(LeaseBook):
    """Ends with a token only what waits."""

    def apply(self, event: Event, now: float) -> tuple[Effect, ...]:
        if isinstance(event, TokenOver):
            event = TokenOver("", event.why)
        return super().apply(event, now)


class TestPlantedMistakes:
    @pytest.mark.parametrize(
        ("book", "caught"),
        [
            (Reuses, "granted after"),
            (Hasty, "granted before it reported"),
            (Drowsy, "waits while"),
            (Forgetful, "while leased as"),
            (Repeats, "after released"),
            (Loses, "did not come back"),
            (Impatient, "refused while devices may come back"),
            (Mute, "was reported and has no end"),
            (Amnesic, "ended as revoked after"),
            (Callous, "is lost while its session is open"),
            (Lenient, "outlives its token"),
        ],
    )
    def test_the_checker_finds_it(self, book: type[LeaseBook], caught: str) -> None:
        found: list[str] = []
        for seed in range(24):
            found += simulate(seed, 6_000, variant(seed), book).violations
            if any(caught in violation for violation in found):
                return
        pytest.fail(f"not caught: {found[:5]}")
