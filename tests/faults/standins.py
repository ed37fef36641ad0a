"""What stands in, in a World, for what the modules of batchgen use: Ray, the engine, the object store, clocks and threads.

The page of run.py, its lease, plan, drive and dispatch, the replicas with guard, journal and commit, and ObjectStore run as they
are, over `Bucket`, whose every operation is a point at which anything may happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import selectors
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from faults.world import Process, World
from obstore.exceptions import AlreadyExistsError, GenericError, NotFoundError

from batchgen import answer, drive, feed, generate, guard, journal, lease, plan, read, report, retry, store, verify
from batchgen.errors import BadRow, EngineError
from batchgen.pool import STOP_SECONDS, Event
from batchgen.records import Output


class Bucket:
    """obstore's functions over the objects of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.objects: dict[str, bytes] = {}

    def put(self, client: Any, name: str, data: bytes, mode: str = "overwrite", use_multipart: bool = True) -> None:
        assert not use_multipart, "a multipart upload is not conditional"
        objects = self.objects
        with self._operation(f"put {name}"):
            if mode == "create":
                if self.world.fails("conflict"):
                    raise AlreadyExistsError("409: another conditional request is under way")
                if name in objects:
                    raise AlreadyExistsError("412")
            assert name not in objects or not name.startswith("data/"), f"{name} is overwritten"
            objects[name] = bytes(data)

    def head(self, client: Any, name: str) -> None:
        with self._operation(f"head {name}"):
            if name not in self.objects:
                raise NotFoundError(name)

    def get(self, client: Any, name: str) -> Any:
        with self._operation(f"get {name}"):
            if name not in self.objects:
                raise NotFoundError(name)
            data = self.objects[name]
        return SimpleNamespace(bytes=lambda: data)

    def list(self, client: Any, prefix: str, chunk_size: int) -> list[list[dict[str, str]]]:
        with self._operation(f"list {prefix}"):
            found = [{"path": name} for name in self.objects if name.startswith(f"{prefix}/")]
        self.world.dice.shuffle(found)
        return [found]

    def delete(self, client: Any, name: str) -> None:
        with self._operation(f"delete {name}"):
            assert not name.startswith("data/"), f"{name} is deleted"
            self.objects.pop(name, None)

    @contextlib.contextmanager
    def _operation(self, what: str) -> Iterator[None]:
        world = self.world
        world.point()
        if world.fails("store fails"):
            raise GenericError(f"503: {what}")
        yield
        world.point()
        if world.fails("applied, reported as failed"):
            raise GenericError(f"reset: {what}")


class Loop(asyncio.SelectorEventLoop):
    """An event loop of one process, whose time is the world's and whose executor is threads of the process."""

    def __init__(self, world: World) -> None:
        self.world, self.process = world, world.me.process
        super().__init__(_Selector(self))
        self.set_exception_handler(lambda *_: None)

    def time(self) -> float:
        return self.world.now

    def run_in_executor(self, executor: Any, call: Any, *arguments: Any) -> Any:
        future = self.create_future()

        def work() -> None:
            try:
                result, error = call(*arguments), None
            except Exception as raised:
                result, error = None, raised
            self.call_soon_threadsafe(lambda: future.cancelled() or _settle(future, result, error))

        self.world.spawn(self.process, work)
        return future

    def live(self, work: Any) -> None:
        """Run until the work is done or the process is killed."""
        asyncio.set_event_loop(self)
        try:
            self.run_until_complete(work)
        finally:
            left = asyncio.all_tasks(self)
            for task in left:
                task.cancel()
            self.process.dead = True
            with contextlib.suppress(BaseException):
                self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            asyncio.set_event_loop(None)
            self.close()

    def _write_to_self(self) -> None:
        return None


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if not self._loop.process.dead and (timeout is None or timeout > 0):
            self._loop.world.wait(lambda: bool(self._loop._ready), timeout)  # type: ignore[attr-defined]
        return []


class Engine:
    """Answers with the prompt's own text. Dies of `poison`, refuses `refused`, and now and then dies or hangs by chance."""

    capacity, workers = 4, 1

    def __init__(self, world: World, generated: Callable[[], None]) -> None:
        self.world, self.generated = world, generated
        self.dead = self.hung = False
        self.inside = 0

    async def start(self) -> None:
        await asyncio.sleep(self.world.dice.uniform(0, 5))

    async def stop(self) -> None: ...

    async def probe(self) -> None:
        if self.hung:
            await asyncio.Event().wait()
        if self.dead:
            raise EngineError("dead")

    async def generate(self, request: str, token_ids: list[int], sampling: dict[str, Any], place: int = 0) -> list[Output]:
        text = bytes(token_ids).decode()
        if "refused" in text:
            raise BadRow("engine_rejected", "refused")
        self.inside += 1
        try:
            if self.inside > 1:  # a prompt that is alone when the engine dies by chance would pass for poison
                self.hung = self.hung or self.world.fails("engine hangs", 0.2)
                self.dead = self.dead or self.world.fails("engine dies", 0.2)
            self.dead = self.dead or "poison" in text
            await asyncio.sleep(self.world.dice.choice((0.1, 0.5, 5.0, 60.0)))
            if self.hung:
                await asyncio.Event().wait()
        finally:
            self.inside -= 1
        if self.dead:
            raise EngineError("dead")
        self.generated()
        return [Output(f"{text} answered", self.world.dice.randint(1, 9), "stop") for _ in range(sampling["n"])]


class Item:
    """A span's block as the driver sees it: a reference."""

    def __init__(self, block: Any) -> None:
        self.block = block


class Feed:
    def __init__(self, assets: Any, shards: Iterable[Any], spans: list[Any], ahead: int) -> None:
        self.renderer, self.kept = assets.renderer, assets.kept
        self.shards, self.spans = {shard.index: shard for shard in shards}, list(reversed(spans))

    def next(self) -> Any:
        if not self.spans:
            return feed.END
        span = self.spans.pop()
        shard = self.shards[span.shard]
        [(_, rows, kept)] = read.read_spans(self.renderer.job.input, shard, [span], self.kept, self.renderer.needed)
        return Item(feed.encode_block(span, feed.encode_span(self.renderer, shard.name, rows, span.again), kept))

    def stop(self) -> None: ...


@dataclass(eq=False)
class _Held:
    """A replica as its pool knows it. Its loop and its worker are there once its process has begun."""

    process: Process
    assigned: int = 0
    asked: bool = False
    leaving: bool = False
    loop: Loop | None = None
    worker: generate.Replica | None = None
    end: asyncio.Event | None = None


class Pool:
    """The interface of pool.Pool, with a process of the world for each actor."""

    def __init__(self, world: World, arguments: tuple[Any, ...], size: int) -> None:
        self.world, self.arguments = world, arguments
        self.driver = world.me.process
        self.events: list[Event | Exception] = []
        self.held: dict[int, _Held] = {}
        self.alive: set[int] = set()
        self.serial = 0
        for _ in range(size):
            self._start_one()

    @property
    def staying(self) -> set[int]:
        return {replica for replica in self.alive if not self.held[replica].leaving}

    def assign(self, replica: int, item: Item, again: bool) -> None:
        held = self.held[replica]
        held.assigned += 1
        if self.world.fails("block lost"):
            held.assigned -= 1
            self.events.append(Event("lost", replica, item))
        else:
            self._call(
                replica, lambda: held.worker.run(item.block, again), lambda done: Event("receipt", replica, item, receipt=done)
            )
        self.ask_for_room(replica)

    def ask_for_room(self, replica: int) -> None:
        held = self.held[replica]
        if not held.asked:
            held.asked = True
            self._call(replica, lambda: held.worker.room(held.assigned), lambda load: Event("room", replica, load=load))

    def wait(self, seconds: float) -> Iterator[Event]:
        self.world.wait(lambda: bool(self.events), seconds)
        while self.events:
            event = self.events.pop(0)
            if isinstance(event, Exception):
                raise event
            if event.replica not in self.held:
                continue
            if event.kind == "ready":
                self.alive.add(event.replica)
            if event.kind == "room":
                self.held[event.replica].asked = False
            if event.kind == "died":
                self.alive.discard(event.replica)
                if not self.held.pop(event.replica).leaving:
                    self._start_one()
            yield event
            if event.kind == "ready":
                self.ask_for_room(event.replica)

    def draining(self) -> list[int]:
        if not self.staying or not self.world.fails("drain notice", 0.1):
            return []
        replica = self.world.dice.choice(sorted(self.staying))
        self.held[replica].leaving = True
        self._call(replica, self.held[replica].worker.drain, None)
        self._start_one()
        return [replica]

    def release(self, replica: int) -> None:
        self.alive.discard(replica)
        self._end([self.held.pop(replica)], STOP_SECONDS)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        self._end(list(self.held.values()), seconds)
        self.held.clear()

    def lose(self, replica: int, message: str) -> None:
        """The driver hears that the replica is dead, be it true or not."""
        self.events.append(Event("died", replica, message=message))

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
            held.worker = generate.Replica(*self.arguments)
            held.end = asyncio.Event()
            engine = await held.worker.start()
            self.events.append(Event("ready", replica, engine=engine))
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


class _Event:
    """threading.Event in a world."""

    def __init__(self, world: World) -> None:
        self._world, self._set = world, False

    def set(self) -> None:
        self._set = True

    def wait(self, seconds: float) -> bool:
        self._world.wait(lambda: self._set, seconds)
        return self._set


class _Thread:
    """threading.Thread in a world: of the process that makes it."""

    def __init__(self, world: World, target: Callable[[], None]) -> None:
        self._world, self._target, self._ended = world, target, False

    def start(self) -> None:
        self._world.spawn(self._world.me.process, self._run)

    def join(self) -> None:
        self._world.wait(lambda: self._ended)

    def _run(self) -> None:
        try:
            self._target()
        finally:
            self._ended = True


class _Serial:
    """concurrent.futures.ThreadPoolExecutor, one call after the other."""

    def __init__(self, _: int) -> None: ...

    def __enter__(self) -> _Serial:
        return self

    def __exit__(self, *_: object) -> None: ...

    map = staticmethod(map)


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
        renderer, output, shards, journaled, size = arguments
        stage.pools.append(Pool(world, (renderer, output, [shard.name for shard in shards], journaled), size))
        return stage.pools[-1]

    def count() -> None:
        stage.generated += 1

    clock = SimpleNamespace(monotonic=lambda: world.now, time=lambda: world.now, sleep=world.sleep)
    for module in (lease, store, report, generate, drive, answer):
        patch.setattr(module, "time", clock)
    for module in (lease, store, journal):
        patch.setattr(module, "uuid", SimpleNamespace(uuid4=lambda: uuid.UUID(int=world.dice.getrandbits(128), version=4)))
    for module in (report, plan, verify, retry):
        patch.setattr(module, "ThreadPoolExecutor", _Serial)
    serial = itertools.count()
    for kind in (guard._Visit, generate._Open):  # members of sets, whose order would differ from run to run
        patch.setattr(kind, "__hash__", lambda one: one.__dict__.setdefault("serial", next(serial)))
    one_host = world.dice.random() < 0.5
    patch.setattr(
        lease, "threading", SimpleNamespace(Event=lambda: _Event(world), Thread=lambda target, **_: _Thread(world, target))
    )
    patch.setattr(lease, "os", SimpleNamespace(getpid=lambda: world.me.process.number))
    patch.setattr(lease, "_host", lambda: "host" if one_host else f"host of {world.me.process.name}")
    patch.setattr(lease, "_started", lambda pid: "then" if pid == "self" or world.lives(pid) else None)
    patch.setattr(store, "random", world.dice)
    patch.setattr(store, "obstore", stage.bucket)
    patch.setattr(store, "open_client", lambda url: None)
    patch.setattr(generate, "make_engine", lambda job, model: Engine(world, count))
    patch.setattr(drive, "on_ray", lambda call: call())
    patch.setattr(drive, "ray", SimpleNamespace(put=lambda value: value, cluster_resources=dict))
    patch.setattr(drive, "Feed", Feed)
    patch.setattr(drive, "Pool", pool)
    return stage
