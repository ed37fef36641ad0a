"""How many replicas the pool should have now: pure arithmetic, asked every few seconds. No Ray, no clocks.

The pool asks for replicas while `target` is above those alive and starting. While it is below, it releases starting ones first,
then idle ones; only a job that yields to another (`target` < busy) retires busy ones, which finish what they run. The driver
assigns before it asks, so that an idle replica gets a straggler's copy rather than its release.

Nothing flaps: a cluster that holds fewer than before releases none (a replica whose node went dies by itself), the tail never
grows, and the part of a job that shares the cluster follows from what the jobs want (division.py), not from what they hold."""

from dataclasses import dataclass

SPARE = 1  # idle replicas kept at the tail, for copies and for spans of the dead


@dataclass(frozen=True)
class State:
    """The pool and its cluster now. `least`, `most`: `replicas.min` and `.max`. `holds`: replicas that fit the nodes, ours
    counted; `could_hold`: with the nodes that the autoscaler may add, None where nobody knows. `left_out`: those of `holds` on
    nodes that are left out. `waiting`: spans that nobody runs, also those yet to come from the feed; `running`: those that run.
    `part`: this job's of the nodes, None where no other wants them; `asks`: whether it is this job that asks the autoscaler for
    more than that. `placed`: replicas that hold a place, those that end included."""

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
    part: int | None = None
    asks: bool = False
    placed: int = 0


def target(state: State) -> int:
    """The replicas that the pool should have now, at least 1 while a span is without a part, 0 afterwards."""
    left, has = state.waiting + state.running, state.alive + state.starting
    if not left:
        return 0 if state.feed_ended else min(has, max(state.least, state.busy))
    if state.feed_ended and not state.waiting:
        return max(1, min(has, state.busy + SPARE))
    least = max(1, min(state.least, left))
    wanted = max(least, min(left, _room(state)))
    return wanted if state.part is None else max(1, min(wanted, _shared(state, state.part)))


def _room(state: State) -> int:
    """The most replicas that there is a place for, or may be; those that live have one."""
    known = state.holds if state.could_hold is None else max(state.holds, state.could_hold)
    room = max(known - state.left_out, state.alive)
    if state.most is None:
        return room
    return state.most if state.could_hold is None else min(state.most, room)


def _shared(state: State, part: int) -> int:
    """What a job that shares the cluster may have: its part. One of the jobs asks for what may come, too, once it holds no more
    than its part: what it asks for may get the place that another job waits for."""
    more = (state.could_hold or 0) - state.holds if state.asks and state.placed <= part else 0
    return part + max(0, more)
