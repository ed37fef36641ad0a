"""Ray in a World: the feed of blocks, and the pool of replicas, each in a process of the world."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from batchgen.cluster.lookahead import END
from batchgen.cluster.policy.dispatch import BlockLost, Capacity, Died, Event, Finished, Ready
from batchgen.cluster.policy.health import Kind
from batchgen.cluster.pool import STOP_SECONDS
from batchgen.errors import EngineError
from batchgen.read import reader
from batchgen.render.blocks import encode_block, encode_span
from batchgen.replica.admission import share
from batchgen.replica.careful import Care
from batchgen.replica.replica import Replica
from tests.faults.concurrency import Loop
from tests.faults.world import Process, World


class Item:
    """A span's block as the driver sees it: a reference."""

    def __init__(self, block: Any) -> None:
        self.block = block


class Feed:
    def __init__(self, assets: Any, shards: Iterable[Any], spans: list[Any], replicas: int, room: object) -> None:
        self.renderer, self.input_columns = assets.renderer, assets.input_columns
        self.shards, self.spans = {shard.index: shard for shard in shards}, list(reversed(spans))

    def next(self) -> Any:
        if not self.spans:
            return END
        span = self.spans.pop()
        shard = self.shards[span.shard]
        [(_, rows, kept)] = reader.read_spans(self.renderer.job, shard, [span], self.input_columns, self.renderer.needed)
        return Item(encode_block(span, encode_span(self.renderer, shard.name, rows, span.again), kept))

    def stop(self) -> None: ...


@dataclass(eq=False)
class _Held:
    """A replica as its pool knows it. Its loop (a Loop) and its worker (a Replica) are there once its process has begun."""

    process: Process
    assigned: int = 0
    asked: bool = False
    leaving: bool = False
    loop: Any = None
    worker: Any = None
    end: asyncio.Event | None = None


class Pool:
    """The interface of pool.Pool, with a process of the world for each actor."""

    waits_for, uncommitted = "", 0
    prompts_left: float
    """Set by the driver, before any replica is ready."""

    def __init__(self, world: World, arguments: tuple[Any, ...], size: int) -> None:
        self.world, self.arguments = world, arguments
        self.driver = world.me.process
        self.events: list[Event | Exception] = []
        self.held: dict[int, _Held] = {}
        self.alive: set[int] = set()
        self.serial, self.size = 0, size
        for _ in range(size):
            self._start_one()

    @property
    def staying(self) -> set[int]:
        return {replica for replica in self.alive if not self.held[replica].leaving}

    def assign(self, replica: int, item: Item, again: bool, care: Care | None = None, pace: float = 1.0) -> None:
        held = self.held[replica]
        held.assigned += 1
        if self.world.fails("block lost"):
            self._call(replica, held.worker.skip, None)
            self.events.append(BlockLost(replica, item, "lost"))
        else:
            self._call(
                replica, lambda: held.worker.run(item.block, again, care), lambda receipt: Finished(replica, item, receipt)
            )
        self.ask_capacity(replica)

    def ask_capacity(self, replica: int) -> None:
        held = self.held[replica]
        if not held.asked:
            held.asked = True
            self._call(
                replica,
                lambda: held.worker.capacity_left(held.assigned, share(self.prompts_left, self.size)),
                lambda load: Capacity(replica, load),
            )

    def wait(self, seconds: float) -> Iterator[Event]:
        self.world.wait(lambda: bool(self.events), seconds)
        while self.events:
            event = self.events.pop(0)
            if isinstance(event, Exception):
                raise event
            if event.replica not in self.held:
                continue
            match event:
                case Ready(replica):
                    self.alive.add(replica)
                    self.ask_capacity(replica)
                case Capacity(replica):
                    self.held[replica].asked = False
                case Died(replica):
                    self.alive.discard(replica)
                    if not self.held.pop(replica).leaving:
                        self._start_one()
            yield event

    def adjust(self, waiting: int, running: int, feed_ended: bool, idle: list[int]) -> tuple[list[int], list[int], list[str]]:
        if not self.staying or not self.world.fails("drain notice", 0.1):
            return [], [], []
        replica = self.world.dice.choice(sorted(self.staying))
        self.held[replica].leaving = True
        self._call(replica, self.held[replica].worker.drain, None)
        self._start_one()
        return [replica], [], []

    def where(self, replica: int) -> str:
        return "node 1"

    def keep_journals(self) -> None:
        for replica in self.alive:
            self._call(replica, self.held[replica].worker.drain, None)

    def release(self, replica: int) -> None:
        self.alive.discard(replica)
        self._end([self.held.pop(replica)], STOP_SECONDS)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        self._end(list(self.held.values()), seconds)
        self.held.clear()

    def lose(self, replica: int, message: str, kind: Kind = "engine") -> None:
        """The driver hears that the replica is dead, be it true or not."""
        self.events.append(Died(replica, message, kind=kind))

    def _end(self, ended: list[_Held], seconds: float) -> None:
        for held in ended:
            if held.loop is not None and held.end is not None and not held.process.dead:
                held.loop.call_soon_threadsafe(held.end.set)
        if seconds:
            self.world.wait(lambda: all(held.process.dead for held in ended), seconds)
        for held in ended:
            held.process.dead = True

    def _start_one(self) -> None:
        self.serial += 1
        replica = self.serial
        held = self.held[replica] = _Held(self.world.process(f"replica {replica} of {self.driver.name}"))

        async def serve() -> None:
            held.worker = Replica(*self.arguments)
            held.end = asyncio.Event()
            engine = await held.worker.start()
            self.events.append(Ready(replica, engine))
            await held.end.wait()
            await held.worker.stop()

        def live() -> None:
            held.loop = Loop(self.world)
            held.loop.live(serve())

        self.world.spawn(held.process, live)

    def _call(self, replica: int, work: Any, event: Callable[[Any], Event] | None) -> None:
        held = self.held[replica]

        async def called() -> None:
            try:
                result = await work()
            except EngineError as error:
                self.lose(replica, str(error))
            except Exception as error:
                self.events.append(error)
            else:
                if event is not None:
                    self.events.append(event(result))

        if not held.process.dead and held.loop is not None:
            held.loop.call_soon_threadsafe(lambda: held.loop.create_task(called()))
