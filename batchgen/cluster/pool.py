"""The replicas as Ray actors: placement, start, death, replacement.

`max_restarts=0` and no task retries: recovery is the dispatcher's re-queue, and a dead replica is replaced by a
new actor. All `max` replicas are asked for at once, so that Ray's autoscaler sees the pending ones, and each
is used as soon as it is ready. An engine that cannot start before any other has is the job's error, with its own
message. After START_ATTEMPTS starts that failed one after the other no more are asked for, until a replica is ready again;
a start that ends with its node says nothing about starts.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayError, RayTaskError

from batchgen.engines.registry import engine_kind
from batchgen.errors import BatchgenError, EngineError, words
from batchgen.job.job import Job
from batchgen.records import Receipt, Shard
from batchgen.render.renderer import Renderer
from batchgen.replica.admission import share
from batchgen.replica.replica import Replica

START_ATTEMPTS = 3
STOP_SECONDS = 20.0
DRAIN_POLL_SECONDS = 2.0
_NODE_GONE = "node has died"  # in the words of Ray, which has no class for it


@dataclass(frozen=True)
class Event:
    """What happened to a replica: it is ready, has room (its `load` is told), finished or lost `item`, or died."""

    kind: Literal["ready", "room", "receipt", "lost", "died"]
    replica: int
    item: Any = None
    receipt: Receipt | None = None
    engine: dict[str, int] | None = None
    load: float = 0.0
    message: str = ""


class Pool:
    """The replicas of a job. Raises EngineError when none of them can start."""

    def __init__(self, renderer: Renderer, output: str, shards: tuple[Shard, ...], journaled: set[str], size: int) -> None:
        job = renderer.job
        self._arguments = ray.put((renderer, output, [shard.name for shard in shards], journaled))
        self._make = ray.remote(_Actor).options(
            max_restarts=0, max_task_retries=0, max_concurrency=10_000, scheduling_strategy="SPREAD", **resources(job)
        )
        self._actors: dict[int, Any] = {}
        self._assigned: dict[int, int] = {}
        self._nodes: dict[int, str] = {}
        self._leaving: set[int] = set()
        self._looked = 0.0
        self._calls: dict[Any, tuple[str, int, Any]] = {}
        self._size = size
        self._failed_starts = 0
        self._started = 0
        self.left = 0.0
        """Prompts of the job that are not finished; the driver says it."""
        self._ready_once = False
        self.alive: set[int] = set()
        self._refill()

    def assign(self, replica: int, item: Any, again: bool) -> None:
        """Let the replica run the span in block `item`; `again` when another replica has had it in this run."""
        self._assigned[replica] += 1
        self._call(replica, "receipt", self._actors[replica].run.remote(item, again), item)
        self.ask_for_room(replica)

    def wait(self, seconds: float) -> Iterator[Event]:
        """What happened, waiting up to `seconds` for something to happen."""
        if not self._calls:
            time.sleep(seconds)
            return
        calls = list(self._calls)
        ready, _ = ray.wait(calls, num_returns=1, timeout=seconds)
        if ready:
            ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        for call in ready:
            if call in self._calls:
                yield from self._settle(call)

    @property
    def staying(self) -> set[int]:
        """The living replicas whose node is not about to go."""
        return self.alive - self._leaving

    def draining(self) -> list[int]:
        """Replicas whose node Ray is about to take away, each once. They keep a close journal from now on, and others are
        asked for in their place."""
        now = time.monotonic()
        if now - self._looked < DRAIN_POLL_SECONDS:
            return []
        self._looked = now
        nodes = _draining_nodes()
        found = [replica for replica in self.staying if self._nodes[replica] in nodes]
        for replica in found:
            self._leaving.add(replica)
            self._actors[replica].drain.remote()
        self._refill()
        return found

    def release(self, replica: int) -> None:
        """End a replica that runs nothing."""
        self.alive.discard(replica)
        self._calls = {call: entry for call, entry in self._calls.items() if entry[1] != replica}
        self._end([self._actors.pop(replica)])

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End every replica and its engine's processes; they have `seconds` to write their journals."""
        self._end([self._actors[replica] for replica in self.alive], seconds)
        self._end(list(self._actors.values()), 0)

    def _end(self, actors: list[Any], seconds: float = STOP_SECONDS) -> None:
        if actors and seconds:
            stopping = [actor.stop.remote() for actor in actors]
            ray.wait(stopping, num_returns=len(stopping), timeout=seconds)
        for actor in actors:
            ray.kill(actor, no_restart=True)

    def _refill(self) -> None:
        """Ask for the replicas that are missing."""
        while len(self._actors.keys() - self._leaving) < self._size and self._failed_starts < START_ATTEMPTS:
            self._started += 1
            replica = self._started
            self._actors[replica] = self._make.remote(self._arguments)
            self._assigned[replica] = 0
            self._call(replica, "ready", self._actors[replica].start_here.remote())

    def ask_for_room(self, replica: int) -> None:
        """Let the replica say when it can take another span; one question at a time."""
        if not any(kind == "room" and of == replica for kind, of, _ in self._calls.values()):
            self._call(
                replica, "room", self._actors[replica].capacity_left.remote(self._assigned[replica], share(self.left, self._size))
            )

    def _call(self, replica: int, kind: str, reference: Any, item: Any = None) -> None:
        self._calls[reference] = (kind, replica, item)

    def _settle(self, call: Any) -> Iterator[Event]:
        kind, replica, item = self._calls.pop(call)
        if replica not in self._actors:
            return
        try:
            result = ray.get(call)
        except ObjectLostError as error:
            yield Event("lost", replica, item, message=words(error))
        except RayTaskError as error:
            yield from self._failed(kind, replica, item, error)
        except (ActorDiedError, ActorUnavailableError, RayError) as error:
            yield from self._died(kind, replica, _why(error))
        else:
            if kind == "ready":
                engine, self._nodes[replica] = result
                self.alive.add(replica)
                self._ready_once, self._failed_starts = True, 0
                self._refill()
                yield Event("ready", replica, engine=engine)
                self.ask_for_room(replica)
            elif kind == "room":
                yield Event("room", replica, load=result)
            else:
                yield Event("receipt", replica, item, receipt=result)

    def _failed(self, kind: str, replica: int, item: Any, error: RayTaskError) -> Iterator[Event]:
        cause = error.cause if isinstance(error.cause, BaseException) else error
        if isinstance(cause, ObjectLostError):
            yield Event("lost", replica, item, message=words(cause))
        elif isinstance(cause, BatchgenError) and not isinstance(cause, EngineError):
            raise cause
        else:
            if kind == "ready" and not self._ready_once:
                raise EngineError(f"no replica can start: {cause}")
            yield from self._died(kind, replica, str(cause))

    def _died(self, kind: str, replica: int, message: str) -> Iterator[Event]:
        receipts = [call for call, (what, of, _) in self._calls.items() if (what, of) == ("receipt", replica)]
        for call in ray.wait(receipts, num_returns=len(receipts), timeout=0)[0] if receipts and kind != "ready" else ():
            with contextlib.suppress(RayError):  # what it had finished before it died needs no second time
                yield Event("receipt", replica, self._calls[call][2], receipt=ray.get(call))
        actor = self._actors.pop(replica)
        self._calls = {call: entry for call, entry in self._calls.items() if entry[1] != replica}
        ray.kill(actor, no_restart=True)
        self.alive.discard(replica)
        self._leaving.discard(replica)
        self._failed_starts += kind == "ready" and _NODE_GONE not in message
        self._refill()
        if not self._actors:
            raise EngineError(f"{'every replica died' if self._ready_once else 'no replica can start'}: {message}")
        yield Event("died", replica, message=message)


class _Actor(Replica):
    """A Replica with a process of its own, whose arguments come as one object, put once for all replicas."""

    def __init__(self, arguments: tuple[Renderer, str, list[str], set[str]]) -> None:
        super().__init__(*arguments)

    async def start_here(self) -> tuple[dict[str, int], str]:
        """As start, with the id of the node."""
        engine = await super().start()
        return engine, ray.get_runtime_context().get_node_id()


def _draining_nodes() -> set[str]:
    """Ids of the nodes that are being drained: of spot instances with a notice, of what the autoscaler gives back."""
    try:
        return set(_head(ray.get_runtime_context().gcs_address).get_draining_nodes(timeout=5))
    except RayError:  # a head that is busy has nothing new to say
        return set()


@functools.lru_cache(maxsize=1)
def _head(address: str) -> Any:
    """The connection to a cluster's head, one for all looks."""
    return GcsClient(address=address)


def resources(job: Job) -> dict[str, float]:
    """What Ray reserves for a replica: a GPU per tensor x pipeline rank; nothing for an engine on CPUs, which
    would otherwise take from the feed the CPUs that it needs."""
    ranks = job.engine.tensor_parallel_size * job.engine.pipeline_parallel_size
    on_gpu = engine_kind(job.engine.kind).capabilities.device == "gpu"
    return {"num_gpus": ranks, "num_cpus": 1} if on_gpu else {"num_gpus": 0, "num_cpus": 0}


def size(job: Job, spans: int) -> int:
    """Replicas to ask for: `replicas.max`, or what the cluster's GPUs hold now; never more than there are spans."""
    wanted = job.replicas.max
    if wanted is None:
        gpus = resources(job)["num_gpus"]
        held = int(ray.cluster_resources().get("GPU", 0) // gpus) if gpus else 1
        wanted = max(job.replicas.min, held)
    return max(1, min(wanted, spans))


def _why(error: RayError) -> str:
    """The cause in Ray's account of a dead actor, which begins with all that is known of the actor."""
    told = words(error, 2000)
    return (told.partition(" because ")[2] or told)[:300]
