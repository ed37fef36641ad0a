"""What Ray reserves for a replica, and how many replicas a job asks for. No Ray. fit/ says whether it fits.

The device of the job's engine chooses a strategy. A package that adds an engine for another device adds that device's strategy
by an entry point of the group `batchgen.placements`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from batchgen.cluster.fit.fits import Never, capacity, fits
from batchgen.cluster.fit.shape import Node, NodeType, Shape
from batchgen.engines.base import ENGINES
from batchgen.errors import JobError
from batchgen.job.job import Job
from batchgen.registry import Registry

Strategy = Callable[[Job], tuple[Shape, ...]]
"""The shapes of a replica of a job, the best first."""


def on_gpus(job: Job) -> tuple[Shape, ...]:
    """`engine.gpus` GPUs for each rank: on one node; else the data parallel ranks over the fewest nodes; else a node's share for
    each pipeline stage. Tensor parallel ranks stay on one node. No CPU: where nodes have few, the feed needs them, and what it
    does not get no replica can use."""
    engine = job.engine
    stage = (engine.gpus or 1.0) * engine.tensor_parallel_size
    whole, copies = stage * engine.pipeline_parallel_size, engine.data_parallel_size
    spread = ENGINES.named(engine.kind).capabilities.spreads_copies
    shares = [(copies // n, n * whole) for n in range(copies, 0, -1) if copies % n == 0]
    shares += [(copies * engine.pipeline_parallel_size, stage)] if engine.pipeline_parallel_size > 1 else []
    possible = [(bundles, gpus) for bundles, gpus in shares if bundles == 1 or copies == 1 or spread]
    return tuple(Shape(({"GPU": gpus},) * bundles) for bundles, gpus in possible)


def on_cpus(job: Job) -> tuple[Shape, ...]:
    """Nothing is reserved: a CPU taken by a replica would be missing to the feed. With `engine.gpus`, as an engine on GPUs."""
    return (Shape(),) if job.engine.gpus is None else on_gpus(job)


PLACEMENTS: Registry[Strategy] = Registry(
    "placement", "batchgen.placements", {device: f"batchgen.cluster.placement:on_{device}s" for device in ("gpu", "cpu")}
)


def shapes(job: Job) -> tuple[Shape, ...]:
    """What a replica of a job without groups (Job.groups) may reserve, the best first: the device's shapes, and in each of their
    bundles what `replicas` adds."""
    device, wanted = ENGINES.named(job.engine.kind).capabilities.device, job.replicas
    more = {**wanted.resources}
    if wanted.accelerator is not None:
        more[f"accelerator_type:{wanted.accelerator}"] = 0.001
    found = PLACEMENTS.named(device)(job)
    return tuple(Shape(tuple({**b, **more} for b in s.bundles or ({},) if b or more), dict(wanted.labels)) for s in found)


@dataclass(frozen=True)
class Group:
    """Replicas of one kind: the job as they run it (Job.groups), and what each may reserve, the best shape first."""

    job: Job
    shapes: tuple[Shape, ...] = (Shape(),)

    def refuse_never(self, nodes: Sequence[Node], types: Sequence[NodeType] | None) -> None:
        """Raises JobError where no replica will ever find room."""
        if isinstance(found := fits(self.shapes, nodes, types), Never):
            remedy = "change the parallel sizes, or run it on a cluster that has such nodes (RAY_ADDRESS)"
            raise JobError(found.why, remedy)

    def holds(self, nodes: Sequence[Node], upto: int) -> int:
        """The replicas that these nodes hold, were nothing else on them; `replicas.max`, or else `min`, of those that reserve
        nothing."""
        if not self.shapes[0].bundles:
            return self.job.replicas.max or max(1, self.job.replicas.min)
        return capacity(self.shapes, nodes, upto=upto, total=True)


@dataclass(frozen=True)
class Placement:
    """The groups of a job's replicas and its number of `spans`. `types`: the node types that may come, () where none do; None:
    the cluster's autoscaler is asked. `taken`: CPUs by node that are no replica's (state/feed_room.py)."""

    groups: tuple[Group, ...]
    spans: int
    types: tuple[NodeType, ...] | None = None
    taken: Mapping[str, float] = field(default_factory=dict)


def place(job: Job, spans: int, types: tuple[NodeType, ...] | None = None) -> Placement:
    """The placement of a job with so many `spans` to run."""
    return Placement(tuple(Group(of_group, shapes(of_group)) for of_group in job.groups), spans, types)
