"""How many replicas each group of a pool is to have, in which shape the next ones go, and what those without a place wait for.
No Ray: the pool tells what it has, and which nodes there are."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from batchgen.cluster.fit.fits import Fits, Never, Waits, capacity, fits
from batchgen.cluster.fit.shape import Node, NodeType, Shape
from batchgen.cluster.placement import Group, Placement
from batchgen.cluster.policy.division import Part
from batchgen.cluster.policy.size import State, target

TELL_SECONDS = 60.0  # between two lines that say what replicas wait for; the first comes after a sixth of it
AHEAD = 1_000  # replicas beyond those that the nodes hold, at most, that an autoscaler is asked for at a time


class Has(NamedTuple):
    """The replicas of a group that stay: ready, on their way, of those without a place, and of the ready ones at work; and those
    that end, but have a place yet."""

    alive: int
    starting: int
    placeless: int
    busy: int
    ending: int = 0


class Staying(NamedTuple):
    """A replica that stays, and its node, None where it has no place."""

    replica: int
    node: str | None
    is_ready: bool


Parts = Callable[[Sequence[int], Sequence[Node]], Sequence[Part | None]]
"""A job's part of these nodes, for each group: from the replicas that each could use, were the job alone. None: all of it."""


class Sizing:
    """`targets`: the replicas that each group of the placement is to have, on the `nodes` and those that may come (`types`).
    `waits_for`: what those without a place wait for, in words. `parts`: of each group of a job that shares its cluster. Raises
    JobError where no replica of a group will ever find room."""

    def __init__(self, placement: Placement, nodes: list[Node], types: tuple[NodeType, ...] | None, part_of: Parts) -> None:
        self.nodes, self.types, self.waits_for = nodes, types, ""
        self._groups, self._part_of = placement.groups, part_of
        self.targets = [0] * len(self._groups)
        self.parts: Sequence[Part | None] = [None] * len(self._groups)
        self._told = time.monotonic() - TELL_SECONDS * 5 / 6
        for group in self._groups:
            group.refuse_never(nodes, self.types)
        self.aim([Has(0, 0, 0, 0)] * len(self._groups), placement.spans, 0, False, ())

    def aim(self, pool: Sequence[Has], waiting: int, running: int, feed_ended: bool, left_out: Collection[str]) -> None:
        """Set the targets. `waiting`, `running`: spans; `left_out`: nodes on which nothing may start now."""
        states = list[State]()
        for number, (group, has) in enumerate(zip(self._groups, pool, strict=True)):
            most = waiting + running
            holds = group.holds(self.nodes, most)
            out = group.holds([node for node in self.nodes if node.id in left_out], most) if left_out else 0
            state = State(
                least=group.job.replicas.min,
                most=group.job.replicas.max,
                holds=holds,
                could_hold=self._could_hold(group, holds, most),
                alive=has.alive,
                starting=has.starting,
                busy=has.busy,
                waiting=waiting,
                running=running,
                feed_ended=feed_ended,
                left_out=out,
                placed=has.alive + has.starting - has.placeless + has.ending,
            )
            states.append(state)
            self.targets[number] = target(state)
            waiting = max(0, waiting - self.targets[number])
        self.parts = self._part_of(self.targets, [node for node in self.nodes if node.id not in left_out])
        for number, part in enumerate(self.parts):
            if part is not None:
                self.targets[number] = target(replace(states[number], part=part.size, asks=part.asks))

    def _could_hold(self, group: Group, holds: int, most: int) -> int | None:
        """The replicas that the nodes hold and those that may come; None for replicas that reserve nothing."""
        if not group.shapes[0].bundles:
            return None
        if self.types is None:  # an autoscaler, if there is one, sees what waits
            return 2 * holds + 1
        upto = min(most, group.job.replicas.max or holds + AHEAD)
        return capacity(group.shapes, self.nodes, self.types, upto=upto, total=True)

    def shapes(self, number: int, count: int, left_out: Collection[str]) -> Iterator[Shape]:
        """The shapes in which so many more replicas of a group are asked for: the first that fits what the others leave, else
        the one that may fit later."""
        usable = [node for node in self.nodes if node.id not in left_out]
        for _ in range(count):
            found = fits(self._groups[number].shapes, usable, self.types)
            usable = _without(usable, found) if isinstance(found, Fits) else usable
            yield self._groups[number].shapes[0] if isinstance(found, Never) else found.shape

    def unneeded(self, pool: Sequence[Sequence[Staying]], idle: Collection[int]) -> tuple[list[int], list[int]]:
        """Those of which there are too many; the youngest of a group are its last. To be ended at once, and to be ended when
        they have finished what they run. At once go those without a place; later idle ones. In a job that shares its cluster
        starting ones go, too, and busy ones, from the nodes where the group has the fewest: so whole nodes get free."""
        ended, retired = list[int](), list[int]()
        for members, wanted, part in zip(pool, self.targets, self.parts, strict=True):
            shared, on = part is not None, Counter(one.node for one in members)
            newest = members[::-1]
            starting = [one.replica for one in newest if one.node is None]
            starting += [one.replica for one in newest if one.node is not None and not one.is_ready and shared]
            ready = sorted(newest, key=lambda one: (on[one.node], one.node or "")) if shared else newest
            ready = [one for one in ready if one.is_ready]
            running = [one.replica for one in ready if one.replica in idle]
            running += [one.replica for one in ready if one.replica not in idle and shared]
            surplus = max(0, len(members) - wanted)
            ended += starting[:surplus]
            retired += running[: max(0, surplus - len(starting))]
        return ended, retired

    def fitting(self) -> set[str]:
        """The nodes that hold a replica."""
        return {node.id for node in self.nodes if any(group.holds([node], 1) for group in self._groups)}

    def waiting_line(self, pool: Sequence[Has]) -> str:
        """A line about the replicas without a place, TELL_SECONDS after the last one. Those that an autoscaler may bring beyond
        what the nodes hold do not count."""
        self.waits_for, line, now = "", "", time.monotonic()
        for number, (group, has) in enumerate(zip(self._groups, pool, strict=True)):
            due, part = self.targets[number], self.parts[number]
            if group.job.replicas.max is None:
                due = min(due, max(group.job.replicas.min, group.holds(self.nodes, due)))
            due = due if part is None else min(due, max(1, part.size))
            missing = min(has.placeless, due - (has.alive + has.starting - has.placeless))
            if missing > 0 and isinstance(found := fits(group.shapes, self.nodes, self.types), Waits):
                self.waits_for, line = found.room(missing, due), found.line(missing, due)
        if not self.waits_for:
            self._told = now - TELL_SECONDS * 5 / 6
        elif now - self._told >= TELL_SECONDS:
            self._told = now
            return line
        return ""


def _without(nodes: list[Node], found: Fits) -> list[Node]:
    """The nodes with what a replica takes of them gone."""
    free = {node.id: dict(node.free) for node in nodes}
    for node, bundle in zip(found.nodes, found.shape.bundles, strict=False):
        for name, amount in bundle.items():
            free[node][name] = free[node].get(name, 0) - amount
    return [Node(node.id, node.total, free[node.id], node.labels) for node in nodes]
