"""Group commit: what many events want durable goes into one transaction.

A commit that waits for nothing (`Pace.PROMPT`: leases and the log, in SQLite) is made in the event
loop, after all that came in one turn of it, which saves the way to a thread and back.
All others are made in a thread of its own, and so is a prompt one that finds the store locked, or
any for a while after one has taken long. A disk that stops answering can thus hold up the loop
once, which looks like a pause of the process: agents' silence meanwhile counts for nothing.

Nobody hears of a grant that a crash could undo: what an event with a SaveLease has to tell waits
for the commit, and so does what is told later to the same client or agent, so that the order is
kept. All else goes out at once. When the store fails, the leases that were not saved are named to
the book in a StoreDown, and what they had to tell is dropped; whatever else was to be saved is
kept and tried again until it is, then the book hears StoreUp.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, get_args

from loopwright.errors import LoopwrightError
from loopwright.fleet.book.effects import (
    Effect,
    EndLease,
    Note,
    ReserveEpochs,
    SaveLease,
    TellDesired,
    TellGranted,
    TellQueued,
    TellRefused,
    TellReleased,
    TellRenewed,
    TellSuperseded,
)
from loopwright.fleet.book.events import EpochsReserved, Event, StoreDown, StoreUp
from loopwright.fleet.store.rows import (
    Change,
    ChangeBatch,
    Pace,
    StoreBusyError,
    StoreError,
    StoreFencedError,
    TrackerStore,
)
from loopwright.fleet.tracker.config import TrackerConfig

Tell: TypeAlias = (
    TellQueued
    | TellGranted
    | TellRefused
    | TellRenewed
    | TellReleased
    | TellDesired
    | TellSuperseded
)
_TELLS = frozenset(get_args(Tell))
_KEPT_EVENTS = 20_000
_LONG_S = 0.05  # a prompt commit that took longer has met a slow disk, or a busy machine
_CALM = 20  # times as long as it took, commits are made in the thread


@dataclass(frozen=True, slots=True)
class CommitHooks:
    """What the committer calls, in the loop.

    `tell` carries an effect out; `noted` gets every Note and EndLease as they come and returns
    nothing or a change for the log; `happened` is `Tracker.happened`; `fenced` ends the tracker.
    """

    tell: Callable[[Tell], None]
    noted: Callable[[Note | EndLease], Change | None]
    happened: Callable[[Event], None]
    fenced: Callable[[StoreFencedError], None]


@dataclass(slots=True, eq=False)
class _Work:
    """What goes into one transaction, and what waits for it.

    Changes of `asked` are a command's: if they cannot be saved they are forgotten, and it fails.
    """

    batch: ChangeBatch = field(default_factory=ChangeBatch)
    leases: list[str] = field(default_factory=list)
    tells: list[Tell] = field(default_factory=list)
    asked: list[tuple[Sequence[Change], asyncio.Future[None]]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.tells or self.asked or self.batch)

    def whole(self) -> ChangeBatch:
        """All changes."""
        if not self.asked:
            return self.batch
        batch = ChangeBatch()
        batch.extend(self.batch)
        for changes, _ in self.asked:
            for change in changes:
                batch.add(change)
        return batch


class Committer:
    """Carries out effects, after what must be durable before them is. All methods: in the loop."""

    def __init__(self, store: TrackerStore, config: TrackerConfig, hooks: CommitHooks) -> None:
        self.down = ""  # why the store cannot be written, if it cannot
        self.commits = 0
        self.failures = 0
        self._store = store
        self._config = config
        self._hooks = hooks
        self._loop = asyncio.get_running_loop()
        self._next = _Work()
        self._flying: _Work | None = None
        self._held: Counter[str] = Counter()  # client or agent -> tells that wait
        self._kick: asyncio.Handle | None = None
        self._soon = False
        self._watch: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._wait_s = config.retry_s
        self._hung = False
        self._idle: list[asyncio.Future[None]] = []
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None], Callable[[object], None]] | None]
        self._jobs = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._calm_at = 0.0  # from then on commits may be made in the loop

    @property
    def waiting(self) -> int:
        """Effects that wait for the store."""
        return sum(self._held.values())

    @property
    def imminent(self) -> bool:
        """Whether a commit for which somebody waits is made next."""
        return self._kick is not None and self._soon

    def put(self, effects: Sequence[Effect]) -> None:
        """Carry out what one event brought about."""
        work, gate, soon = self._next, False, False
        batch = work.batch
        tells: list[Tell] = []
        for effect in effects:
            kind = type(effect)
            if kind in _TELLS:
                tells.append(effect)  # type: ignore[arg-type]  # it is one
                continue
            if kind is not Note:
                batch.add(effect)  # type: ignore[arg-type]  # all others are changes
            if kind is SaveLease:
                gate = True
                work.leases.append(effect.row.lease)  # type: ignore[union-attr]
            elif kind is EndLease or kind is Note:
                logged = self._hooks.noted(effect)  # type: ignore[arg-type]  # it is one of the two
                if logged is not None:
                    batch.add(logged)
            elif kind is ReserveEpochs:
                soon = True
        for tell in tells:
            self._pass_on(tell, gate=gate)
        if work:
            self._wake(soon=gate or soon)

    def log(self, change: Change) -> None:
        """Save something that nobody waits for."""
        self._next.batch.add(change)
        self._wake(soon=False)

    def save(self, changes: Sequence[Change]) -> asyncio.Future[None]:
        """A future that is done when `changes` are durable.

        It fails with StoreError when they cannot be made so; then they never will be.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        if self.down:
            future.set_exception(StoreError(self.down, retryable=True))
            return future
        self._next.asked.append((changes, future))
        self._wake(soon=True)
        return future

    async def idle(self) -> None:
        """Wait until nothing is left to be saved, or the store fails.

        Raises: StoreError in the second case.
        """
        while self._next or self._flying is not None:
            if self.down:
                raise StoreError(self.down, retryable=True)
            future: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(future)
            self._wake(soon=True)
            await future
        if self.down:
            raise StoreError(self.down, retryable=True)

    def close(self) -> None:
        """End the thread; what is still unsaved is lost."""
        for handle in (self._kick, self._watch, self._retry):
            if handle is not None:
                handle.cancel()
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join(self._config.commit_s)

    # --- order ---

    def _pass_on(self, tell: Tell, *, gate: bool) -> None:
        kind = type(tell)
        if kind is TellRenewed and not gate:
            self._hooks.tell(tell)  # of a lease that is known: nothing it could overtake matters
            return
        party = _party(tell)
        if gate or party in self._held:
            self._held[party] += 1
            self._next.tells.append(tell)
        else:
            self._hooks.tell(tell)

    def _release(self, work: _Work) -> None:
        """Carry out what waited."""
        held, tell = self._held, self._hooks.tell
        for waiting in work.tells:
            party = _party(waiting)
            if held[party] == 1:
                del held[party]
            else:
                held[party] -= 1
            tell(waiting)

    # --- commits ---

    def _wake(self, *, soon: bool) -> None:
        """Make sure that what waits is committed: in this turn of the loop, or a little later."""
        if self._flying is not None or self.down or (self._kick is not None and not soon):
            return
        if self._store.pace(self._next.batch) is Pace.INSTANT:
            self._start()
            return
        if self._kick is not None:
            if self._soon:
                return
            self._kick.cancel()
        self._soon = soon
        if soon:
            self._kick = self._loop.call_soon(self._start)
        else:
            self._kick = self._loop.call_later(self._config.gather_s, self._start)

    def _start(self) -> None:
        self._kick = None
        if self._flying is not None or self.down:
            return
        if not self._next:
            self._tell_idle()
            return
        work, self._next = self._next, _Work()
        self._flying = work
        batch = work.whole()
        pace = self._store.pace(batch)
        if pace is Pace.INSTANT:
            self._done(work, self._try(lambda: self._store.commit(batch)))
            return
        if pace is Pace.PROMPT and self._calm_at <= (begin := time.monotonic()):
            error = self._try(lambda: self._store.commit(batch, wait=False))
            if (took := time.monotonic() - begin) > _LONG_S:
                self._calm_at = begin + _CALM * took
            if not isinstance(error, StoreBusyError):
                self._done(work, error)
                return
        self._watch = self._loop.call_later(self._config.commit_s, self._too_long, work)
        self._in_thread(lambda: self._store.commit(batch), lambda error: self._done(work, error))

    def _done(self, work: _Work, error: object) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._hung:
            self._hung = False
            self._try_again()
            return
        self._flying = None
        if isinstance(error, StoreError):
            self._fail(work, error)
            return
        self.commits += 1
        self._release(work)
        for _, future in work.asked:
            if not future.done():
                future.set_result(None)
        for device, upto in work.batch.epochs.items():
            self._hooks.happened(EpochsReserved(device, upto))
        if self._next:
            self._wake(soon=True)
        else:
            self._tell_idle()

    def _tell_idle(self) -> None:
        waiting, self._idle = self._idle, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    # --- failure ---

    def _too_long(self, work: _Work) -> None:
        self._watch = None
        self._hung = True
        self._flying = None
        said = f"the store did not answer for {self._config.commit_s:g} s; check its disk or server"
        self._fail(work, StoreError(said, retryable=True))

    def _fail(self, work: _Work, error: StoreError) -> None:
        """Nothing of `work` counts, nor of what came meanwhile."""
        self.failures += 1
        later, self._next = self._next, _Work()
        self._next.batch = work.batch
        self._next.batch.extend(later.batch)
        self._forget_saved(work.leases + later.leases)
        self.down = str(error)
        for _, future in work.asked + later.asked:
            if not future.done():
                future.set_exception(StoreError(self.down, retryable=True))
        tells = work.tells + later.tells
        self._held.clear()
        if isinstance(error, StoreFencedError):
            self._tell_idle()
            self._hooks.fenced(error)
            return
        lost = (*work.leases, *later.leases)
        for tell in tells:
            if not _undone(tell, lost):
                self._hooks.tell(tell)
        self._hooks.happened(StoreDown(self.down, lost))
        self._tell_idle()
        self._later()

    def _forget_saved(self, leases: Sequence[str]) -> None:
        kept = self._next.batch
        for lease in leases:
            kept.leases[lease] = None  # it may be there after all
        del kept.events[:-_KEPT_EVENTS]

    def _later(self) -> None:
        if self._hung or self._retry is not None:
            return
        self._retry = self._loop.call_later(self._wait_s, self._try_again)
        self._wait_s = min(2 * self._wait_s, self._config.retry_max_s)

    def _try_again(self) -> None:
        """Reopen the store and save all that is unsaved."""
        self._retry = None
        work, self._next = self._next, _Work()
        del work.batch.events[:-_KEPT_EVENTS]

        def attempt() -> None:
            self._store.reopen()
            self._store.commit(work.batch)

        if self._store.pace(work.batch) is Pace.INSTANT:
            self._tried(work, self._try(attempt))
        else:
            self._in_thread(attempt, lambda error: self._tried(work, error))

    def _tried(self, work: _Work, error: object) -> None:
        if isinstance(error, StoreError):
            self.failures += 1
            later, self._next = self._next, work
            self._next.batch.extend(later.batch)
            self.down = str(error)
            if isinstance(error, StoreFencedError):
                self._hooks.fenced(error)
            else:
                self._later()
            return
        self.commits += 1
        self.down = ""
        self._wait_s = self._config.retry_s
        for device, upto in work.batch.epochs.items():
            self._hooks.happened(EpochsReserved(device, upto))
        self._hooks.happened(StoreUp())
        if self._next:
            self._wake(soon=True)

    # --- the thread ---

    def _try(self, job: Callable[[], None]) -> StoreError | None:
        try:
            job()
        except StoreError as error:
            return error
        except LoopwrightError as error:
            return StoreError(str(error))
        except Exception as error:  # noqa: BLE001  # the boundary of the thread: the store failed
            return StoreError(f"the store failed: {type(error).__name__}: {error}")
        return None

    def _in_thread(self, work: Callable[[], None], then: Callable[[object], None]) -> None:
        """Run `work` outside the loop, then call `then` in it with the error or None."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tracker-commit", daemon=True)
            self._thread.start()
        self._jobs.put((work, then))

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, then = job
            error = self._try(work)
            try:
                self._loop.call_soon_threadsafe(then, error)
            except RuntimeError:  # the loop is closed: nobody is left to tell
                return


def _undone(tell: Tell, lost: Sequence[str]) -> bool:
    """Whether nobody may hear of it: a grant of leases that are lost, or orders, which come again.

    A grant of leases that were saved before, which waited its turn, is told.
    """
    if isinstance(tell, TellGranted):
        return any(given.lease in lost for given in tell.given)
    return isinstance(tell, TellDesired)


def _party(tell: Tell) -> str:
    """Whom an effect is for."""
    if type(tell) is TellDesired or type(tell) is TellSuperseded:
        return tell.agent
    return tell.client  # type: ignore[union-attr]  # all but those two have a client
