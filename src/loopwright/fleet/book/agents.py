"""Agents and which of them owns a device: connected, silent, started anew, or there twice.

The last to register a device with an incarnation not seen before is the newer one and has it.
An older incarnation that comes back gets a device only when the newer one is LOST, and only by
reporting: a late copy of its registration takes nothing.
"""

from __future__ import annotations

from loopwright.fleet.book.devices import calm_due, report
from loopwright.fleet.book.effects import TellSuperseded
from loopwright.fleet.book.events import AgentDown, AgentUp, DeviceSpec, Synced
from loopwright.fleet.book.leases import end, tell_granted
from loopwright.fleet.book.records import NEVER, Boot, DeviceRecord, link_of
from loopwright.fleet.book.standing import refresh, released, reserve
from loopwright.fleet.book.state import BookState
from loopwright.fleet.words import Admin, EndReason, Health, LinkState

OLD_BOOTS = 8
"""How many incarnations of an agent are known."""


def agent_up(state: BookState, event: AgentUp) -> None:
    """An agent connected: anew, again, or as another process."""
    boot = state.boots.get((event.agent, event.incarnation))
    current = state.agents.get(event.agent)
    specs = {spec.name: spec for spec in event.devices}
    if boot is not None and boot is not current:
        _old_boot_up(state, boot, specs)
    else:
        _newest_up(state, event, specs, current)
    state.absent.discard(event.agent)
    state.returned()


def _newest_up(
    state: BookState, event: AgentUp, specs: dict[str, DeviceSpec], current: Boot | None
) -> None:
    """The process that an agent has now connected, be it `current` or one not seen before."""
    boot = state.boots.get((event.agent, event.incarnation))
    if boot is None:
        boot = new_boot(state, event.agent, event.incarnation)
    was_live = current is not None and current.connected and current.link is LinkState.UP
    boot.specs = specs
    boot.connected = True
    boot.down_at = NEVER
    boot.heard = state.now
    boot.link = LinkState.UP
    if current is not None and current is not boot:
        for device in list(current.devices.values()):
            taken = device.name in specs
            _unclaim(state, device, "its agent started anew", live=was_live, gone=not taken)
    for name in [name for name in boot.devices if name not in specs]:
        _unclaim(state, boot.devices[name], "its agent has it no more", live=False, gone=True)
    for spec in event.devices:
        claim(state, boot, spec)
    state.arm(boot, state.now + state.config.suspect_s)


def new_boot(state: BookState, agent: str, incarnation: str) -> Boot:
    """An incarnation that is the newest of its agent."""
    boot = Boot(agent=agent, incarnation=incarnation)
    state.boots[(agent, incarnation)] = boot
    state.agents[agent] = boot
    known = state.history.setdefault(agent, [])
    known.append(boot)
    if len(known) > OLD_BOOTS and not known[0].devices:
        old = known.pop(0)
        state.disarm(old)
        del state.boots[(agent, old.incarnation)]
    return boot


def claim(state: BookState, boot: Boot, spec: DeviceSpec) -> None:
    """A boot has a device from now on; it may be granted when it has reported."""
    device = state.device(spec.name)
    owner = device.boot
    if owner is not None and owner is not boot:
        live = owner.connected and owner.link is LinkState.UP
        _unclaim(state, device, f"agent {boot.agent} has it now", live=live, gone=False)
    state.expected.discard(spec.name)
    device.boot = boot
    boot.devices[spec.name] = device
    device.synced = False
    device.lost_at = NEVER
    if not device.registered or dict(spec.labels) != dict(device.labels):
        _relabel(state, device, spec)
    else:
        refresh(state, device)
    device.modules = dict(spec.modules)
    reserve(state, device)
    state.tell(device)
    if device.lease is not None and device.lease.request.owed:
        tell_granted(state, device.lease.request)


def _relabel(state: BookState, device: DeviceRecord, spec: DeviceSpec) -> None:
    """Index a device under the labels that it has now."""
    _unindex(state, device)
    device.labels = {**spec.labels, "name": spec.name}
    device.registered = True
    if device.admin is not Admin.RETIRED:
        state.index.add(device)


def _unindex(state: BookState, device: DeviceRecord) -> None:
    for match in state.index.remove(device):
        if match.waiting:
            state.shrunk[match] = None


def _unclaim(state: BookState, device: DeviceRecord, why: str, *, live: bool, gone: bool) -> None:
    """A boot no longer has a device: what it did there is over."""
    owner = device.boot
    if owner is None:
        return
    owner.devices.pop(device.name, None)
    if live and not gone:
        _flapped(state, device, owner)
    device.boot = None
    device.synced = False
    device.busy = device.stuck = False
    device.session = device.open = 0
    device.health = Health.UNKNOWN
    device.probe = False
    device.ending_since = NEVER
    device.lost_at = state.now
    state.arm(device, state.now + state.config.forget_s)
    _drop_sessions(state, device, why)
    refresh(state, device)
    if gone:
        state.note("device-gone", device.name, why)


def _drop_sessions(state: BookState, device: DeviceRecord, why: str) -> None:
    """End what a device did when it is lost, or another process has it."""
    if device.lease is not None:
        end(state, device.lease, EndReason.DEVICE_LOST, f"{device.name}: {why}")
    released(state, device)


def _flapped(state: BookState, device: DeviceRecord, loser: Boot) -> None:
    """Another process took a device from one that was alive."""
    config = state.config
    claims = device.claims
    claims.append(state.now)
    state.arm(device, calm_due(state, device))
    state.out.append(TellSuperseded(loser.agent, loser.incarnation, device.name))
    if len(claims) >= config.flap_limit and not device.flapping:
        device.flapping = True
        state.note(
            "flapping",
            device.name,
            f"taken {len(claims)} times in {config.flap_window_s:g} s from an agent that is alive, "
            f"last from {loser.agent} ({loser.incarnation}): two agents have this device",
        )


def _old_boot_up(state: BookState, boot: Boot, specs: dict[str, DeviceSpec]) -> None:
    """A process that a newer one replaced connected again: it gets only what nobody else has."""
    boot.connected = True
    boot.specs = specs
    boot.heard = state.now
    for name in specs:
        device = state.devices.get(name)
        if device is not None and device.boot is not boot and link_of(device) is not LinkState.LOST:
            state.out.append(TellSuperseded(boot.agent, boot.incarnation, name))


def agent_down(state: BookState, event: AgentDown) -> None:
    """A connection is gone: SUSPECT at once, LOST if the agent is not back within a while."""
    boot = state.boots.get((event.agent, event.incarnation))
    if boot is None:
        return
    boot.connected = False
    if boot.devices and boot.link is not LinkState.LOST:
        boot.down_at = state.now
        _set_link(state, boot, LinkState.SUSPECT)
        state.arm(boot, state.now + state.config.reconnect_s)


def synced(state: BookState, event: Synced) -> None:
    """An agent reported; it is answered with what its devices should do."""
    boot = state.boots.get((event.agent, event.incarnation))
    if boot is None:
        state.note("unknown-agent", event.agent, f"{event.incarnation} reports unregistered")
        return
    late = event.seq <= boot.seq
    if not late:
        boot.seq = event.seq
        boot.period = event.period_s
        boot.heard = state.now
        boot.connected = True  # whatever AgentDown said: it may have been of an older connection
        boot.down_at = NEVER
        if boot.link is not LinkState.UP:
            _set_link(state, boot, LinkState.UP)
            state.arm(boot, state.now + state.config.suspect_s)
    for told in event.reports:
        device = state.devices.get(told.device)
        if device is None:
            continue
        if device.boot is not boot and not (not late and _take_over(state, boot, device)):
            if told.device in boot.specs:
                state.out.append(TellSuperseded(boot.agent, boot.incarnation, told.device))
            continue
        if not late:
            report(state, device, told)
        state.tell(device)


def _take_over(state: BookState, boot: Boot, device: DeviceRecord) -> bool:
    """Whether an older process gets a device, since the newer one is LOST."""
    spec = boot.specs.get(device.name)
    if spec is None or link_of(device) is not LinkState.LOST:
        return False
    boot.link = LinkState.UP
    claim(state, boot, spec)
    state.arm(boot, state.now + state.config.suspect_s)
    return True


def _set_link(state: BookState, boot: Boot, link: LinkState) -> None:
    boot.link = link
    for device in list(boot.devices.values()):
        device.lost_at = state.now if link is LinkState.LOST else NEVER
        if link is LinkState.LOST:
            state.note("device-lost", device.name, f"agent {boot.agent} is silent")
            device.synced = False
            state.arm(device, state.now + state.config.forget_s)
            _drop_sessions(state, device, "its agent is silent")
        refresh(state, device)


def boot_due(state: BookState, boot: Boot) -> None:
    """An agent may have been silent for too long."""
    now, config = state.now, state.config
    if not boot.devices or boot.link is LinkState.LOST:
        return
    silence = max(config.lost_s, 4 * boot.period)
    lost = min(boot.heard + silence, boot.down_at + config.reconnect_s)
    suspect = boot.heard + max(config.suspect_s, 3 * boot.period)
    if now >= lost:
        _set_link(state, boot, LinkState.LOST)
        return
    if now >= suspect and boot.link is LinkState.UP:
        state.note("agent-suspect", boot.agent, f"silent for {now - boot.heard:.1f} s")
        _set_link(state, boot, LinkState.SUSPECT)
    state.arm(boot, suspect if boot.link is LinkState.UP else lost)
