"""How many replicas the pool should have now: pure arithmetic, asked every few seconds. No Ray, no clocks.

The pool asks for replicas while `target` is above those alive and starting. While it is below, it releases starting ones first,
then idle ones; only a job that yields to another (`target` < busy) retires busy ones, which finish what they run. The driver
assigns before it asks, so that an idle replica gets a straggler's copy rather than its release.

Nothing flaps: a cluster that holds fewer than before releases none (a replica whose node went dies by itself), the tail never
grows, and a job yields only SETTLED seconds after its pool last grew."""

import math
from dataclasses import dataclass

SPARE = 1  # idle replicas kept at the tail, for copies and for spans of the dead
SETTLED = 30.0


@dataclass(frozen=True)
class Rival:
    """Another job of the cluster. `wants`: the replicas it could use, in units of this job's."""

    share: float = 1.0
    priority: int = 0
    wants: float = math.inf


@dataclass(frozen=True)
class State:
    """The pool and its cluster now. `least`, `most`: `replicas.min` and `.max`. `holds`: replicas that fit the nodes, ours
    counted; `could_hold`: with the nodes that the autoscaler may add, None where nobody knows. `left_out`: those of `holds` on
    nodes that are left out. `waiting`: spans that nobody runs, also those yet to come from the feed; `running`: those that run.
    `share`, `priority`, `rivals`: see fair_part. `calm`: seconds since the pool last grew."""

    least: int
    most: int | None
    holds: int
    could_hold: int | None
    alive: int
    starting: int
    busy: int
    waiting: int
    running: int
    feed_ended: bool
    left_out: int = 0
    share: float = 1.0
    priority: int = 0
    rivals: tuple[Rival, ...] = ()
    calm: float = math.inf


def target(state: State) -> int:
    """The replicas that the pool should have now, at least 1 while a span is without a part, 0 afterwards."""
    left, has = state.waiting + state.running, state.alive + state.starting
    if not left:
        return 0 if state.feed_ended else min(has, max(state.least, state.busy))
    if state.feed_ended and not state.waiting:
        return max(1, min(has, state.busy + SPARE))
    least = max(1, min(state.least, left))
    wanted = max(least, min(left, _room(state)))
    return wanted if not state.rivals else max(least, _yielding(state, wanted, has))


def fair_part(holds: float, wants: float, share: float, priority: int, rivals: tuple[Rival, ...]) -> float:
    """This job's part of a cluster that holds so many. Jobs of a higher priority get what they want; those of one priority divide
    the rest by their shares, and what one does not want goes to the others."""
    rest = max(0.0, holds - sum(rival.wants for rival in rivals if rival.priority > priority))
    open_ = [(max(share, 1e-9), wants, True)]
    open_ += [(max(rival.share, 1e-9), rival.wants, False) for rival in rivals if rival.priority == priority]
    while True:
        shares = sum(each for each, _, _ in open_)
        content = [job for job in open_ if job[1] <= rest * job[0] / shares]
        if mine := next((job for job in content if job[2]), None):
            return mine[1]
        if not content:
            return rest * next(each for each, _, ours in open_ if ours) / shares
        rest -= sum(wanted for _, wanted, _ in content)
        open_ = [job for job in open_ if job not in content]


def _room(state: State) -> int:
    """The most replicas that there is a place for, or may be; those that live have one."""
    known = state.holds if state.could_hold is None else max(state.holds, state.could_hold)
    room = max(known - state.left_out, state.alive)
    if state.most is None:
        return room
    return state.most if state.could_hold is None else min(state.most, room)


def _yielding(state: State, wanted: int, has: int) -> int:
    """`wanted`, but no more than this job's part; less than it has only once the pool is calm, and by whole replicas."""
    holds = (state.holds if state.could_hold is None else max(state.holds, state.could_hold)) - state.left_out
    part = fair_part(holds, wanted, state.share, state.priority, state.rivals)
    if wanted <= part:
        return wanted
    if has <= part:
        return math.floor(part)
    return math.ceil(part) if state.calm >= SETTLED else min(wanted, has)
