"""Whether a replica finds room: yes, later, or never; and how many do. No Ray.

A replica has one or more shapes, the best first. The resources that are free on each node, and those that the autoscaler's node
types would bring, decide."""

from collections.abc import Sequence
from dataclasses import dataclass

from batchgen.cluster.fit.packing import Room, matches, put, rooms_of, rooms_to_come, units
from batchgen.cluster.fit.shape import Node, NodeType, Shape, words_of

SHOWN_NODES = 8


@dataclass(frozen=True)
class Fits:
    """A replica fits now. `nodes`: for each bundle the id of a node with room."""

    shape: Shape
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Waits:
    """A replica would fit: in what others hold, or on nodes that may come. `what` it needs and `where` that may be, in words. To
    ask for `shape` lets the autoscaler see it."""

    shape: Shape
    where: str

    @property
    def what(self) -> str:
        return str(self.shape)

    def room(self, missing: int, wanted: int) -> str:
        """What so many replicas wait for."""
        return f"room for {missing} of {wanted} replicas: need {self.what}; {self.where}"

    def line(self, missing: int, wanted: int) -> str:
        verb = "waits" if missing == 1 else "wait"
        return f"{missing} of {wanted} replicas {verb}: need {self.what}; {self.where}"


@dataclass(frozen=True)
class Never:
    """No node has room for a replica, and none that may come has. `why`: a sentence."""

    why: str


def fits(shapes: Sequence[Shape], nodes: Sequence[Node], types: Sequence[NodeType] | None = ()) -> Fits | Waits | Never:
    """Whether a replica of one of the shapes finds room: the first that does on the free resources of the nodes. `types`: the
    autoscaler's; () without an autoscaler. None where one runs that does not show them: then nothing is Never."""
    for shape in shapes:
        if (found := put(shape, rooms_of(nodes))) is not None:
            return Fits(shape, found)
    for shape in shapes:
        if put(shape, rooms_of(nodes, total=True)) is not None:
            more = _coming(shape, nodes, types or (), total=False)
            return Waits(shape, _free_words(shape, nodes) + (f"; {more}" if more else ""))
    for shape in shapes:
        if more := _coming(shape, nodes, types or (), total=True):
            return Waits(shape, more)
    if types is None:
        return Waits(shapes[0], f"nodes may come; {_free_words(shapes[0], nodes)}")
    return Never(_why(shapes, nodes, types))


def capacity(
    shapes: Sequence[Shape], nodes: Sequence[Node], types: Sequence[NodeType] = (), *, upto: int, total: bool = False
) -> int:
    """How many replicas, at most `upto`, find room together in what is free, or with `total` in all that the nodes have, and
    on the nodes that may come."""
    rooms = rooms_of(nodes, total)
    rooms += rooms_to_come(types, upto * max((len(shape.bundles) for shape in shapes), default=0))
    count = 0
    for shape in shapes:
        left = rooms
        if not shape.bundles:
            return upto if put(shape, rooms) is not None else count
        while count < upto and left and put(shape, left) is not None:
            count += 1
            least = [units(bundle) for bundle in shape.bundles]
            start = next((n for n, room in enumerate(left) if any(room.holds(bundle) for bundle in least)), len(left))
            left = left[start:]  # the nodes before it are full for this shape
    return count


def _coming(shape: Shape, nodes: Sequence[Node], types: Sequence[NodeType], total: bool) -> str:
    """Of which types nodes may come that make room for a shape; empty where none do."""
    rooms, present = rooms_of(nodes, total), {node.id for node in nodes}
    found = put(shape, rooms + rooms_to_come(types, len(shape.bundles))) or ()
    coming = dict.fromkeys(name for name in found if name not in present)
    return f"nodes of type {', '.join(coming)} may come" if coming else ""


def _scarce(shape: Shape, rooms: Sequence[Room]) -> tuple[str, float] | None:
    """The first resource of which the rooms hold too little for the bundles, and what the largest bundle needs."""
    for name in dict.fromkeys(name for bundle in shape.bundles for name in bundle):
        needs = [need for bundle in shape.bundles if (need := units(bundle).get(name, 0))]
        if needs and sum(room.left.get(name, 0) // max(needs) for room in rooms) < len(needs):
            return name, max(needs) / 10_000
    return None


def _free_words(shape: Shape, nodes: Sequence[Node]) -> str:
    """As in `free: 3+3`, the largest first."""
    fitting = [node for node in nodes if matches(node.labels, shape.labels)]
    name, _ = _scarce(shape, rooms_of(fitting)) or (next((name for bundle in shape.bundles for name in bundle), "GPU"), 0)
    free = sorted((node.free.get(name, 0) for node in fitting if node.total.get(name, 0)), reverse=True)
    more = f" and {len(free) - SHOWN_NODES:,} nodes more" if len(free) > SHOWN_NODES else ""
    return (
        f"free{'' if name == 'GPU' else f' {name}'}: {'+'.join(f'{amount:g}' for amount in free[:SHOWN_NODES]) or 'none'}{more}"
    )


def _why(shapes: Sequence[Shape], nodes: Sequence[Node], types: Sequence[NodeType]) -> str:
    """Why no shape fits the nodes and types in any number; said of the last shape, which has the smallest bundles."""
    last, needs = shapes[-1], f"a replica needs {' or '.join(dict.fromkeys(map(str, shapes)))}"
    come = [NodeType(each.name, each.total, None, each.labels) for each in types]
    for shape in shapes:
        rooms = rooms_of(nodes, total=True)
        if found := put(shape, rooms + rooms_to_come(come, len(shape.bundles))):
            ended = [each.name for each in types if each.name in found]
            return f"{needs}; the nodes present have too little, and too few of type {', '.join(ended)} may come"
    none = "no node type does" if types else "no autoscaler adds nodes"
    here = [room for room in rooms_of(nodes, total=True) if matches(room.labels, last.labels)]
    coming = [room for room in rooms_to_come(come, 1) if matches(room.labels, last.labels)]
    if not nodes and not types:
        return f"{needs}; there is no node, and {none}"
    if not here and not coming:
        return f"{needs}; no node has these labels, and {none}"
    if (scarce := _scarce(last, [*here, *(room for room in coming for _ in last.bundles)])) is None:
        return f"{needs}; no node has all of {words_of(last.bundles[0])}, and {none}"
    name, need = scarce
    largest, larger = (max((room.left.get(name, 0) for room in rooms), default=0) / 10_000 for rooms in (here, coming))
    if name.startswith("accelerator_type:"):
        return f"{needs}; no node has that kind of GPU, and {none}"
    if largest >= need:
        held = sum(int(room.left.get(name, 0) / 10_000 // need) for room in here)
        return f"{needs}; the nodes hold {held} of {len(last.bundles)}, and {none}"
    unit = "" if name == "GPU" else f" {name}"
    if larger > largest:
        return f"{needs}; the largest node type has {larger:g}{unit}"
    return f"{needs}; the largest node has {largest:g}{unit}, and {'no node type has more' if types else none}"
