"""The object store and the engine of a World, with the faults that its dice decide."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from obstore.exceptions import AlreadyExistsError, GenericError, NotFoundError, PreconditionError

from batchgen.engines.base import Request
from batchgen.errors import BadRow, EngineError
from batchgen.records import Answer
from tests.faults.world import World


class Bucket:
    """obstore's functions over the objects of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.objects: dict[str, bytes] = {}
        self.puts: dict[str, int] = {}

    def put(
        self, client: Any, name: str, data: bytes, mode: str | dict[str, str] = "overwrite", use_multipart: bool = True
    ) -> None:
        assert not use_multipart, "a multipart upload is not conditional"
        objects = self.objects
        with self._operation(f"put {name}"):
            if mode != "overwrite" and self.world.fails("conflict"):
                raise AlreadyExistsError("409: another conditional request is under way")
            if mode == "create" and name in objects:
                raise AlreadyExistsError("412")
            if isinstance(mode, dict) and mode["e_tag"] != self._tag(name):
                raise PreconditionError("412")
            assert name not in objects or not name.startswith("data/"), f"{name} is overwritten"
            objects[name] = bytes(data)
            self.puts[name] = self.puts.get(name, 0) + 1

    def _tag(self, name: str) -> str | None:
        return str(self.puts[name]) if name in self.objects else None

    def head(self, client: Any, name: str) -> None:
        with self._operation(f"head {name}"):
            if name not in self.objects:
                raise NotFoundError(name)

    def get(self, client: Any, name: str) -> Any:
        with self._operation(f"get {name}"):
            if name not in self.objects:
                raise NotFoundError(name)
            data, tag = self.objects[name], self._tag(name)
        return SimpleNamespace(bytes=lambda: data, meta={"e_tag": tag, "version": None})

    def list(self, client: Any, prefix: str, chunk_size: int) -> list[list[dict[str, str]]]:
        with self._operation(f"list {prefix}"):
            found = [{"path": name} for name in self.objects if name.startswith(f"{prefix}/")]
        self.world.dice.shuffle(found)
        return [found]

    def delete(self, client: Any, names: Any) -> None:
        for name in [names] if isinstance(names, str) else names:
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

    async def generate(self, request: Request) -> list[Answer]:
        text = bytes(request.token_ids).decode()
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
        return [Answer(f"{text} answered", self.world.dice.randint(1, 9), "stop") for _ in range(request.sampling.n)]
