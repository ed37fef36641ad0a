"""What the tests of a replica have in common: jobs over a few rows, their blocks, engines that do as they are told."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.engines.base import Request
from batchgen.job.job import Job
from batchgen.output.parts import part_name
from batchgen.plan import plan
from batchgen.prepare import Prepared, prepare
from batchgen.read import reader
from batchgen.records import Answer, Receipt
from batchgen.render.blocks import encode_block, encode_span
from batchgen.replica.replica import Replica

PATIENCE = 120


def prepared(folder: Path, rows: Iterable[dict[str, Any]], **fields: Any) -> Prepared:
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = {
        "input": {"path": str(folder / "in.jsonl"), "prompt": "prompt"},
        "engine": {"kind": "echo"},
        "output": {"path": str(folder / "out")},
    }
    return prepare(Job.parse(given | fields))


def blocks(made: Prepared) -> list[pa.Table]:
    """The block of each span, as the feed makes it."""
    shards, spans = plan.make_plan(made.job, made.found, made.columns)
    found = reader.read_spans(made.job, shards[0], spans, made.columns.kept, made.renderer.needed)
    return [encode_block(span, encode_span(made.renderer, shards[0].name, rows), kept) for span, rows, kept in found]


def replica(made: Prepared, engine: Any = None, journaled: Iterable[str] = ()) -> Replica:
    return Replica(made.renderer, made.job.output.path, [made.found[0].name], journaled, engine)


def ran(worker: Replica, block: pa.Table, again: bool = False, run: Callable[..., Receipt] = asyncio.run) -> Receipt:
    """The receipt of a span that a replica ran from its start to its stop. `run` is clock.run where seconds matter."""

    async def scenario() -> Receipt:
        await worker.start()
        try:
            return await asyncio.wait_for(worker.run(block, again), PATIENCE)
        finally:
            await worker.stop()

    return run(scenario())


def answered(folder: Path, rows: Iterable[dict[str, Any]], **fields: Any) -> tuple[list[dict[str, Any]], Receipt]:
    """The rows of the one part of a job, and the receipt."""
    made = prepared(folder, rows, **fields)
    [block] = blocks(made)
    receipt = ran(replica(made), block)
    return pq.read_table(io.BytesIO(part_bytes(made, receipt))).to_pylist(), receipt


def rows_of(folder: Path, engine: Scripted, rows: list[dict[str, Any]] | None = None, **fields: Any) -> list[dict[str, Any]]:
    """The rows of a job of one span that the engine answered; without `rows` it has a row for each key of the answers."""
    made = prepared(folder, rows or [{"prompt": key} for key in engine.answers], **fields)
    [block] = blocks(made)
    receipt = ran(replica(made, engine), block)
    found: list[dict[str, Any]] = pq.read_table(io.BytesIO(part_bytes(made, receipt))).to_pylist()
    return found


def part_bytes(made: Prepared, receipt: Receipt) -> bytes:
    return (Path(made.job.output.path) / part_name(receipt.span)).read_bytes()


class Backwards:
    """An engine that answers with the prompt's text, once it has `capacity` prompts, the last one first."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.workers = capacity, 1
        self.waiting: list[asyncio.Event] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def generate(self, request: Request) -> list[Answer]:
        mine = asyncio.Event()
        self.waiting.append(mine)
        if len(self.waiting) == self.capacity:
            self.waiting[-1].set()
        await mine.wait()
        if (place := self.waiting.index(mine)) > 0:
            self.waiting[place - 1].set()
        return [Answer(bytes(request.token_ids).decode(), 1, "stop")]


class Scripted:
    """An engine that answers the requests of each prompt with its answers, one after the other, and a judge's request, which says
    JUDGE, with what `judges` makes of it."""

    capacity, workers = 8, 1

    def __init__(self, answers: dict[str, list[str]], judges: Callable[[str], str] = lambda said: "yes") -> None:
        self.answers, self.judges = answers, judges
        self.requests: list[Request] = []
        self.judged: list[Request] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def probe(self) -> None: ...

    async def generate(self, request: Request) -> list[Answer]:
        text = bytes(request.token_ids).decode()
        if "JUDGE" in text:
            self.judged.append(request)
            return [Answer(self.judges(text), 1, "stop")]
        self.requests.append(request)
        key = next(key for key in self.answers if key in text)
        return [self._next(key, number) for number in range(request.sampling.n)]

    def _next(self, key: str, number: int) -> Answer:
        said = self.answers[key]
        text = said.pop(0) if len(said) > 1 else said[0]
        return Answer(text, len(text.split()), "length" if text.endswith("...") else "stop", -float(number))
