"""CPUs for the feed, reserved before replicas take theirs: only where `replicas.resources` reserves CPUs, and could take all."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ray.util import placement_group_table
from ray.util.placement_group import PlacementGroup, placement_group

from batchgen.cluster.fit.packing import put, rooms_of, rooms_to_come
from batchgen.cluster.fit.shape import Node, NodeType, Shape
from batchgen.cluster.placement import Group, Placement
from batchgen.cluster.state import places
from batchgen.cluster.state.ray_adapter import living_nodes
from batchgen.errors import JobError

READ_CPUS = 0.5  # that Ray reserves for a read task
SHARE = 1 / 8  # of the free CPUs, that the feed has at most
_TASK = Shape(({"CPU": READ_CPUS},))


@dataclass(frozen=True)
class Room:
    """A placement group with a bundle for each of `tasks` read tasks that run at a time."""

    group: PlacementGroup
    tasks: int

    def is_there(self) -> bool:
        return places.is_there(self.group)

    def beside(self, placement: Placement) -> Placement:
        """The placement, of a pool that does not count on this room. It is there."""
        taken = dict[str, float]()
        for node in placement_group_table(self.group)["bundles_to_node_id"].values():
            taken[node] = taken.get(node, 0.0) + READ_CPUS
        return replace(placement, taken=taken)


@contextlib.contextmanager
def reserved(placement: Placement) -> Iterator[Room | None]:
    """Ask for a room, which is given back at the end; None where replicas leave the feed its CPUs. Raises JobError where a
    replica would never fit beside the feed."""
    groups = [group for group in placement.groups if any("CPU" in bundle for shape in group.shapes for bundle in shape.bundles)]
    if not groups:
        yield None
        return
    nodes = places.nodes_of(living_nodes())
    for group in groups:
        _refuse_never(group, nodes, placement.types)
    tasks = read_tasks(placement, nodes)
    made = placement_group([dict(_TASK.bundles[0])] * tasks, strategy="PACK")
    try:
        yield Room(made, tasks)
    finally:
        places.give_back(made)


def read_tasks(placement: Placement, nodes: Sequence[Node]) -> int:
    """One for each replica, within the feed's share of the CPUs that are free, and one at least."""
    replicas = sum(group.job.replicas.max or group.holds(nodes, placement.spans) for group in placement.groups)
    free = sum(node.free.get("CPU", 0.0) for node in nodes)
    return max(1, min(placement.spans, replicas, int(SHARE * free / READ_CPUS)))


def _refuse_never(group: Group, nodes: Sequence[Node], types: Sequence[NodeType] | None) -> None:
    alone = None
    for shape in group.shapes if types is not None else ():
        rooms = rooms_of(nodes, total=True) + rooms_to_come(types or (), len(shape.bundles) + 1)
        if put(shape, rooms) is not None:
            if put(_TASK, rooms) is not None:
                return
            alone = shape
    if alone is not None:
        problem = f"a replica needs {alone}, and the tasks that read and render {READ_CPUS:g} CPUs beside it, which no node has"
        raise JobError(problem, "lower CPU in replicas.resources")
