"""The replica: spans of prompts in, parts out, many spans in flight.

Every prompt is a coroutine, so that no row waits for another; scripted turns are a loop in it. `room`
is how a replica asks for work: it answers when fewer prompts are unfinished than the engine should have
before it (twice its capacity), so that the engine never starves and prompts do not pile up; and when few spans wait
for the store, so that finished rows do not pile up behind a slow one.
Plain Python: pool.py makes a Ray actor of it.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from batchgen import commit
from batchgen.engines import make_engine
from batchgen.errors import BadRow, EngineError, RowError, place
from batchgen.lengths import Lengths, Order, length_key
from batchgen.records import Completion, Output, Receipt
from batchgen.render import Renderer, prompt_hash
from batchgen.store import open_store

LOG_TAIL = 20
MOST_COMMITTING = 4


class Replica:
    """One engine and the spans it is working on. `shards` are the plan's shard names."""

    def __init__(self, renderer: Renderer, output: str, shards: list[str]) -> None:
        self.renderer, self.shards = renderer, shards
        self.job = renderer.job
        self.store = open_store(output)
        os.environ.update(self.job.engine.env)
        self.engine = make_engine(self.job, renderer.model)
        self._accepted = 0
        self._unfinished = 0
        self._committing = 0
        self._serial = 0
        self._lengths = Lengths()
        self._order = Order(self._lengths)
        self._change = asyncio.Event()

    async def start(self) -> dict[str, int]:
        """Load the model; capacity and workers of the engine. Raises EngineError with the end of the engine's log."""
        try:
            await self.engine.start()
        except EngineError as error:
            raise EngineError(f"{error}{_log_tail()}") from None
        return {"capacity": self.engine.capacity, "workers": self.engine.workers}

    async def stop(self) -> None:
        await self.engine.stop()

    async def room(self, assigned: int) -> int:
        """Unfinished prompts, when all `assigned` spans have arrived and there is room for another."""
        while self._accepted < assigned or not self._has_room():
            self._change.clear()
            await self._change.wait()
        return self._unfinished

    async def run(self, block: pa.Table) -> Receipt:
        """Generate and commit one span; `block` is feed.encode_block's.

        Raises EngineError (the replica is of no more use), StoreError.
        """
        began = time.monotonic()
        span, shard = block["span"][0].as_py(), block["shard"][0].as_py()
        prompts, kept = (pa.ipc.open_stream(block[name][0].as_buffer()).read_all() for name in ("prompts", "kept"))
        rows = prompts.to_pylist()
        self._count(accepted=1, unfinished=len(rows))
        first = time.time()
        places = self._order.places(rows, self.engine.capacity)
        answering = zip(rows, places, strict=True)
        answered = await asyncio.gather(*(self._answer(n, *pair, self.shards[shard]) for n, pair in enumerate(answering)))
        last, ended = time.time(), time.monotonic()
        self._count(committing=1)
        completions = [completion for answers in answered for completion in answers]
        part = await asyncio.to_thread(
            commit.encode_part,
            prompts,
            kept,
            completions,
            self.job.schema_names,
            self.shards[shard],
            self.renderer.model.label,
        )
        created = await asyncio.to_thread(commit.commit, self.store, span, part)
        committing = time.monotonic() - ended
        counts, errors = commit.count(completions), commit.errors_by_code(completions)
        if not created:
            counts, errors = await asyncio.to_thread(commit.read_counts, self.store, span)
        self._count(committing=-1)
        samples = commit.first_errors(completions)
        return Receipt(span, created, counts, errors, samples, first, last, time.monotonic() - began, committing)

    def _has_room(self) -> bool:
        return self._unfinished < 2 * self.engine.capacity and self._committing < MOST_COMMITTING

    def _count(self, accepted: int = 0, unfinished: int = 0, committing: int = 0) -> None:
        self._accepted += accepted
        self._unfinished += unfinished
        self._committing += committing
        self._change.set()

    async def _answer(self, index: int, row: dict[str, Any], queue_place: int, shard: str) -> list[Completion]:
        """The samples of one prompt; a prompt or a sample that fails becomes an error of its own."""
        began = time.monotonic()
        samples = row["sampling"]["n"] if row["sampling"] else self.job.samples
        start = _Talk(orjson.loads(row["conversation"]) if row["conversation"] else [])
        if row["error_code"]:
            start.error = RowError(row["error_code"], row["error_detail"])
        talks = [start] * samples
        if start.error is None:
            try:
                outputs = await self._generate(row["token_ids"], row["sampling"], queue_place)
                talks = [start.after(output, row["token_ids"]) for output in outputs]
                if row["turns"]:
                    await asyncio.gather(
                        *(self._script(talk, row, number, queue_place, shard) for number, talk in enumerate(talks))
                    )
            except BadRow as bad:
                start.error = RowError(bad.code, f"{place(shard, row['row'])}: {bad}")
        self._count(unfinished=-1)
        for talk in talks:
            if talk.output is not None:
                self._lengths.learn(length_key(row), talk.completion_tokens // (1 + len(row["turns"])))
        seconds = time.monotonic() - began
        return [talk.completion(index, number, seconds) for number, talk in enumerate(talks)]

    async def _script(self, talk: _Talk, row: dict[str, Any], number: int, queue_place: int, shard: str) -> None:
        """One sample's scripted turns after the first: each follows the model's own answers."""
        sampling = {**row["sampling"], "n": 1}
        if sampling["seed"] is not None:
            sampling["seed"] = min(sampling["seed"] + number, 2**63 - 1)
        try:
            for turn in row["turns"]:
                assert talk.output is not None
                talk.messages = self.renderer.continued(talk.messages, talk.output.text, turn)
                _, ids = self.renderer.encode(talk.messages)
                [output] = await self._generate(ids, self.renderer.within_context(sampling, len(ids)), queue_place)
                talk.add(output, ids)
        except BadRow as bad:
            talk.error = RowError(bad.code, f"{place(shard, row['row'])}: {bad}")

    async def _generate(self, ids: list[int], sampling: dict[str, Any], queue_place: int) -> list[Output]:
        self._serial += 1
        return await self.engine.generate(str(self._serial), ids, sampling, queue_place)


@dataclass
class _Talk:
    """One sample's conversation as it goes: messages put so far, tokens of all its turns, the last output."""

    messages: list[dict[str, Any]]
    output: Output | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    logprob: float | None = 0.0
    digest: str | None = None
    error: RowError | None = None

    def after(self, output: Output, ids: list[int]) -> _Talk:
        """A sample of its own, with the answer to the common first prompt."""
        talk = _Talk(self.messages)
        talk.add(output, ids)
        return talk

    def add(self, output: Output, ids: list[int]) -> None:
        self.output, self.digest = output, prompt_hash(ids)
        self.prompt_tokens += len(ids)
        self.completion_tokens += output.tokens
        self.cached_tokens += output.cached_tokens
        known = self.logprob is not None and output.cumulative_logprob is not None
        self.logprob = self.logprob + output.cumulative_logprob if known else None  # type: ignore[operator]

    def completion(self, prompt: int, sample: int, seconds: float) -> Completion:
        done = self.output if self.error is None else None
        answer = [] if done is None else [{"role": "assistant", "content": done.text}]
        return Completion(
            prompt=prompt,
            sample=sample,
            messages=[*self.messages, *answer],
            response=None if done is None else done.text,
            finish_reason=None if done is None else done.finish_reason,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            cumulative_logprob=None if done is None else self.logprob,
            prompt_hash=self.digest,
            seconds=seconds,
            attempt=1,
            error=self.error,
        )


def _log_tail() -> str:
    """The last lines that this process and its children logged; vLLM puts the cause of a failed start there."""
    try:
        with open(os.readlink("/proc/self/fd/2"), encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip() for line in file if line.strip()]
    except OSError:
        return ""
    return "\n  engine log: ".join(["", *lines[-LOG_TAIL:]])
