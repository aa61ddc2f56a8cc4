"""The book does what a small, slow model of its rules does, whatever happens in whatever order."""

from __future__ import annotations

from fleet_model import CONFIG, NEVER, Model, ModelAgent, ModelDevice, ModelLease, ModelRequest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from loopwright.fleet.book.book import LeaseBook
from loopwright.fleet.book.effects import (
    Effect,
    EndLease,
    ReserveEpochs,
    TellGranted,
    TellRefused,
    TellRenewed,
)
from loopwright.fleet.book.events import (
    AdminSet,
    AgentDown,
    AgentUp,
    Cancelled,
    ClientDown,
    DeviceRow,
    DeviceSpec,
    EpochsReserved,
    Event,
    GiveBack,
    Renewal,
    ReportedState,
    Requested,
    Restored,
    Revoked,
    StoreDown,
    StoreUp,
    Synced,
    Tick,
    TokenOver,
)
from loopwright.fleet.request import LeaseRequest
from loopwright.fleet.words import (
    Admin,
    EndReason,
    Health,
    LinkState,
    Occupancy,
    Refusal,
    Role,
    Verdict,
)

AGENTS = ("a", "b")
SELECTORS = ("", "board=x", "board=y", "board!=x", "name=a/0", "board in (x,y)")
REASONS = frozenset(EndReason)


class BookMachine(RuleBasedStateMachine):
    """Tells the book and the model the same."""

    def __init__(self) -> None:
        super().__init__()
        self.book = LeaseBook(CONFIG)
        self.model = Model(CONFIG)
        self.owed: list[ReserveEpochs] = []
        self.tops: dict[str, int] = {}
        for agent in AGENTS:
            self.model.agents[agent] = ModelAgent(agent)
            for number in range(2):
                name = f"{agent}/{number}"
                labels = {"board": "xy"[number], "name": name}
                self.model.devices[name] = ModelDevice(name, agent, labels)

    @initialize(kept=st.booleans(), here=st.sampled_from([AGENTS, AGENTS[:1], ()]))
    def begin(self, *, kept: bool, here: tuple[str, ...]) -> None:
        """With nothing kept all agents start, else some, and the others perhaps later."""
        if kept:
            self.model.restored()
            for device in self.model.devices.values():
                device.top = device.reserved = self.tops[device.name] = 40
            rows = tuple(DeviceRow(name, 40, Admin.ENABLED) for name in self.model.devices)
            self.tell(Restored((), rows, AGENTS))
        for agent in here if kept else AGENTS:
            self.start(agent)
        self.store_answers()
        for agent in AGENTS:
            self.report(agent)

    # --- telling ---

    def tell(
        self,
        event: Event,
        ended: set[tuple[str, EndReason]] = frozenset(),  # type: ignore[assignment]
    ) -> tuple[Effect, ...]:
        """Apply an event; besides what time ends, exactly the leases `ended` end."""
        model = self.model
        effects = self.book.apply(event, model.now)
        ends = {(e.lease, e.reason) for e in effects if isinstance(e, EndLease)}
        assert ends == ended, (ends, ended, event)
        for effect in effects:
            if isinstance(effect, ReserveEpochs):
                self.owed.append(effect)
            elif isinstance(effect, TellGranted):
                self.granted(effect)
        return effects

    def granted(self, effect: TellGranted) -> None:
        model = self.model
        request = model.waiting.pop(effect.request, None)
        if request is None:  # a request that was granted before was asked again
            known = {lease.id for lease in model.leases.values() if lease.request == effect.request}
            assert {given.lease for given in effect.given} == known != set()
            return
        assert model.servable(request)
        assert len({given.device for given in effect.given}) == request.count
        if request.count == 1:
            self._goes_first(request, model.devices[effect.given[0].device])
        for given in effect.given:
            device = model.devices[given.device]
            assert model.grantable(device)
            assert device in model.fitting(request)
            assert given.epoch > self.tops.get(given.device, 0)
            assert given.incarnation == str(model.agents[device.agent].incarnation)
            assert given.lease not in model.leases
            self.tops[given.device] = device.top = given.epoch
        for given in effect.given:
            model.leases[given.lease] = ModelLease(
                given.lease,
                request.id,
                given.device,
                given.epoch,
                request.tenant,
                request.client,
                model.now,
                model.now + min(request.ttl, model.lease_time(request)),
                request.ttl,
                model.now + model.lease_time(request),
            )

    def _goes_first(self, request: ModelRequest, device: ModelDevice) -> None:
        """No other request that could have had the device goes before this one."""
        model = self.model
        for other in model.waiting.values():
            if device in model.fitting(other) and model.servable(other):
                assert model.rank(other) <= model.rank(request)
                if other.tenant == request.tenant and model.rank(other) == model.rank(request):
                    assert other.count != request.count or other.seq > request.seq

    def catch_up(self) -> None:
        """Let what time ends end, now."""
        ended, gone = self.model.pass_time()
        effects = self.tell(Tick(), ended)
        refused = {(e.request, e.code) for e in effects if isinstance(e, TellRefused)}
        assert refused == gone

    # --- time ---

    @rule(seconds=st.sampled_from([0.5, 1.5, 4.0, 7.0, 12.0, 31.0]))
    def wait(self, seconds: float) -> None:
        model = self.model
        until = model.now + seconds
        while model.now < until:
            due = self.book.deadline
            times = [*model.moments(), until]
            if due is not None:
                times.append(max(due, model.now))  # a timer set to the time that it is now
            model.now = min(times)
            self.catch_up()

    @rule(seconds=st.sampled_from([2, 4, 8, 12, 30]))
    def work_on(self, seconds: int) -> None:
        """Time passes while agents report."""
        for _ in range(0, seconds, 2):
            self.wait(2.0)
            for agent in AGENTS:
                self.report(agent)

    @rule()
    def mend(self) -> None:
        """All that is broken is whole again."""
        self.store_recovers()
        self.store_answers()
        for device in self.model.devices.values():
            device.well = Health.GOOD
            device.cleaning = False
            if device.admin is not Admin.ENABLED:
                self.set_admin(device.name, Admin.ENABLED)
        for agent in AGENTS:
            self.report(agent)

    # --- agents and devices ---

    @rule(agent=st.sampled_from(AGENTS))
    def start(self, agent: str) -> None:
        """A new process of an agent."""
        model, one = self.model, self.model.agents[agent]
        ended = model.lose_agent(one)
        one.incarnation += 1
        one.seq = 0
        self._up(one, ended)

    @rule(agent=st.sampled_from(AGENTS))
    def reconnect(self, agent: str) -> None:
        one = self.model.agents[agent]
        if one.incarnation:
            for device in self.model.devices.values():
                if device.agent == agent:
                    device.synced = False
            self._up(one, set())

    def _up(self, one: ModelAgent, ended: set[tuple[str, EndReason]]) -> None:
        model = self.model
        one.registered, one.heard, one.down = True, model.now, NEVER
        mine = [device for device in model.devices.values() if device.agent == one.name]
        for device in mine:
            device.known = True
        settling = model.settling
        model.missed -= {one.name, *(device.name for device in mine)}
        hopeless = model.hopeless() if settling and not model.settling else set()
        specs = tuple(DeviceSpec(device.name, device.labels) for device in mine)
        effects = self.tell(AgentUp(one.name, str(one.incarnation), specs), ended)
        codes = {(e.request, e.code) for e in effects if isinstance(e, TellRefused)}
        assert codes == {(request, Refusal.UNSATISFIABLE) for request in hopeless}

    @rule(agent=st.sampled_from(AGENTS))
    def hang_up(self, agent: str) -> None:
        one = self.model.agents[agent]
        if one.registered and one.link(self.model.now, CONFIG) is not LinkState.LOST:
            one.down = self.model.now
            self.tell(AgentDown(agent, str(one.incarnation)))

    @rule(agent=st.sampled_from(AGENTS))
    def report(self, agent: str) -> None:
        model, one = self.model, self.model.agents[agent]
        if not one.registered:
            return
        one.seq += 1
        reports = []
        ended: set[tuple[str, EndReason]] = set()
        one.heard, one.down = model.now, NEVER
        for device in model.devices.values():
            if device.agent != agent:
                continue
            occupancy = Occupancy.IDLE
            if device.session:
                occupancy = Occupancy.ACTIVE
            elif device.cleaning:
                occupancy = Occupancy.CLEANING
            reports.append(
                ReportedState(
                    device=device.name,
                    occupancy=occupancy,
                    health=device.well,
                    lease="",
                    epoch=device.session,
                    last_epoch=device.last,
                )
            )
            ended |= model.told(device, occupancy)
        self.tell(Synced(agent, str(one.incarnation), one.seq, tuple(reports)), ended)

    @rule(agent=st.sampled_from(AGENTS))
    def repeat_an_old_report(self, agent: str) -> None:
        one = self.model.agents[agent]
        if one.seq == 0:
            return
        idle = tuple(
            ReportedState(device=device.name, occupancy=Occupancy.IDLE, health=Health.GOOD)
            for device in self.model.devices.values()
            if device.agent == agent
        )
        self.tell(Synced(agent, str(one.incarnation), one.seq, idle))

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        self._open(self._lease(data))

    def _open(self, lease: ModelLease) -> ModelDevice:
        device = self.model.devices[lease.device]
        if lease.epoch > device.last:
            device.session = device.last = lease.epoch
            device.cleaning = False
        return device

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), done=st.booleans())
    def use(self, data: st.DataObject, *, done: bool) -> None:
        """A lease is opened and its agent says so; with `done` it is given back after that."""
        lease = self._lease(data)
        device = self._open(lease)
        self.report(device.agent)
        if done and lease.id in self.model.leases:
            self.model.end(lease)
            ended = {(lease.id, EndReason.RELEASED)}
            self.tell(GiveBack(lease.id, lease.epoch, lease.client, lease.tenant), ended)

    @rule(name=st.sampled_from(["a/0", "a/1", "b/0"]), clean=st.booleans())
    def finish(self, name: str, *, clean: bool) -> None:
        device = self.model.devices[name]
        if device.session or device.cleaning:
            device.session = 0
            device.cleaning = not clean

    @rule(name=st.sampled_from(["a/0", "b/1"]), well=st.sampled_from(Health))
    def sicken(self, name: str, well: Health) -> None:
        self.model.devices[name].well = well

    @rule(name=st.sampled_from(["a/0", "b/1"]))
    def heal(self, name: str) -> None:
        self.model.devices[name].well = Health.GOOD

    @rule(name=st.sampled_from(["a/1", "b/0"]), admin=st.sampled_from(Admin))
    def set_admin(self, name: str, admin: Admin) -> None:
        model, device = self.model, self.model.devices[name]
        device.admin = admin
        lease = model.lease_on(device)
        ended = set()
        if lease is not None and admin in (Admin.MAINTENANCE, Admin.RETIRED):
            ended = {(lease.id, EndReason.REVOKED)}
            model.end(lease)
        hopeless = model.hopeless()
        effects = self.tell(AdminSet(name, admin, "op"), ended)
        codes = {(e.request, e.code) for e in effects if isinstance(e, TellRefused)}
        assert codes == {(request, Refusal.UNSATISFIABLE) for request in hopeless}

    # --- clients ---

    @rule(
        client=st.sampled_from(["c", "d"]),
        tenant=st.sampled_from(["rich", "poor", "brief"]),
        role=st.sampled_from([Role.USER, Role.ADMIN]),
        selector=st.sampled_from(SELECTORS),
        count=st.sampled_from([1, 1, 1, 2, 3]),
        ttl=st.sampled_from([4.0, 15.0, 60.0]),
        priority=st.integers(0, 3),
        max_wait=st.sampled_from([0.0, 10.0, 100.0]),
    )
    def want(  # each is drawn
        self,
        client: str,
        tenant: str,
        role: Role,
        selector: str,
        count: int,
        ttl: float,
        priority: int,
        max_wait: float,
    ) -> None:
        model = self.model
        model.asked += 1
        name = f"r{model.asked}"
        request = ModelRequest(
            name,
            client,
            tenant,
            selector,
            count,
            ttl,
            priority,
            model.now,
            model.now + max_wait,
            model.asked,
            role,
        )
        expected = self._refusal(request)
        if expected is None:
            model.waiting[name] = request
        effects = self.tell(self._event(request))
        refused = [e.code for e in effects if isinstance(e, TellRefused)]
        assert refused == ([] if expected is None else [expected])

    def _refusal(self, request: ModelRequest) -> Refusal | None:
        model = self.model
        kind = CONFIG.of_tenant(request.tenant)
        if not model.allowed(request):
            return Refusal.FORBIDDEN
        if model.read_only:
            return Refusal.READ_ONLY
        if request.count > kind.max_live:
            return Refusal.QUOTA
        if model.servable(request):
            return None
        if not model.possible(request):
            return Refusal.UNSATISFIABLE
        if request.give_up <= model.now:
            return Refusal.MAX_WAIT
        mine = sum(1 for other in model.waiting.values() if other.tenant == request.tenant)
        if mine >= kind.max_queued:
            return Refusal.QUOTA
        return Refusal.QUEUE_FULL if len(model.waiting) >= CONFIG.max_queued else None

    @precondition(lambda self: self.model.waiting)
    @rule(data=st.data())
    def want_again(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(list(self.model.waiting.values())))
        self.tell(self._event(request))

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data())
    def want_what_was_granted(self, data: st.DataObject) -> None:
        lease = self._lease(data)
        event = Requested(
            request=lease.request,
            client=lease.client,
            tenant=lease.tenant,
            asked=LeaseRequest(selector="", count=1, ttl_s=lease.ttl),
            token=f"token-{lease.client}",
        )
        self.model.back(lease)
        assert any(isinstance(e, TellGranted) for e in self.tell(event))

    def _event(self, request: ModelRequest) -> Requested:
        return Requested(
            request=request.id,
            client=request.client,
            tenant=request.tenant,
            asked=LeaseRequest(
                selector=request.selector,
                count=request.count,
                ttl_s=request.ttl,
                priority=request.priority,
                max_wait_s=request.give_up - request.since,
            ),
            token=f"token-{request.client}",
            role=request.role,
        )

    @precondition(lambda self: self.model.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(list(self.model.waiting.values())))
        del self.model.waiting[request.id]
        effects = self.tell(Cancelled(request.id, request.client))
        assert [e.code for e in effects if isinstance(e, TellRefused)] == [Refusal.CANCELLED]
        again = self.tell(self._event(request))
        assert [e.code for e in again if isinstance(e, TellRefused)] == [Refusal.CANCELLED]

    @rule(client=st.sampled_from(["c", "d"]))
    def client_dies(self, client: str) -> None:
        waiting = self.model.waiting
        for request in [r for r in waiting.values() if r.client == client]:
            del waiting[request.id]
        for lease in self.model.leases.values():
            if lease.client == client:
                lease.away = self.model.now
                self.model.look(lease)
        self.tell(ClientDown(client))

    @precondition(lambda self: self.model.leases)
    @rule(
        data=st.data(),
        fate=st.lists(st.sampled_from(["opens", "closes", "reports", "is back", "waits"])),
    )
    def holder_goes_away(self, data: st.DataObject, fate: list[str]) -> None:
        """Its connection is gone; its session comes and goes, and perhaps it is back in time."""
        lease = self._lease(data)
        device = self.model.devices[lease.device]
        self.report(device.agent)
        self.client_dies(lease.client)
        for step in fate:
            if lease.id not in self.model.leases:
                return
            if step == "opens":
                device.session = device.last = max(device.last, lease.epoch)
                device.cleaning = False
            elif step == "closes":
                device.session = 0
            elif step == "is back":
                self._renew(lease)
            elif step == "waits":
                self.wait(1.5)
            if step != "waits":
                self.report(device.agent)

    @rule(client=st.sampled_from(["c", "d"]))
    def token_is_revoked(self, client: str) -> None:
        model = self.model
        waited = {name for name, one in model.waiting.items() if one.client == client}
        for name in waited:
            del model.waiting[name]
        held = [lease for lease in model.leases.values() if lease.client == client]
        for lease in held:
            model.end(lease)
        event = TokenOver(f"token-{client}", "revoked")
        effects = self.tell(event, {(lease.id, EndReason.REVOKED) for lease in held})
        refused = {(e.request, e.code) for e in effects if isinstance(e, TellRefused)}
        assert refused == {(name, Refusal.CANCELLED) for name in waited}

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), mine=st.booleans())
    def renew(self, data: st.DataObject, *, mine: bool) -> None:
        lease = self._lease(data)
        if mine:
            self._renew(lease)
            return
        effects = self.tell(Renewal(lease.id, lease.epoch, lease.client, "thief"))
        assert [e.verdict for e in effects if isinstance(e, TellRenewed)] == [Verdict.GONE]

    def _renew(self, lease: ModelLease) -> None:
        token = f"token-{lease.client}"
        effects = self.tell(Renewal(lease.id, lease.epoch, lease.client, lease.tenant, token))
        verdicts = [e.verdict for e in effects if isinstance(e, TellRenewed)]
        self.model.back(lease)
        lease.expires = min(max(lease.expires, self.model.now + lease.ttl), lease.ends)
        (verdict,) = verdicts
        assert verdict is Verdict.YIELD_PLEASE or (
            verdict is Verdict.OK and lease.expires < lease.ends
        )

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), mine=st.booleans(), times=st.integers(1, 2))
    def give_back(self, data: st.DataObject, *, mine: bool, times: int) -> None:
        lease = self._lease(data)
        tenant = lease.tenant if mine else "thief"
        if mine:
            self.model.end(lease)
        ended = {(lease.id, EndReason.RELEASED)} if mine else set()
        for _ in range(times):
            self.tell(GiveBack(lease.id, lease.epoch, lease.client, tenant), ended)
            ended = set()

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), drain=st.booleans())
    def revoke(self, data: st.DataObject, *, drain: bool) -> None:
        lease = self._lease(data)
        self.model.end(lease)
        if drain:
            self.model.devices[lease.device].admin = Admin.DRAIN
        self.tell(Revoked(lease.id, "op", "x", drain), {(lease.id, EndReason.REVOKED)})

    def _lease(self, data: st.DataObject) -> ModelLease:
        return data.draw(st.sampled_from(list(self.model.leases.values())))

    # --- the store ---

    @rule()
    def store_answers(self) -> None:
        owed, self.owed = self.owed, []
        for effect in owed:
            device = self.model.devices[effect.device]
            device.reserved = max(device.reserved, effect.upto)
            self.tell(EpochsReserved(effect.device, effect.upto))

    @rule()
    def store_fails(self) -> None:
        self.model.read_only = True
        self.tell(StoreDown("disk full"))

    @rule()
    def store_recovers(self) -> None:
        self.model.read_only = False
        self.tell(StoreUp())

    # --- what always holds ---

    @invariant()
    def nothing_waits_for_what_is_free(self) -> None:
        assert not [r for r in self.model.waiting.values() if self.model.servable(r)]

    @invariant()
    def both_know_the_same(self) -> None:
        model = self.model
        assert {request.id for request in self.book.requests()} == set(model.waiting)
        living = {lease.id for lease in self.book.leases() if lease.reason is None}
        assert living == set(model.leases)
        for view in self.book.devices():
            device = model.devices[view.name]
            assert view.link is model.link(device), view
            assert view.grantable is model.grantable(device), (view, device)
            lease = model.lease_on(device)
            assert view.lease == (lease.id if lease else "")
            if lease is not None:
                told = self.book.lease(lease.id)
                assert told is not None
                assert (told.away_s > 0.0) is (lease.away < model.now)
            assert bool(view.kept) is (not view.grantable and not view.lease) or model.read_only


BookMachine.TestCase.settings = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestBookAgainstModel = BookMachine.TestCase
