"""The replica: spans of prompts in, parts out, many spans in flight.

Every prompt is a coroutine, so that no row waits for another; scripted turns are a loop in it. `room`
is how a replica asks for work: it answers when fewer prompts are unfinished than the engine should have
before it (twice its capacity), so that the engine never starves and prompts do not pile up.
Plain Python: pool.py makes a Ray actor of it.
"""

from __future__ import annotations

import asyncio
import os
import time
import traceback
from typing import Any

import orjson
import pyarrow as pa

from batchgen import commit
from batchgen.engines import make_engine
from batchgen.errors import BadRow, EngineError, RowError
from batchgen.records import Completion, Output, Receipt
from batchgen.render import Renderer, place, prompt_hash
from batchgen.store import open_store

LOG_TAIL = 20


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
        self._serial = 0
        self._change = asyncio.Condition()

    async def start(self) -> dict[str, int]:
        """Load the model; capacity and workers of the engine. Raises EngineError with the end of the engine's log."""
        try:
            await self.engine.start()
        except EngineError as error:
            raise EngineError(f"{error}{_log_tail()}") from None
        return {"capacity": self.engine.capacity, "workers": self.engine.workers}

    async def stop(self) -> None:
        await self.engine.stop()

    async def room(self, assigned: int) -> None:
        """Return when all `assigned` spans have arrived and there is room for another."""
        async with self._change:
            await self._change.wait_for(lambda: self._accepted >= assigned and self._unfinished < 2 * self.engine.capacity)

    async def run(self, block: pa.Table) -> Receipt:
        """Generate and commit one span; `block` is feed.encode_block's.

        Raises EngineError (the replica is of no more use), StoreError.
        """
        began = time.monotonic()
        span, shard = block["span"][0].as_py(), block["shard"][0].as_py()
        prompts, kept = (pa.ipc.open_stream(block[name][0].as_buffer()).read_all() for name in ("prompts", "kept"))
        rows = prompts.to_pylist()
        await self._count(accepted=1, unfinished=len(rows))
        first = time.time()
        answered = await asyncio.gather(*(self._answer(index, row, self.shards[shard]) for index, row in enumerate(rows)))
        last = time.time()
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
        counts, errors = commit.count(completions), commit.errors_by_code(completions)
        if not created:
            counts, errors = await asyncio.to_thread(commit.read_counts, self.store, span)
        samples = commit.first_errors(completions)
        return Receipt(span, created, counts, errors, samples, first, last, time.monotonic() - began)

    async def _count(self, accepted: int = 0, unfinished: int = 0) -> None:
        self._accepted += accepted
        self._unfinished += unfinished
        if accepted or self._unfinished < 2 * self.engine.capacity:
            async with self._change:
                self._change.notify_all()

    async def _answer(self, index: int, row: dict[str, Any], shard: str) -> list[Completion]:
        began = time.monotonic()
        samples = row["sampling"]["n"] if row["sampling"] else self.job.samples
        messages = orjson.loads(row["conversation"]) if row["conversation"] else []
        answers: list[tuple[list[dict[str, Any]], Output, int, str]] = []
        error = RowError(row["error_code"], row["error_detail"]) if row["error_code"] else None
        if error is None:
            try:
                answers = await self._converse(messages, row, shard)
            except BadRow as bad:
                error = RowError(bad.code, f"{place(shard, row['row'])}: {bad}")
        await self._count(unfinished=-1)
        seconds = time.monotonic() - began
        if error is not None:
            blank = (None, None, 0, 0, None, None, seconds, 1, error)
            return [Completion(index, sample, messages, *blank) for sample in range(samples)]
        return [
            Completion(
                prompt=index,
                sample=sample,
                messages=[*said, {"role": "assistant", "content": output.text}],
                response=output.text,
                finish_reason=output.finish_reason,
                prompt_tokens=read,
                completion_tokens=output.tokens,
                cumulative_logprob=output.cumulative_logprob,
                prompt_hash=digest,
                seconds=seconds,
                attempt=1,
            )
            for sample, (said, output, read, digest) in enumerate(answers)
        ]

    async def _converse(
        self, messages: list[dict[str, Any]], row: dict[str, Any], shard: str
    ) -> list[tuple[list[dict[str, Any]], Output, int, str]]:
        """Per sample: the conversation, its last output with the tokens of all turns, prompt tokens read, hash."""
        sampling, ids = row["sampling"], row["token_ids"]
        outputs = await self._generate(ids, sampling)
        if not row["turns"]:
            digest = prompt_hash(ids)
            return [(messages, output, len(ids), digest) for output in outputs]
        return list(await asyncio.gather(*(self._script(messages, row, number, output) for number, output in enumerate(outputs))))

    async def _script(
        self, messages: list[dict[str, Any]], row: dict[str, Any], number: int, output: Output
    ) -> tuple[list[dict[str, Any]], Output, int, str]:
        """One sample's scripted turns after the first: each follows the model's own answers."""
        sampling, ids = {**row["sampling"], "n": 1}, row["token_ids"]
        tokens, read, logprob = output.tokens, len(ids), output.cumulative_logprob
        if sampling["seed"] is not None:
            sampling["seed"] = (sampling["seed"] + number) % 2**63
        for turn in row["turns"]:
            messages = self.renderer.continued(messages, output.text, turn)
            _, ids = await asyncio.to_thread(self.renderer.encode, messages)
            [output] = await self._generate(ids, self.renderer.within_context(sampling, len(ids)))
            tokens, read = tokens + output.tokens, read + len(ids)
            logprob = None if logprob is None or output.cumulative_logprob is None else logprob + output.cumulative_logprob
        return messages, Output(output.text, tokens, output.finish_reason, logprob), read, prompt_hash(ids)

    async def _generate(self, ids: list[int], sampling: dict[str, Any]) -> list[Output]:
        self._serial += 1
        return await self.engine.generate(str(self._serial), ids, sampling)


def _log_tail() -> str:
    """The last lines that this process and its children logged; vLLM puts the cause of a failed start there."""
    try:
        with open(os.readlink("/proc/self/fd/2"), encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip() for line in file if line.strip()]
    except OSError:
        return ""
    return "\n  engine log: ".join(["", *lines[-LOG_TAIL:]])


def describe(error: BaseException) -> str:
    """One line for the driver's log."""
    return traceback.format_exception_only(error)[-1].strip()
