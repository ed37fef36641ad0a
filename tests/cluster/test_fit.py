"""fit/: fits, waits or never, and how many, as a table of clusters x shapes; and what holds for any."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.cluster.fit.fits import Fits, Never, Waits, capacity, fits
from batchgen.cluster.fit.packing import matches
from batchgen.cluster.fit.shape import Node, NodeType, Shape
from batchgen.cluster.placement import shapes
from tests.cluster.test_placement import job

HEAD = Node("head", {"CPU": 0.0}, {"CPU": 0.0})


def gpus(*free: float, of: float | None = None, cpus: float = 8, **more: Any) -> list[Node]:
    """A node for each number of free GPUs; `of`: the GPUs that each has."""
    added = more.pop("resources", {})
    return [
        Node(f"n{n}", {"CPU": cpus, "GPU": of or one, **added}, {"CPU": cpus, "GPU": one, **added}, **more)
        for n, one in enumerate(free)
    ]


def kind(many: float, most: int | None = None, name: str = "gpu", **more: Any) -> NodeType:
    return NodeType(name, {"CPU": 8.0, "GPU": many}, most, **more)


def size(tp: int = 1, pp: int = 1, dp: int = 1, each: float = 1, **replicas: Any) -> tuple[Shape, ...]:
    sizes = {"tensor_parallel_size": tp, "pipeline_parallel_size": pp, "data_parallel_size": dp, "gpus": each}
    return shapes(job(sizes, replicas))


H200, A100 = {"accelerator_type:H200": 1.0}, {"accelerator_type:A100": 1.0}
CLUSTERS: dict[str, tuple[tuple[Shape, ...], list[Node], list[NodeType] | None, object, int]] = {
    "1+1+1+1, TP 2": (
        size(tp=2),
        gpus(1, 1, 1, 1),
        [],
        "a replica needs 2 GPUs on one node; the largest node has 1, and no autoscaler adds nodes",
        0,
    ),
    "2+2, TP 4, and a type of 2": (
        size(tp=4),
        gpus(2, 2),
        [kind(2)],
        "a replica needs 4 GPUs on one node; the largest node has 2, and no node type has more",
        0,
    ),
    "2+2, TP 8, and a type of 4": (
        size(tp=8),
        gpus(2, 2),
        [kind(4)],
        "a replica needs 8 GPUs on one node; the largest node type has 4",
        0,
    ),
    "3+3, TP 2": (size(tp=2), gpus(3, 3), [], ("n0",), 2),
    "4+4, TP 4 x PP 2": (size(tp=4, pp=2), gpus(4, 4), [], ("n0", "n1"), 1),
    "4+4+8, TP 4 x PP 2": (size(tp=4, pp=2), gpus(4, 4, 8), [], ("n2",), 2),
    "4+3, TP 4 x PP 2": (
        size(tp=4, pp=2),
        gpus(4, 3),
        [],
        "a replica needs 8 GPUs on one node or 2 x 4 GPUs, each on one node; the nodes hold 1 of 2, and no autoscaler adds nodes",
        0,
    ),
    "8, TP 2": (size(tp=2), gpus(8), [], ("n0",), 4),
    "2 of 8 free, TP 4": (size(tp=4), gpus(2, of=8), [], ("need 4 GPUs on one node", "free: 2"), 0),
    "3 and 3 of 4 free, TP 4": (size(tp=4), gpus(3, 3, of=4), [], ("need 4 GPUs on one node", "free: 3+3"), 0),
    "2 of 8 free, TP 4, and a type of 8": (
        size(tp=4),
        gpus(2, of=8),
        [kind(8, 1)],
        ("need 4 GPUs on one node", "free: 2; nodes of type gpu may come"),
        2,
    ),
    "no CPU free": (
        size(resources={"CPU": 1}),
        [Node("n", {"CPU": 1, "GPU": 1}, {"CPU": 0, "GPU": 1})],
        [],
        ("need 1 GPU and 1 CPU on one node", "free CPU: 0"),
        0,
    ),
    "no node, a type of 4": (size(tp=4), [HEAD], [kind(4)], ("need 4 GPUs on one node", "nodes of type gpu may come"), 5),
    "no node, at most 2 of a type": (
        size(tp=2),
        [HEAD],
        [kind(4, 2)],
        ("need 2 GPUs on one node", "nodes of type gpu may come"),
        4,
    ),
    "a type whose maximum is reached": (
        size(tp=4),
        [HEAD],
        [kind(4, 0)],
        "a replica needs 4 GPUs on one node; the nodes present have too little, and too few of type gpu may come",
        0,
    ),
    "a group over a node and one to come": (
        size(tp=4, pp=2),
        gpus(4),
        [kind(4, 1)],
        ("need 2 x 4 GPUs, each on one node", "nodes of type gpu may come"),
        1,
    ),
    "no node, no autoscaler": (
        size(),
        [],
        [],
        "a replica needs 1 GPU on one node; there is no node, and no autoscaler adds nodes",
        0,
    ),
    "an autoscaler that does not say": (size(tp=4), gpus(2), None, ("need 4 GPUs on one node", "nodes may come; free: 2"), 0),
    "0.25 on 1 GPU": (size(each=0.25), gpus(1), [], ("n0",), 4),
    "0.25 where 0.2 is free": (size(each=0.25), gpus(0.2, of=1), [], ("need 0.25 GPUs on one node", "free: 0.2"), 0),
    "a seat": (size(resources={"seat": 1}), gpus(8, resources={"seat": 2.0}), [], ("n0",), 2),
    "no seat": (
        size(resources={"seat": 1}),
        gpus(8),
        [],
        "a replica needs 1 GPU and 1 seat on one node; the largest node has 0 seat, and no autoscaler adds nodes",
        0,
    ),
    "a head without CPUs": (size(), [HEAD, *gpus(1, cpus=1)], [], ("n0",), 1),
    "the accelerator": (size(accelerator="H200"), gpus(2, resources=A100) + gpus(1, resources=H200), [], ("n0",), 1),
    "another accelerator": (
        size(tp=2, accelerator="H200"),
        gpus(2, resources=A100),
        [],
        "a replica needs 2 GPUs (H200) on one node; no node has that kind of GPU, and no autoscaler adds nodes",
        0,
    ),
    "the accelerator, busy": (
        size(tp=2, accelerator="H200"),
        gpus(0, of=2, resources=H200),
        [],
        ("need 2 GPUs (H200) on one node", "free: 0"),
        0,
    ),
    "labels": (size(labels={"zone": "in(a, b)"}), gpus(1, labels={"zone": "b"}) + gpus(1), [], ("n0",), 1),
    "other labels": (
        size(labels={"zone": "!a"}),
        gpus(1, labels={"zone": "a"}),
        [kind(1, labels={"zone": "a"})],
        "a replica needs 1 GPU on one node with zone=!a; no node has these labels, and no node type does",
        0,
    ),
    "labels of a type": (
        size(labels={"zone": "a"}),
        gpus(1),
        [kind(1, 3, labels={"zone": "a"})],
        ("need 1 GPU on one node with zone=a", "nodes of type gpu may come"),
        3,
    ),
    "a type of unknown labels": (
        size(labels={"zone": "a"}),
        gpus(1),
        [kind(1, 3, labels=None)],
        ("need 1 GPU on one node with zone=a", "nodes of type gpu may come"),
        3,
    ),
    "4 ranks of data parallel over 2+2": (size(dp=4), gpus(2, 2), [], ("n0", "n1"), 1),
    "8+1, four bundles may share": (size(tp=2, pp=4), gpus(6, 2), [], ("n0", "n0", "n0", "n1"), 1),
    "GPUs and seats apart": (
        size(resources={"seat": 1}),
        [*gpus(1), Node("s", {"CPU": 8, "seat": 1}, {"CPU": 8, "seat": 1})],
        [],
        "a replica needs 1 GPU and 1 seat on one node; no node has all of 1 GPU and 1 seat, and no autoscaler adds nodes",
        0,
    ),
    "an engine that reserves nothing": (shapes(job({})), [], [], (), 5),
}


@pytest.mark.parametrize(("wanted", "nodes", "types", "expected", "count"), CLUSTERS.values(), ids=CLUSTERS.keys())
def test_a_cluster_has_room_now_later_or_never(
    wanted: tuple[Shape, ...], nodes: list[Node], types: list[NodeType] | None, expected: object, count: int
) -> None:
    match fits(wanted, nodes, types):
        case Fits(_, where):
            assert where == expected
        case Waits() as waits:
            assert (f"need {waits.what}", waits.where) == expected
        case Never(why):
            assert why == expected
    assert capacity(wanted, nodes, types or (), upto=5) == count


def test_a_line_says_how_many_wait_for_what() -> None:
    waits = fits(size(tp=4), gpus(3, 3, of=4))
    assert isinstance(waits, Waits)
    assert waits.line(2, 4) == "2 of 4 replicas wait: need 4 GPUs on one node; free: 3+3"
    assert waits.line(1, 4).startswith("1 of 4 replicas waits: ")
    assert waits.shape == size(tp=4)[0]
    many = fits(size(tp=2), gpus(*[1.0] * 1_000, of=2))
    assert isinstance(many, Waits)
    assert many.where == "free: 1+1+1+1+1+1+1+1 and 992 nodes more"


def test_capacity_counts_what_others_hold_only_where_it_is_asked_to() -> None:
    assert capacity(size(tp=2), gpus(1, 3, of=4), upto=9) == 1
    assert capacity(size(tp=2), gpus(1, 3, of=4), upto=9, total=True) == 4
    assert capacity(size(tp=2), gpus(1, 3, of=4), [kind(4, 1)], upto=9) == 3


@pytest.mark.parametrize(
    ("labels", "selector", "found"),
    [
        ({"a": "x"}, "x", True),
        ({"a": "x"}, "y", False),
        ({}, "x", False),
        ({"a": "x"}, "!x", False),
        ({}, "!x", True),
        ({"a": "y"}, "in(x,y)", True),
        ({"a": "y"}, "!in(x, y)", False),
        ({"a": "z"}, "!in(x, y)", True),
    ],
)
def test_labels_are_selected_as_ray_does(labels: dict[str, str], selector: str, found: bool) -> None:
    assert matches(labels, {"a": selector}) == found


AMOUNT = st.sampled_from([0, 0.1, 0.25, 0.5, 1, 2, 3, 4, 8])
RESOURCES = st.fixed_dictionaries({}, optional={"CPU": AMOUNT, "GPU": AMOUNT, "seat": AMOUNT})
BUNDLE = RESOURCES.filter(lambda one: any(one.values()))
SHAPES = st.lists(st.lists(BUNDLE, min_size=1, max_size=4).map(lambda bundles: Shape(tuple(bundles))), min_size=1, max_size=3)


@st.composite
def nodes_of(draw: st.DrawFn) -> list[Node]:
    totals = draw(st.lists(RESOURCES, max_size=5))
    share = draw(st.lists(st.sampled_from([0, 0.5, 1]), min_size=len(totals), max_size=len(totals)))
    frees = [{name: amount * part for name, amount in total.items()} for total, part in zip(totals, share, strict=True)]
    return [Node(f"n{n}", total, free) for n, (total, free) in enumerate(zip(totals, frees, strict=True))]


def take(nodes: list[Node], shape: Shape, where: tuple[str, ...]) -> list[Node]:
    """The nodes after a shape is placed; fails where one is overcommitted."""
    used: dict[str, Counter[str]] = {node.id: Counter() for node in nodes}
    for name, bundle in zip(where, shape.bundles, strict=True):
        used[name].update({key: round(amount * 10_000) for key, amount in bundle.items()})
    left = []
    for node in nodes:
        free = {name: round(amount * 10_000) for name, amount in node.free.items()}
        assert all(amount <= free.get(name, 0) for name, amount in used[node.id].items())
        left.append(Node(node.id, node.total, {name: (amount - used[node.id][name]) / 10_000 for name, amount in free.items()}))
    return left


@given(SHAPES, nodes_of())
def test_no_node_is_overcommitted_and_capacity_is_what_fits_one_by_one(wanted: list[Shape], nodes: list[Node]) -> None:
    left, count = nodes, 0
    while count < 6 and isinstance(found := fits(wanted, left), Fits):
        left = take(left, found.shape, found.nodes)
        count += 1
    assert capacity(wanted, nodes, upto=6) == count


@given(SHAPES, nodes_of(), st.lists(st.builds(NodeType, st.just("t"), RESOURCES, st.sampled_from([0, 1, None])), max_size=2))
def test_what_is_said_agrees(wanted: list[Shape], nodes: list[Node], types: list[NodeType]) -> None:
    found = fits(wanted, nodes, types)
    later = capacity(wanted, nodes, types, upto=1, total=True)
    assert isinstance(found, Never) == (not later)
    assert isinstance(found, Fits) == bool(capacity(wanted, nodes, upto=1))
    if isinstance(found, Never):
        assert found.why.startswith("a replica needs ")
        assert isinstance(fits(wanted, nodes, None), Waits)
    if isinstance(found, Waits):
        assert found.line(1, 2)
