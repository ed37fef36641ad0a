"""The nodes of the cluster as fit/ knows them, and the place that a replica reserves on them: a placement group for a shape with
bundles, so that all of it is there or nothing, and the options of the actor in it."""

from collections.abc import Collection, Hashable, Mapping
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from batchgen.cluster.fit.shape import Node, Shape
from batchgen.cluster.state.ray_adapter import Living

NODE_ID = "ray.io/node-id"  # the label in which Ray has a node's id
_ASKED: dict[Hashable, ray.ObjectRef] = {}  # by group: what is there when its place is


def nodes_of(living: Mapping[str, Living], taken: Mapping[str, float] | None = None) -> list[Node]:
    """Living nodes on which something may be placed. CPUs that are `taken` by node are no part of what they have."""
    found = []
    for name, one in living.items():
        if not one.is_drained:
            less = {"CPU": one.total.get("CPU", 0.0) - taken[name]} if taken and name in taken else {}
            found.append(Node(name, {**one.total, **less}, one.free, one.labels))
    return found


def reserve(shape: Shape, left_out: Collection[str]) -> tuple[PlacementGroup | None, dict[str, Any]]:
    """Ask for a place, not on the nodes that are left out: the placement group, None for a shape that reserves nothing, and the
    options of the actor that is to have it. On one node the actor holds all; over several, vLLM's Ray executor puts a rank of
    its own into each bundle, and the actor holds none."""
    labels = dict(shape.labels) | ({NODE_ID: f"!in({','.join(sorted(left_out))})"} if left_out else {})
    if not shape.bundles:
        return None, {
            "num_cpus": 0,
            "num_gpus": 0,
            "scheduling_strategy": "SPREAD",
            **({"label_selector": labels} if labels else {}),
        }
    bundles = shape.bundles if len(shape.bundles) == 1 else shape.ranks()
    selectors: Mapping[str, Any] = {"bundle_label_selector": [labels] * len(bundles)} if labels else {}
    group = placement_group([dict(bundle) for bundle in bundles], strategy=shape.strategy, **selectors)
    strategy = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    held = shape.actor() if len(bundles) == 1 else {"num_cpus": 0, "num_gpus": 0}
    held.pop("label_selector", None)  # the bundle's
    return group, {**held, "scheduling_strategy": strategy}


def is_there(group: PlacementGroup | None) -> bool:
    """Whether the place is reserved; a shape that reserves nothing has none to wait for. Asked for the first time, the answer may
    be no although it is: group.wait(0) would say so most of the times."""
    if group is None:
        return True
    if group.id not in _ASKED:
        _ASKED[group.id] = group.ready()
    return bool(ray.wait([_ASKED[group.id]], timeout=0)[0])


def node_of(group: PlacementGroup | None) -> str | None:
    """The node of the first bundle of a place that is reserved."""
    if group is None:
        return None
    found: str | None = placement_group_table(group)["bundles_to_node_id"].get(0)
    return found


def give_back(group: PlacementGroup | None) -> None:
    if group is not None:
        _ASKED.pop(group.id, None)
        remove_placement_group(group)
