"""What Ray reserves for a replica and where, and how many replicas a job asks for. No Ray.

The device of the job's engine chooses a strategy. A package that adds an engine for another device adds that device's strategy
by an entry point of the group `batchgen.placements`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from batchgen.engines.base import ENGINES
from batchgen.job.job import Job
from batchgen.registry import Registry

Resources = Mapping[str, float]  # amounts by Ray's names: CPU, GPU, memory, custom ones


@dataclass(frozen=True)
class Placement:
    """How many `replicas`, what each reserves, and Ray's scheduling strategy for them."""

    replicas: int
    num_gpus: float = 0
    num_cpus: float = 0
    resources: Resources = field(default_factory=dict)
    strategy: str = "SPREAD"

    def options(self) -> dict[str, object]:
        """The options of a replica's actor."""
        reserved = {"num_gpus": self.num_gpus, "num_cpus": self.num_cpus, "resources": dict(self.resources)}
        return {**reserved, "scheduling_strategy": self.strategy}

    def waits_for(self, cluster: Resources) -> str | None:
        """Why no replica fits into a cluster of these total resources at present, for a person; None if one may."""
        for name, amount in {"GPU": self.num_gpus, "CPU": self.num_cpus, **self.resources}.items():
            if amount > (held := cluster.get(name, 0)):
                plural = "s" if name in ("GPU", "CPU") and amount != 1 else ""
                return f"a replica needs {amount:g} {name}{plural}, the cluster has {held:g}: waiting for more"
        return None


Strategy = Callable[[Job, Resources], Placement]


def on_gpus(job: Job, cluster: Resources) -> Placement:
    """A GPU per tensor x pipeline rank. `replicas.max`: by default, as many replicas as the cluster's GPUs hold now."""
    gpus = job.engine.tensor_parallel_size * job.engine.pipeline_parallel_size
    held = int(cluster.get("GPU", 0) // gpus)
    return Placement(job.replicas.max or max(job.replicas.min, held), num_gpus=gpus, num_cpus=1)


def on_cpus(job: Job, cluster: Resources) -> Placement:
    """Nothing is reserved: a CPU taken by a replica would be missing to the feed. `replicas.max`: by default `replicas.min`."""
    return Placement(job.replicas.max or job.replicas.min)


PLACEMENTS: Registry[Strategy] = Registry(
    "placement", "batchgen.placements", {device: f"batchgen.cluster.placement:on_{device}s" for device in ("gpu", "cpu")}
)


def place(job: Job, spans: int, cluster: Resources) -> Placement:
    """The placement of a job with so many `spans` to run: at least one replica, never more than spans."""
    placement = PLACEMENTS.named(ENGINES.named(job.engine.kind).capabilities.device)(job, cluster)
    return replace(placement, replicas=max(1, min(placement.replicas, spans)))
