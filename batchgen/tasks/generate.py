"""One prompt -> its completions: samples, scripted turns, and what the job does about a row that fails.

Samples of a prompt are asked for together. Each sample that fails is tried again as `errors` says for its class,
with the seed it had, or, after an answer that was cut at max_tokens (`truncated`) or that does not parse, with a new one.
`attempt` counts. An answer that does not parse is kept beside its error.

Where the row has best_of, its samples are the best of so many candidates, each a whole conversation; a sample that is tried
again is the one at its rank among as many new candidates.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from batchgen.engines import Engine
from batchgen.errors import BadRow, EngineError, RowError, TooManyErrors, place
from batchgen.job.job import Failure, Retry
from batchgen.job.parse import Parser
from batchgen.records import Answer, Completion
from batchgen.render.messages import as_text, images
from batchgen.render.renderer import Renderer, derive_seed, prompt_hash

LARGEST_SEED = 2**63 - 1


class Answerer:
    def __init__(self, renderer: Renderer, engine: Engine) -> None:
        self.renderer, self.engine = renderer, engine
        self.job = renderer.job
        self._policy = renderer.job.errors
        self._parser = Parser(self.job.parse_) if self.job.parse_ else None
        self._serial = 0

    async def answer(self, index: int, row: dict[str, Any], queue_place: int, shard: str) -> list[Completion]:
        """The samples of the prompt at `index` of a span (a row of records.prompt_schema), in order.

        Raises TooManyErrors where the job says `fail` for the class of an error, EngineError when the engine is given up.
        """
        began = time.monotonic()
        asked = _Asked(row, queue_place, shard)
        numbers = row["samples"] or range(row["sampling"]["n"] if row["sampling"] else self.job.samples)
        talks = await self._talks(asked, numbers)
        earlier = row["attempts"] or [0] * len(talks)
        if self._policy:
            talks = await asyncio.gather(*(self._mended(asked, *one) for one in zip(talks, numbers, earlier, strict=True)))
        for talk, before in zip(talks, earlier, strict=True):
            talk.attempt += before
        seconds = time.monotonic() - began
        return [talk.completion(index, number, seconds) for number, talk in zip(numbers, talks, strict=True)]

    async def _talks(self, asked: _Asked, numbers: Sequence[int]) -> list[_Talk]:
        row = asked.row
        if row["error_code"]:
            return [self._talk(asked, RowError(row["error_code"], row["error_detail"])) for _ in numbers]
        if row["samples"] is None:
            return await self._converse(asked, row["sampling"])
        talks = []
        for number, code, before in zip(numbers, row["codes"], row["attempts"], strict=True):
            sampling = _again(row["sampling"], number)
            changed = _afresh(asked, sampling, before) if code == "parse" else None
            talks.append(self._one(asked, changed or sampling, number, changed))
        return await asyncio.gather(*talks)

    def _talk(self, asked: _Asked, error: RowError | None = None) -> _Talk:
        spec = self.job.input
        return _Talk(asked.conversation(), spec.answer_role, spec.continue_final_message is True, error)

    async def _one(self, asked: _Asked, sampling: dict[str, Any], number: int, changed: dict[str, Any] | None) -> _Talk:
        """Sample `number` with the sampling of `_again`, `changed` if it is not the prompt's."""
        talk = (await self._converse(asked, sampling))[number if sampling["best_of"] else 0]
        talk.sampling = changed and asked.recorded(changed)
        return talk

    async def _converse(self, asked: _Asked, sampling: dict[str, Any]) -> list[_Talk]:
        """`n` conversations, the best of `best_of`, best first, where that is set."""
        best_of = sampling["best_of"]
        if best_of is None:
            return await self._candidates(asked, sampling)
        candidates = await self._candidates(asked, {**sampling, "n": best_of, "best_of": None})
        return sorted(candidates, key=lambda talk: talk.rank)[: sampling["n"]]

    async def _candidates(self, asked: _Asked, sampling: dict[str, Any]) -> list[_Talk]:
        """`n` conversations from the first prompt to the last scripted turn; those that fail hold their error."""
        row = asked.row
        talks = [self._talk(asked) for _ in range(sampling["n"])]
        try:
            outputs = await self._generate(row["token_ids"], sampling, asked.queue_place, images(talks[0].messages))
        except BadRow as bad:
            for talk in talks:
                talk.error = asked.error(bad)
            return talks
        for talk, output in zip(talks, outputs, strict=True):
            talk.add(output, row["token_ids"])
        if row["turns"]:
            await asyncio.gather(*(self._script(asked, talk, _of_sample(sampling, n)) for n, talk in enumerate(talks)))
        if self._parser is not None:
            for talk in talks:
                self._parse(asked, talk)
        return talks

    def _parse(self, asked: _Asked, talk: _Talk) -> None:
        assert self._parser is not None
        if talk.error is None and talk.output is not None:
            try:
                talk.parsed = self._parser.parse(talk.answer)
            except BadRow as bad:
                talk.error = asked.error(bad)

    async def _script(self, asked: _Asked, talk: _Talk, sampling: dict[str, Any]) -> None:
        """One sample's scripted turns after the first: each follows the model's own answers."""
        try:
            for turn in asked.row["turns"]:
                assert talk.output is not None
                talk.messages = self.renderer.continued(talk.messages, talk.output.text, turn)
                _, ids = self.renderer.encode(talk.messages)
                sampled = self.renderer.within_context(sampling, len(ids))
                [output] = await self._generate(ids, sampled, asked.queue_place, images(talk.messages))
                talk.add(output, ids)
        except BadRow as bad:
            talk.error = asked.error(bad)

    async def _mended(self, asked: _Asked, talk: _Talk, number: int, before: int) -> _Talk:
        """The sample after the job's policy for the class of its failure, which may be another after each attempt. It had
        `before` attempts in earlier runs."""
        while (kind := next((kind for kind in talk.failures if kind in self._policy), None)) is not None:
            policy = self._policy[kind]
            if policy == "fail":
                detail = talk.error.detail if talk.error else f"{asked.name}: cut at max_tokens"
                raise TooManyErrors(f"{kind}: {detail}", f"errors.{kind} is fail: mend the row or the job and run again")
            if not isinstance(policy, Retry) or talk.attempt > policy.retry:
                break
            sampling = {**_again(asked.row["sampling"], number), **policy.sampling}
            if kind in ("truncated", "parse"):
                sampling = _afresh(asked, sampling, talk.attempt + before)
            attempt = talk.attempt + 1
            try:
                sampling = self.renderer.within_context(sampling, len(asked.row["token_ids"]))
                talk = await self._one(asked, sampling, number, sampling)
            except BadRow as bad:
                talk = self._talk(asked, asked.error(bad))
                talk.sampling = asked.recorded(sampling)
            talk.attempt = attempt
        return talk

    async def _generate(self, ids: list[int], sampling: dict[str, Any], queue_place: int, pictures: list[str]) -> list[Answer]:
        self._serial += 1
        outputs = await self.engine.generate(str(self._serial), ids, sampling, queue_place, pictures)
        if len(outputs) != sampling["n"]:
            raise EngineError(f"the engine answered {len(outputs)} times instead of {sampling['n']}")
        return outputs


@dataclass(frozen=True)
class _Asked:
    """A prompt, its place in the engine's queue, and its shard's name."""

    row: dict[str, Any]
    queue_place: int
    shard: str

    @property
    def name(self) -> str:
        return place(self.shard, self.row["row"])

    def conversation(self) -> list[dict[str, Any]]:
        return orjson.loads(self.row["conversation"]) if self.row["conversation"] else []

    def recorded(self, sampling: dict[str, Any]) -> dict[str, Any]:
        """The sampling of another attempt as the output has it: `n` says how many samples the row has, to verify too."""
        return {**sampling, "n": self.row["sampling"]["n"]}

    def error(self, bad: BadRow) -> RowError:
        return RowError(bad.code, f"{self.name}: {bad}")


@dataclass
class _Talk:
    """One sample's conversation as it goes: messages put so far, tokens of all its turns, the last output."""

    messages: list[dict[str, Any]]
    role: str
    continues: bool
    """Whether the last message is the beginning of the answer."""
    error: RowError | None = None
    output: Answer | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    logprob: float | None = 0.0
    digest: str | None = None
    attempt: int = 1
    parsed: dict[str, Any] | None = None
    sampling: dict[str, Any] | None = None
    """What it ran with, where that is not the prompt's."""

    @property
    def failures(self) -> list[Failure]:
        """The classes of what went wrong, as `errors` names them: an answer that was cut may be one that does not parse."""
        cut = self.output is not None and self.output.finish_reason == "length"
        own = None if self.error is None else self.error.code
        return [*(["truncated"] if cut and own in (None, "parse") else []), *([own] if own else [])]  # type: ignore[list-item]

    @property
    def rank(self) -> tuple[int, float]:
        """Among candidates; the lowest is the best. Those that do not parse come after those that do, then those without an
        answer, in their order."""
        if self.error is not None and self.error.code != "parse":
            return 2, 0.0
        return int(self.error is not None), math.inf if self.logprob is None else -self.logprob

    @property
    def answer(self) -> str:
        """The whole of it, with the beginning that it had."""
        assert self.output is not None
        return (self.messages[-1]["content"] if self.continues else "") + self.output.text

    def add(self, output: Answer, ids: list[int]) -> None:
        self.output, self.digest = output, prompt_hash(ids, images(self.messages))
        self.prompt_tokens += len(ids) if output.prompt_tokens is None else output.prompt_tokens
        self.completion_tokens += output.tokens
        self.cached_tokens += output.cached_tokens
        known = self.logprob is not None and output.cumulative_logprob is not None
        self.logprob = self.logprob + output.cumulative_logprob if known else None  # type: ignore[operator]

    def completion(self, prompt: int, sample: int, seconds: float) -> Completion:
        done = self.output if self.error is None or self.error.code == "parse" else None
        text = None if done is None else self.answer
        messages = tuple((message["role"], as_text(message["content"])) for message in self.messages)
        if text is not None:
            messages = (*messages[: -1 if self.continues else None], (self.role, text))
        return Completion(
            prompt=prompt,
            sample=sample,
            messages=messages or None,
            response=text,
            finish_reason=None if done is None else done.finish_reason,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            cumulative_logprob=None if done is None else self.logprob,
            token_logprobs=None if done is None else done.token_logprobs,
            prompt_hash=self.digest,
            seconds=seconds,
            attempt=self.attempt,
            error=self.error,
            sampling=self.sampling,
            parsed=self.parsed,
        )


def _afresh(asked: _Asked, sampling: dict[str, Any], attempts: int) -> dict[str, Any]:
    """With another seed, where there is one: the same would give the same answer."""
    if sampling["seed"] is None:
        return sampling
    return {**sampling, "seed": derive_seed(sampling["seed"], asked.shard, asked.row["row"], attempts)}


def _again(sampling: dict[str, Any], number: int) -> dict[str, Any]:
    """The sampling that a sample is tried again with: its own alone, or that of all candidates."""
    return sampling if sampling["best_of"] else _of_sample(sampling, number)


def _of_sample(sampling: dict[str, Any], number: int) -> dict[str, Any]:
    """The sampling of sample `number` alone; an engine seeds the samples of a prompt one after the other."""
    seed = sampling["seed"]
    return {**sampling, "n": 1, "seed": seed if seed is None else min(seed + number, LARGEST_SEED)}
