"""A replica as a Ray actor, where it is, and what it logs there."""

import asyncio
import os
from collections.abc import Mapping
from typing import NamedTuple

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from batchgen import logs
from batchgen.cluster.answers import Elsewhere
from batchgen.engines.base import NODES
from batchgen.errors import JobError
from batchgen.job.job import Job
from batchgen.render.renderer import Renderer
from batchgen.replica import preflight
from batchgen.replica.replica import Replica


class Place(NamedTuple):
    """Where a replica is: a node, its address, the file there that the replica logs to."""

    node: str
    address: str
    log: str

    def __str__(self) -> str:
        return f"node {self.node[:12]} ({self.address})"


def log_of(place: Place) -> ObjectRef:
    """The end of a log, by a task on its node; it fails where the node is gone."""
    there = NodeAffinitySchedulingStrategy(place.node, soft=False)
    found: ObjectRef = ray.remote(logs.tail).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(place.log)
    return found


class ReplicaActor(Replica):
    """A Replica in a process of its own. Replica's arguments come as one object, put once for all replicas of a group; `nodes` is
    the number of nodes that it spans, `env` what it gets of the driver's environment, `ledger` that of the run's answers, where
    its replicas share them."""

    def __init__(
        self,
        arguments: tuple[Renderer, str, list[str], set[str]],
        number: int,
        log_level: int,
        nodes: int = 1,
        env: Mapping[str, str] | None = None,
        ledger: ActorHandle | None = None,
    ) -> None:
        os.environ.update({NODES: str(nodes), **(env or {})})
        logs.configure(log_level)
        logs.identify(job=arguments[0].job.name, replica=number)
        self._log = logs.logger("replica")
        super().__init__(*arguments, elsewhere=None if ledger is None else Elsewhere(ledger, number))

    async def where(self) -> tuple[str, str, str]:
        """The id and the address of this node, and the file that this process logs to."""
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), logs.own_file()

    async def start_here(self) -> tuple[dict[str, int], str, str]:
        """As start, with the id of the node and the version of the engine's package there."""
        node = ray.get_runtime_context().get_node_id()
        self._log.info("process %d on node %s starts its engine", os.getpid(), node)
        await asyncio.to_thread(preflight.look, self.renderer, self.store)
        engine = await super().start()
        self._log.info("engine ready: %s", engine)
        return engine, node, preflight.version_here(self.job) or ""


def environment(job: Job) -> dict[str, str]:
    """The variables that workers get of this process: those of replicas.env_from, and what a preflight compares. They are no part
    of a runtime_env, which Ray shows. Raises JobError where one is not set."""
    names = job.replicas.env_from
    if missing := [name for name in names if name not in os.environ]:
        raise JobError(f"replicas.env_from: {missing[0]} is not set here", "set it where the driver runs, or leave it out")
    return {**{name: os.environ[name] for name in names}, **preflight.of_driver(job)}
