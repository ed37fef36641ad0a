"""How many replicas each group of a pool is to have, in which shape the next ones go, and what those without a place wait for.
No Ray: the pool tells what it has, and which nodes there are."""

import time
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from batchgen.cluster.fit.fits import Fits, Never, Waits, capacity, fits
from batchgen.cluster.fit.shape import Node, NodeType, Shape
from batchgen.cluster.placement import Group, Placement
from batchgen.cluster.policy.size import State, target

TELL_SECONDS = 60.0  # between two lines that say what replicas wait for; the first comes after a sixth of it
AHEAD = 1_000  # replicas beyond those that the nodes hold, at most, that an autoscaler is asked for at a time


class Has(NamedTuple):
    """The replicas of a group that stay: ready, on their way, of those without a place, and of the ready ones at work."""

    alive: int
    starting: int
    placeless: int
    busy: int


class Sizing:
    """`targets`: the replicas that each group of the placement is to have, on the `nodes` and those that may come (`types`).
    `waits_for`: what those without a place wait for, in words. Raises JobError where no replica of a group will ever find
    room."""

    def __init__(self, placement: Placement, nodes: list[Node], types: tuple[NodeType, ...] | None) -> None:
        self.nodes, self.types, self.waits_for = nodes, types, ""
        self._groups = placement.groups
        self.targets = [0] * len(self._groups)
        self._grown = time.monotonic()
        self._told = self._grown - TELL_SECONDS * 5 / 6
        for group in self._groups:
            group.refuse_never(nodes, self.types)
        self.aim([Has(0, 0, 0, 0)] * len(self._groups), placement.spans, 0, False, ())

    def aim(self, pool: Sequence[Has], waiting: int, running: int, feed_ended: bool, left_out: Collection[str]) -> None:
        """Set the targets. `waiting`, `running`: spans; `left_out`: nodes on which nothing may start now."""
        now, before = time.monotonic(), sum(self.targets)
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
                calm=now - self._grown,
            )
            self.targets[number] = target(state)
            waiting = max(0, waiting - self.targets[number])
        self._grown = now if sum(self.targets) > before else self._grown

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

    def fitting(self) -> set[str]:
        """The nodes that hold a replica."""
        return {node.id for node in self.nodes if any(group.holds([node], 1) for group in self._groups)}

    def waiting_line(self, pool: Sequence[Has]) -> str:
        """A line about the replicas without a place, TELL_SECONDS after the last one. Those that an autoscaler may bring beyond
        what the nodes hold do not count."""
        self.waits_for, now = "", time.monotonic()
        for number, (group, has) in enumerate(zip(self._groups, pool, strict=True)):
            due = self.targets[number]
            if group.job.replicas.max is None:
                due = min(due, max(group.job.replicas.min, group.holds(self.nodes, due)))
            missing = min(has.placeless, due - (has.alive + has.starting - has.placeless))
            if missing > 0 and isinstance(found := fits(group.shapes, self.nodes, self.types), Waits):
                self.waits_for = found.line(missing, due)
        if not self.waits_for:
            self._told = now - TELL_SECONDS * 5 / 6
        elif now - self._told >= TELL_SECONDS:
            self._told = now
            return self.waits_for
        return ""


def _without(nodes: list[Node], found: Fits) -> list[Node]:
    """The nodes with what a replica takes of them gone."""
    free = {node.id: dict(node.free) for node in nodes}
    for node, bundle in zip(found.nodes, found.shape.bundles, strict=False):
        for name, amount in bundle.items():
            free[node][name] = free[node].get(name, 0) - amount
    return [Node(node.id, node.total, free[node.id], node.labels) for node in nodes]
