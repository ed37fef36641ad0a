"""What Ray reserves for a replica, and how many replicas a job asks for. No Ray. fit/ says whether it fits.

The device of the job's engine chooses a strategy. A package that adds an engine for another device adds that device's strategy
by an entry point of the group `batchgen.placements`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from batchgen.cluster.fit.fits import capacity
from batchgen.cluster.fit.shape import Node, Shape, words_of
from batchgen.engines.base import ENGINES
from batchgen.errors import JobError
from batchgen.job.job import Job
from batchgen.registry import Registry

Strategy = Callable[[Job], tuple[Shape, ...]]
"""The shapes of a replica of a job, the best first."""


def on_gpus(job: Job) -> tuple[Shape, ...]:
    """`engine.gpus` GPUs for each rank and a CPU on each node: on one node; else the data parallel ranks over the fewest nodes;
    else a node's share for each pipeline stage. Tensor parallel ranks stay on one node."""
    engine = job.engine
    stage = (engine.gpus or 1.0) * engine.tensor_parallel_size
    whole, copies = stage * engine.pipeline_parallel_size, engine.data_parallel_size
    spread = ENGINES.named(engine.kind).capabilities.spreads_copies
    shares = [(copies // n, n * whole) for n in range(copies, 0, -1) if copies % n == 0]
    shares += [(copies * engine.pipeline_parallel_size, stage)] if engine.pipeline_parallel_size > 1 else []
    possible = [(bundles, gpus) for bundles, gpus in shares if bundles == 1 or copies == 1 or spread]
    return tuple(Shape(({"GPU": gpus, "CPU": 1.0},) * bundles) for bundles, gpus in possible)


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
class Placement:
    """How many `replicas`, and what each may reserve, the best shape first."""

    replicas: int
    shapes: tuple[Shape, ...] = (Shape(),)

    def options(self) -> dict[str, object]:
        """The options of a replica's actor that reserves the first shape by itself, without a placement group."""
        return {**self.shapes[0].actor(), "scheduling_strategy": "SPREAD"}

    def waits_for(self, cluster: Mapping[str, float]) -> str | None:
        """Why no replica fits into a cluster of these total resources at present, for a person; None if one may."""
        for name, amount in self.shapes[0].total.items():
            if amount > (held := cluster.get(name, 0)):
                return f"a replica needs {words_of({name: amount})}, the cluster has {held:g}: waiting for more"
        return None


def place(job: Job, spans: int, cluster: Mapping[str, float]) -> Placement:
    """The placement of a job with so many `spans` to run: at least one replica, never more than spans. `replicas.max`: by
    default as many as the cluster's total resources hold, or `replicas.min` where they reserve nothing."""
    if job.replicas.groups:
        raise JobError("replicas: groups cannot be placed yet", "name one kind of replica")
    asked = shapes(job)
    held = capacity(asked, [Node("cluster", cluster, cluster)], upto=spans) if asked[0].bundles else 0
    return Placement(max(1, min(job.replicas.max or max(job.replicas.min, held), spans)), asked)
