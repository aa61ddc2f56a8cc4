"""Who is next: priority classes, weighted fair share between tenants, ageing, gangs.

Requests that wait stand in lines, one for each selector, count and class. Of all lines that a free
device could serve, the highest class goes first; within it the tenant with the least use (stride
scheduling: use in device-seconds over weight); within a tenant the oldest request. Waiting lifts a
request by a class every `age_s`, and after `overdue_s` into the class OVERDUE, which goes by age
alone: so the wait of the lowest is bounded. An overdue gang that does not find enough devices
free at once has devices held for it, one gang at a time, until there are enough.
"""

from __future__ import annotations

import heapq

from loopwright.fleet.book.records import DeviceRecord, Match, QueueLine, RequestRecord, Tenant
from loopwright.fleet.book.state import BookState
from loopwright.fleet.words import Priority

TOP = int(max(Priority))
OVERDUE = TOP + 1


def rank_of(state: BookState, request: RequestRecord) -> int:
    """The class that a request has by now."""
    waited = state.now - request.since
    if waited >= state.config.overdue_s:
        return OVERDUE
    return min(TOP, request.asked.priority + int(waited / state.config.age_s))


def next_rank_at(state: BookState, request: RequestRecord) -> float:
    """When the class of a request that waits will be another."""
    config = state.config
    overdue = request.since + config.overdue_s
    steps = int((state.now - request.since) / config.age_s) + 1
    if request.asked.priority + steps <= TOP:
        return min(overdue, request.since + steps * config.age_s)
    return overdue


def blocked(tenant: Tenant, count: int) -> bool:
    """Whether a tenant's quota keeps it from `count` more devices."""
    return tenant.live + count > tenant.max_live


def join(state: BookState, request: RequestRecord, match: Match) -> None:
    """Have a request wait in the line of its class."""
    rank = rank_of(state, request)
    line = match.lines.get((rank, request.asked.count))
    if line is None:
        line = QueueLine(match=match, rank=rank, count=request.asked.count)
        match.lines[(rank, request.asked.count)] = line
    request.line = line
    tenant = request.tenant
    waiting = line.queues.setdefault(tenant.number, [])
    heapq.heappush(waiting, (request.seq, request))
    if blocked(tenant, request.asked.count):
        tenant.parked[line] = None
    elif tenant.number not in line.listed and line not in tenant.parked:
        line.listed.add(tenant.number)
        heapq.heappush(line.heap, (_key(line, tenant, request), tenant.number))
    elif rank == OVERDUE and waiting[0][1] is request:
        heapq.heappush(line.heap, (_key(line, tenant, request), tenant.number))
    if rank == OVERDUE and request.asked.count > 1:
        heapq.heappush(state.gangs, (request.seq, request))


def leave(request: RequestRecord) -> None:
    """Take a request out of its line, if it stands in one."""
    line = request.line
    if line is None:
        return
    request.line = None
    waiting = line.queues.get(request.tenant.number)
    if waiting is not None:
        _first(line, request.tenant.number)
    if not line.queues:
        line.match.lines.pop((line.rank, line.count), None)
        request.tenant.parked.pop(line, None)


def first_of(line: QueueLine) -> RequestRecord | None:
    """The request of a line that goes first; tenants at their quota are parked."""
    heap = line.heap
    while heap:
        key, number = heap[0]
        request = _first(line, number)
        if request is None:
            heapq.heappop(heap)
            line.listed.discard(number)
            continue
        tenant = request.tenant
        if blocked(tenant, line.count):
            heapq.heappop(heap)
            line.listed.discard(number)
            tenant.parked[line] = None
        elif key < (actual := _key(line, tenant, request)):
            heapq.heapreplace(heap, (actual, number))
        else:
            return request
    return None


def unpark(state: BookState, tenant: Tenant) -> None:
    """A tenant holds less than before: it may stand in its lines again."""
    for line in list(tenant.parked):
        if blocked(tenant, line.count):
            continue
        del tenant.parked[line]
        request = _first(line, tenant.number)
        if request is None:
            continue
        if tenant.number not in line.listed:
            line.listed.add(tenant.number)
            heapq.heappush(line.heap, (_key(line, tenant, request), tenant.number))
        state.reopened[line.match] = None


def charge(state: BookState, tenant: Tenant, device_seconds: float) -> None:
    """Note what a tenant used."""
    config = state.config
    limit = state.vtime + config.max_debt_s / tenant.weight
    tenant.passed = max(tenant.passed, min(limit, tenant.passed + device_seconds / tenant.weight))


def served(state: BookState, tenant: Tenant, count: int) -> None:
    """A tenant gets `count` devices: time goes on, and it is charged a second for each."""
    if tenant.passed > state.vtime:
        state.vtime = tenant.passed
    charge(state, tenant, float(count))


def elect(state: BookState) -> None:
    """Choose the gang that devices are held for: the oldest overdue one its quota allows."""
    chosen = None
    kept: list[tuple[int, RequestRecord]] = []
    while state.gangs:
        seq, request = heapq.heappop(state.gangs)
        line = request.line
        if line is None or line.rank != OVERDUE:
            continue
        kept.append((seq, request))
        if not blocked(request.tenant, request.asked.count):
            chosen = request
            break
    for entry in kept:
        heapq.heappush(state.gangs, entry)
    before = state.held_for
    if before is not chosen:
        state.held_for = chosen
        if before is not None and before.match is not None:
            state.freed.update(before.match.free)


def held_from(state: BookState, device: DeviceRecord, request: RequestRecord) -> bool:
    """Whether a device is held for a gang that goes before this request."""
    gang = state.held_for
    if gang is None or gang is request or gang.match not in device.matches:
        return False
    line = request.line
    older = line is not None and line.rank == OVERDUE and request.seq < gang.seq
    return not older


def usable(state: BookState, match: Match, request: RequestRecord) -> dict[DeviceRecord, None]:
    """The free devices that a request could have."""
    if state.held_for is None:
        return match.free
    return {device: None for device in match.free if not held_from(state, device, request)}


def best_for(state: BookState, device: DeviceRecord) -> RequestRecord | None:
    """The request that goes first of those that this free device could serve now."""
    best, best_key = None, (0, 0.0, 0)
    for match in device.matches:
        if not match.waiting:
            continue
        found = best_of(state, match, device)
        if found is not None and (best is None or found[0] < best_key):
            best_key, best = found
    return best


def best_of(
    state: BookState, match: Match, device: DeviceRecord | None
) -> tuple[tuple[int, float, int], RequestRecord] | None:
    """The request of a match that goes first, with what orders it, that can be served now.

    With `device`, that one must be of use to it.
    """
    best: tuple[tuple[int, float, int], RequestRecord] | None = None
    free = len(match.free)
    for line in match.lines.values():
        if line.count > free or (best is not None and -line.rank > best[0][0]):
            continue
        request = first_of(line)
        if request is None:
            continue
        if state.held_for is not None:
            if device is not None and held_from(state, device, request):
                continue
            if len(usable(state, match, request)) < line.count:
                continue
        key = (-line.rank, _key(line, request.tenant, request), request.seq)
        if best is None or key < best[0]:
            best = key, request
    return best


def _key(line: QueueLine, tenant: Tenant, first: RequestRecord) -> float:
    return float(first.seq) if line.rank == OVERDUE else tenant.passed


def _first(line: QueueLine, number: int) -> RequestRecord | None:
    """The oldest request of a tenant in a line; entries of those that left are dropped."""
    waiting = line.queues.get(number)
    if waiting is None:
        return None
    while waiting and waiting[0][1].line is not line:
        heapq.heappop(waiting)
    if waiting:
        return waiting[0][1]
    del line.queues[number]
    return None
