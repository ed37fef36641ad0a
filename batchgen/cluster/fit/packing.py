"""Shapes into the rooms of nodes. Amounts are compared as Ray does, in ten-thousandths. No Ray."""

import re
from collections.abc import Iterable, Mapping, Sequence

from batchgen.cluster.fit.shape import Node, NodeType, Resources, Shape


class Room:
    """What is left of a node."""

    def __init__(self, name: str, resources: Resources, labels: Mapping[str, str] | None) -> None:
        self.name, self.labels = name, labels
        self.left = units(resources)

    def holds(self, bundle: Mapping[str, int]) -> bool:
        return all(self.left.get(name, 0) >= amount for name, amount in bundle.items())

    def take(self, bundle: Mapping[str, int], times: int = 1) -> None:
        for name, amount in bundle.items():
            self.left[name] = self.left.get(name, 0) - times * amount


def put(shape: Shape, rooms: Sequence[Room]) -> tuple[str, ...] | None:
    """Take a shape's bundles from the rooms, the largest first, each from the first with room; the room of each. None, and
    nothing is taken, where they do not fit."""
    bundles = sorted(((units(bundle), n) for n, bundle in enumerate(shape.bundles)), key=lambda one: -max(one[0].values()))
    taken: list[tuple[Room, Mapping[str, int], int]] = []
    if not bundles:
        return () if not shape.labels or any(matches(room.labels, shape.labels) for room in rooms) else None
    for bundle, number in bundles:
        room = next((room for room in rooms if room.holds(bundle) and matches(room.labels, shape.labels)), None)
        if room is None:
            for before, held, _ in taken:
                before.take(held, -1)
            return None
        room.take(bundle)
        taken.append((room, bundle, number))
    return tuple(room.name for room, _, _ in sorted(taken, key=lambda one: one[2]))


def rooms_of(nodes: Iterable[Node], total: bool = False) -> list[Room]:
    return [Room(node.id, node.total if total else node.free, node.labels) for node in nodes]


def rooms_to_come(types: Iterable[NodeType], wanted: int) -> list[Room]:
    """The rooms of the nodes that may come, of each type as many as are `wanted`."""
    counts = ((each, wanted if each.most is None else min(each.most, wanted)) for each in types)
    return [Room(each.name, each.total, each.labels) for each, count in counts for _ in range(count)]


def units(resources: Resources) -> dict[str, int]:
    return {name: round(amount * 10_000) for name, amount in resources.items()}


def matches(labels: Mapping[str, str] | None, wanted: Mapping[str, str]) -> bool:
    """Whether a node of these labels passes Ray's label selectors, or may where they are not known."""
    if labels is None:
        return True
    for key, selector in wanted.items():
        listed = re.fullmatch(r"in\((.*)\)", selector.removeprefix("!"))
        values = [value.strip() for value in listed[1].split(",")] if listed else [selector.removeprefix("!")]
        if (labels.get(key) in values) == selector.startswith("!"):
            return False
    return True
