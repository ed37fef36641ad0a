"""The replica: spans of prompts in, parts out, many spans in flight.

Every prompt is a coroutine, so that no row waits for another. Twice as many as the engine runs at once are inside, so that it
never starves; the others wait for their turn (lengths.py). `room` is how a replica asks for work: it answers when fewer prompts
are unfinished than it should have, and few spans wait for the store, so that finished rows do not pile up behind a slow
one. What is finished in spans that are still open goes into the journal every `spans.journal_seconds`.
Plain Python: pool.py makes a Ray actor of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

from batchgen.engines.base import Engine
from batchgen.engines.registry import engine_kind
from batchgen.engines.restarting import RestartingEngine
from batchgen.errors import EngineError, StoreError
from batchgen.output import journal, parts
from batchgen.output.store import delete_all, open_store
from batchgen.records import Completion, Receipt, output_schema
from batchgen.render.renderer import Renderer
from batchgen.replica.admission import INSIDE, Lengths, Line, Order, length_key
from batchgen.tasks.generate import Answerer

LOG_TAIL = 20
T = TypeVar("T")
MOST_COMMITTING = 4
DEEP_BYTES = 16 * 2**20  # nine times as much once the token ids are Python's integers
DRAIN_JOURNAL_SECONDS = 1.0


@dataclass(eq=False)
class _Open:
    """A span that has no part yet: prompts finished since the last journal file, and its journal files."""

    name: str
    size: int
    fresh: dict[int, list[Completion]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    first: float = 0.0
    """When its first prompt entered the engine."""


class Replica:
    """One engine and the spans it is working on. `shards` are the plan's shard names, `journaled` the spans that had
    journal files when the run began. The engine is the job's, guarded, unless another is given."""

    def __init__(
        self, renderer: Renderer, output: str, shards: list[str], journaled: Iterable[str] = (), engine: Engine | None = None
    ) -> None:
        self.renderer, self.shards = renderer, shards
        self.job = job = renderer.job
        self.store = open_store(output)
        os.environ.update(job.engine.env)
        kind = engine_kind(job.engine.kind)
        self.engine = engine or RestartingEngine(
            lambda: kind.make(job, renderer.model), job.engine.watchdog_seconds, job.limits.row_seconds
        )
        self._answerer = Answerer(renderer, self.engine)
        self._journaled = frozenset(journaled)
        self._spans: set[_Open] = set()
        self._draining = asyncio.Event()
        self._journaling: asyncio.Task[None] | None = None
        self._accepted = 0
        self._unfinished = 0
        self._load = 0.0
        self._committing = 0
        self._spent = 0.0
        self._restarts = 0
        self._lengths = Lengths()
        self._order = Order(self._lengths)
        self._line = Line()
        self._change = asyncio.Event()

    async def start(self) -> dict[str, int]:
        """Load the model; capacity and workers of the engine. Raises EngineError with the end of the engine's log."""
        try:
            await self.engine.start()
        except EngineError as error:
            raise EngineError(f"{error}{_log_tail()}") from None
        self._journaling = asyncio.create_task(self._keep_journal())
        return {"capacity": self.engine.capacity, "workers": self.engine.workers}

    async def stop(self) -> None:
        """Write the journal and end the engine."""
        if self._journaling is not None:
            self._journaling.cancel()
        with contextlib.suppress(StoreError):
            await self._write_journal()
        await self.engine.stop()

    async def drain(self) -> None:
        """The replica's node is about to go: keep every finished row from now on."""
        self._draining.set()

    async def room(self, assigned: int, share: float = 0.0) -> float:
        """The load (unfinished prompts, each by its expected length), when all `assigned` spans have arrived and there is room
        for another. `share`: see sizes.share."""
        while self._accepted < assigned or not self._has_room(share):
            self._change.clear()
            await self._change.wait()
        return self._load

    async def run(self, block: pa.Table, again: bool = False) -> Receipt:
        """Generate and commit one span; `block` is feed.encode_block's, `again` whether another replica had it in this run.

        Raises EngineError (the replica is of no more use), StoreError, TooManyErrors (see answer.py).
        """
        began = time.monotonic()
        name, shard = block["span"][0].as_py(), self.shards[block["shard"][0].as_py()]
        prompts, kept = (pa.ipc.open_stream(block[table][0].as_buffer()).read_all() for table in ("prompts", "kept"))
        rows = prompts.to_pylist()
        places = self._order.places(rows, self.engine.capacity)
        self._count(accepted=1, unfinished=len(rows), load=sum(length for _, length in places))
        span = _Open(name, block.nbytes)
        done: dict[int, list[Completion]] = {}
        if again or name in self._journaled:
            done, span.files = await asyncio.to_thread(journal.load, self.store, name)
            self._count(unfinished=-len(done), load=-sum(places[index][1] for index in done))
        self._spans.add(span)
        try:
            left = [index for index in range(len(rows)) if index not in done]
            answering = [self._answer(span, index, rows[index], *places[index], shard) for index in left]
            answered = await asyncio.gather(*answering)
        except EngineError:
            with contextlib.suppress(StoreError):
                await self._write_journal_of(span)
            raise
        finally:
            self._spans.discard(span)
        last = time.time()
        self._count(committing=1)
        done |= {of_prompt[0].prompt: of_prompt for of_prompt in answered}
        completions = [completion for index in range(len(rows)) for completion in done[index]]
        schema = output_schema(kept.schema, self.job.schema_names, self.job.parsed_type, self.job.output.token_logprobs)
        label, footer = self.renderer.model.label, parts.footer_of(completions)
        part = await self._spend(parts.encode_part, prompts, kept, completions, schema, shard, label, footer)
        created = await self._spend(parts.commit, self.store, name, part)
        counts, errors = footer if created else await asyncio.to_thread(parts.read_footer, self.store, name)
        if span.files:
            await asyncio.to_thread(delete_all, self.store, span.files)
        self._count(committing=-1)
        return Receipt(
            span=name,
            created=created,
            counts=counts,
            errors=errors,
            samples=parts.first_errors(completions),
            first=span.first or last,
            last=last,
            seconds=time.monotonic() - began,
            committing=self._new_spent(),
            taken=sum(map(len, done.values())) - sum(map(len, answered)),
            restarts=self._new_restarts(),
        )

    def _has_room(self, share: float) -> bool:
        if sum(span.size for span in self._spans) >= DEEP_BYTES:
            share = 0.0
        wanted = self._order.wants(self._unfinished, self._load, self.engine.capacity, share)
        return wanted and self._committing < MOST_COMMITTING

    def _count(self, accepted: int = 0, unfinished: int = 0, load: float = 0.0, committing: int = 0) -> None:
        self._accepted += accepted
        self._unfinished += unfinished
        self._load += load
        self._committing += committing
        self._change.set()

    async def _spend(self, call: Callable[..., T], *arguments: Any) -> T:
        """The result of a call in a thread, whose CPU time is counted as committing."""

        def timed() -> tuple[T, float]:
            began = time.thread_time()
            return call(*arguments), time.thread_time() - began

        result, spent = await asyncio.to_thread(timed)
        self._spent += spent
        return result

    def _new_spent(self) -> float:
        spent, self._spent = self._spent, 0.0
        return spent

    def _new_restarts(self) -> int:
        before, self._restarts = self._restarts, getattr(self.engine, "restarts", 0)
        return self._restarts - before

    async def _answer(
        self, span: _Open, index: int, row: dict[str, Any], queue_place: int, length: float, shard: str
    ) -> list[Completion]:
        await self._line.enter(queue_place, INSIDE * self.engine.capacity)
        span.first = span.first or time.time()
        try:
            completions = await self._answerer.answer(index, row, queue_place, shard)
        finally:
            self._line.leave()
        self._count(unfinished=-1, load=-length)
        span.fresh[index] = completions
        for completion in completions:
            if completion.error is None:
                self._lengths.learn(length_key(row), completion.completion_tokens // (1 + len(row["turns"])))
        return completions

    async def _keep_journal(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._draining.wait(), self.job.spans.journal_seconds)
            if self._draining.is_set():
                await asyncio.sleep(DRAIN_JOURNAL_SECONDS)
            with contextlib.suppress(StoreError):  # the commit will say so, when it comes
                await self._write_journal()

    async def _write_journal(self) -> None:
        for span in list(self._spans):
            await self._write_journal_of(span)

    async def _write_journal_of(self, span: _Open) -> None:
        fresh, span.fresh = span.fresh, {}
        if not fresh:
            return
        completions = [completion for of_prompt in fresh.values() for completion in of_prompt]
        try:
            span.files.append(await self._spend(journal.write, self.store, span.name, completions))
        except StoreError:
            span.fresh = fresh | span.fresh
            raise


def _log_tail() -> str:
    """The last lines that this process and its children logged; vLLM puts the cause of a failed start there."""
    try:
        with open(os.readlink("/proc/self/fd/2"), encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip() for line in file if line.strip()]
    except OSError:
        return ""
    return "\n  engine log: ".join(["", *lines[-LOG_TAIL:]])
