"""What stands in, in a World, for what the modules of batchgen use: Ray, the engine, the object store, clocks and threads.

The page of run.py, its lease, plan, drive and dispatch, the replicas with their restarts, journal and commit, and ObjectStore run
as they are, over `Bucket`, whose every operation is a point at which anything may happen.
"""

from __future__ import annotations

import os
import time
import uuid
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from batchgen import terminal
from batchgen.cluster import connect, driver, feed, monitor
from batchgen.output import lease, output, progress, store, verify
from batchgen.output.store import local, objects
from batchgen.output.trust import manifest
from batchgen.read import discover
from batchgen.replica import engines, journal, replica
from batchgen.tasks import generate
from tests.faults import concurrency
from tests.faults.backends import Bucket, Engine
from tests.faults.cluster import Feed, Pool
from tests.faults.world import World


@dataclass
class Stage:
    """What there is in a world to look at and to break."""

    world: World
    bucket: Bucket
    pools: list[Pool]
    generated: int = 0


def inhabit(patch: pytest.MonkeyPatch, world: World) -> Stage:
    """Put the modules of batchgen into the world, until the patch is undone."""
    stage = Stage(world, Bucket(world), [])

    def pool(*arguments: Any) -> Pool:
        renderer, output, shards, journaled, placement = arguments
        [group] = placement.groups
        size = max(1, min(group.holds([], placement.spans), placement.spans))
        stage.pools.append(Pool(world, (renderer, output, [shard.name for shard in shards], journaled), size))
        return stage.pools[-1]

    def count() -> None:
        stage.generated += 1

    def process(number: int) -> dict[str, object]:
        host = "host" if one_host else f"host of {world.me.process.name}"
        return {"host": host, "boot": 1, "space": 1, "pid": number, "started": "then" if world.lives(number) else None}

    clock = SimpleNamespace(
        monotonic=lambda: world.now, time=lambda: world.now, sleep=world.sleep, thread_time=lambda: 0.0, strftime=time.strftime
    )
    for module in (lease, local, objects, monitor, terminal, replica, driver, generate):
        patch.setattr(module, "time", clock)
    for module in (lease, local, store, journal):
        patch.setattr(module, "uuid", SimpleNamespace(uuid4=lambda: uuid.UUID(int=world.dice.getrandbits(128), version=4)))
    for module in (progress, discover, verify, output, manifest):
        patch.setattr(module, "ThreadPoolExecutor", concurrency.SerialExecutor)
    one_host = world.dice.random() < 0.5
    threading = SimpleNamespace(
        Event=lambda: concurrency.Event(world), Thread=lambda target, **_: concurrency.Thread(world, target)
    )
    patch.setattr(lease, "threading", threading)
    patch.setattr(lease, "os", SimpleNamespace(getpid=lambda: world.me.process.number, readlink=os.readlink))
    patch.setattr(lease, "process", process)
    patch.setattr(objects, "random", world.dice)
    patch.setattr(objects, "obstore", stage.bucket)
    patch.setattr(store, "open_client", lambda url: None)
    patch.setattr(
        engines, "ENGINES", SimpleNamespace(named=lambda _: SimpleNamespace(make=lambda job, model: Engine(world, count)))
    )
    patch.setattr(connect, "connected", lambda *_: nullcontext(True))
    patch.setattr(driver, "ray", SimpleNamespace(put=lambda value: value))
    patch.setattr(feed, "Feed", Feed)
    patch.setattr(driver, "Pool", pool)
    return stage
