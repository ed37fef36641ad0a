"""echo: deterministic text made from the prompt's own words, without a model.

For first steps, rehearsals and tests: the whole path runs, only the answers are idle talk. The answer of
a sample depends on the prompt's token ids, the seed (unless temperature is 0) and the sample's number, on
nothing else. One word is one token, as likely as any other. Of the constraints (`structured_outputs`) it keeps
`choice` and no other. `engine.options` are the fields of EchoOptions.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
import signal
import subprocess
from typing import Literal

import orjson
import pyarrow as pa
import xxhash
from pydantic import Field
from tokenizers import Tokenizer

from batchgen import logprobs
from batchgen.engines.base import Request
from batchgen.engines.options import parse_options
from batchgen.errors import BadRow, EngineError
from batchgen.job.fields import Spec
from batchgen.job.job import Job
from batchgen.job.sampling import Sampling
from batchgen.records import Answer
from batchgen.render.model_files import ModelFiles

_DEAD = "echo died"
UNBOUNDED = 128
"""Tokens of an answer without max_tokens and without a context."""


class Length(Spec):
    distribution: Literal["constant", "uniform", "lognormal"] = Field("lognormal", description="uniform is over 1..2 x mean.")
    mean: float = Field(16.0, gt=0, description="Words.")
    sigma: float = Field(0.6, ge=0, description="Spread of the logarithm (lognormal).")


class EchoOptions(Spec):
    max_model_len: int | None = Field(None, ge=2, description="Context in tokens.")
    max_num_seqs: int = Field(256, ge=1, description="Sequences that run at once.")
    start_seconds: float = Field(0.0, ge=0, description="How long a replica takes to load.")
    latency: float = Field(0.0, ge=0, description="Seconds before the first token.")
    seconds_per_token: float = Field(0.0, ge=0, description="Seconds per token of an answer.")
    length: Length = Length()
    start_error: str | None = Field(None, description="Fault: the engine does not start, with this message.")
    start_error_while: str | None = Field(None, description="Fault: start_error is only while this local file exists.")
    reject_on: str | None = Field(None, description="Fault: refuse prompts that contain this text.")
    die_on: str | None = Field(None, description="Fault: the engine dies of a prompt that contains this text.")
    kill_on: str | None = Field(None, description="Fault: a prompt that contains this text kills the replica's process.")
    hang_on: str | None = Field(None, description="Fault: a prompt that contains this text is never answered.")
    hang_while: str | None = Field(None, description="Fault: hang_on is only while this local file exists.")
    process: bool = Field(False, description="Fault: the engine has a process of its own (`cat`) and dies with it.")
    meter: str | None = Field(None, description="A local file that grows by a byte for every answer, kept or lost.")
    freeze_on: str | None = Field(None, description="Fault: after a prompt that contains this text nothing is answered.")


class EchoEngine:
    def __init__(self, job: Job, model: ModelFiles) -> None:
        self.options = parse_options(job, EchoOptions)
        self.capacity = self.options.max_num_seqs
        self.workers = 1
        self._token_logprobs = job.output.token_logprobs
        self._tokenizer = None if model.tokenizer is None else Tokenizer.from_str(model.tokenizer)
        self._slots = asyncio.Semaphore(self.capacity)
        self._sleeping: set[asyncio.Future[None]] = set()
        self._dead = self._frozen = False
        self._process: subprocess.Popen[bytes] | None = None
        self._mourning: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await asyncio.sleep(self.options.start_seconds)
        broken_while = self.options.start_error_while
        if self.options.start_error is not None and (broken_while is None or os.path.exists(broken_while)):
            raise EngineError(self.options.start_error)
        if self.options.process:
            # It ends with this process, too: nobody else holds the other end of its input.
            self._process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
            self._mourning = asyncio.create_task(self._die_with(self._process))

    async def stop(self) -> None:
        if self._process is not None and self._mourning is not None:
            self._process.kill()
            await self._mourning

    async def probe(self) -> None:
        await self._sleep(0)

    async def generate(self, request: Request) -> list[Answer]:
        token_ids, sampling = request.token_ids, request.sampling
        text = bytes(token_ids).decode() if self._tokenizer is None else self._tokenizer.decode(token_ids)
        options = self.options
        if options.kill_on and options.kill_on in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if options.die_on and options.die_on in text:
            self._die()
        if options.freeze_on and options.freeze_on in text:
            self._frozen = True
        if options.reject_on and options.reject_on in text:
            raise BadRow("engine_rejected", f"echo refuses {options.reject_on!r}")
        while options.hang_on and options.hang_on in text and (not options.hang_while or os.path.exists(options.hang_while)):
            await asyncio.sleep(0.05)
        words = re.findall(r"\w+", text) or ["nothing"]
        outputs = [self._output(words, token_ids, sampling, number) for number in range(sampling.n)]
        seconds = options.latency + options.seconds_per_token * max(output.tokens for output in outputs)
        if seconds or self._dead or self._frozen:
            async with self._slots:
                await self._sleep(seconds)
        if options.meter:
            with open(options.meter, "ab", buffering=0) as meter:
                meter.write(b"." * len(outputs))
        return outputs

    async def _sleep(self, seconds: float) -> None:
        """Until the seconds are over; forever in a frozen engine. Raises EngineError in a dead one, asleep or not."""
        loop = asyncio.get_running_loop()
        waking: asyncio.Future[None] = loop.create_future()
        self._sleeping.add(waking)
        timer = loop.call_later(seconds, self._wake, waking)
        try:
            if self._dead:
                raise EngineError(_DEAD)
            await waking
        finally:
            timer.cancel()
            self._sleeping.discard(waking)

    def _wake(self, waking: asyncio.Future[None]) -> None:
        if not self._frozen and not waking.done():
            waking.set_result(None)

    async def _die_with(self, process: subprocess.Popen[bytes]) -> None:
        with process:
            await asyncio.to_thread(process.wait)
        self._die()

    def _die(self) -> None:
        self._dead = True
        for waking in self._sleeping:
            if not waking.done():
                waking.set_exception(EngineError(_DEAD))

    def _output(self, words: list[str], ids: list[int], sampling: Sampling, number: int) -> Answer:
        seed = sampling.seed if sampling.temperature else 0
        named = (ids, None, number) if seed is None else (ids, seed + number, 0)  # a sample's seed, as vLLM has it
        dice = random.Random(xxhash.xxh3_64_intdigest(repr(named).encode()))
        limit = sampling.max_tokens or UNBOUNDED
        constraint = orjson.loads(sampling.structured_outputs or "{}")
        if "choice" in constraint:
            chosen = dice.choice(constraint["choice"]).split()
            words = " ".join(constraint["choice"]).split()
            return self._scored(" ".join(chosen[:limit]), "stop" if len(chosen) <= limit else "length", words, sampling)
        wanted = limit if sampling.ignore_eos else max(self._length(dice), sampling.min_tokens)
        answer = " ".join(dice.choices(words, k=min(wanted, limit)))
        reason = "length" if wanted >= limit else "stop"
        for stop in sampling.stop:
            before, found, _ = answer.partition(stop)
            if found:
                answer, reason = before + (found if sampling.include_stop_str_in_output else ""), "stop"
        return self._scored(answer, reason, words, sampling)

    def _scored(self, answer: str, reason: str, words: list[str], sampling: Sampling) -> Answer:
        """The output of an answer that was drawn from `words`."""
        tokens = len(answer.split())
        if sampling.logprobs is None:
            return Answer(answer, tokens, reason)
        each, most = -math.log(len(words) or 1), sampling.logprobs
        scored = _scored_words(answer, each, words, most) if self._token_logprobs else None
        return Answer(answer, tokens, reason, each * tokens, token_logprobs=scored)

    def _length(self, dice: random.Random) -> int:
        length = self.options.length
        if length.distribution == "constant":
            return max(1, round(length.mean))
        if length.distribution == "uniform":
            return dice.randint(1, max(1, round(2 * length.mean)))
        # The mean of a lognormal is exp(mu + sigma^2 / 2).
        return max(1, round(dice.lognormvariate(math.log(length.mean) - length.sigma**2 / 2, length.sigma)))


def _scored_words(answer: str, each: float, words: list[str], most: int) -> pa.StructArray:
    """The words of an answer with the white space around them, all as likely; beside each `most` words, itself first."""
    tokens: list[tuple[None, str, float, list[logprobs.Token]]] = []
    for word in re.findall(r"\s*\S+(?:\s+$)?", answer):
        space = " " if tokens else ""
        likeliest = list(dict.fromkeys([word, *(space + other for other in words)]))[:most]
        tokens.append((None, word, each, [(None, other, each) for other in likeliest]))
    return logprobs.of_answer(tokens)
