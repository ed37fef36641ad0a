"""echo: deterministic text made from the prompt's own words, without a model.

For first steps, rehearsals and tests: a job runs on its whole path, with meaningless answers. The answer of a sample depends only
on the prompt's token ids, the seed (unless temperature is 0) and the sample's number. One word is one token, and all words are
equally likely. Of the constraints (`structured_outputs`) it honours `choice` only. Numbers (embed, classify, ...) depend on the
token ids alone. Its options are the fields of EchoOptions."""

import asyncio
import dataclasses
import itertools
import math
import os
import random
import re
import signal
import subprocess
from typing import Literal

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field
from tokenizers import Tokenizer

from batchgen.engines.base import EngineKind, PoolingRequest, Request, parse_options
from batchgen.engines.rehearsed import calls_of
from batchgen.errors import BadRow, EngineError
from batchgen.job.fields import Spec
from batchgen.job.job import Job
from batchgen.job.model import Marks
from batchgen.job.pooling import POOLED
from batchgen.job.sampling import Sampling
from batchgen.jsontext import loads
from batchgen.logprobs import Token, of_answer
from batchgen.records import Answer, Pooled
from batchgen.render.capabilities import Capabilities
from batchgen.render.model_files import ModelFiles
from batchgen.render.renderer import UNBOUNDED_ANSWER

THOUGHTS = 8  # words of its reasoning


class Length(Spec):
    """How long answers are; `min_tokens`, `max_tokens`, `ignore_eos` and `stop` of a row come first."""

    distribution: Literal["constant", "uniform", "lognormal"] = Field("lognormal", description="uniform: from 1 to 2 x mean.")
    mean: float = Field(16.0, gt=0, description="Mean in words.")
    sigma: float = Field(0.6, ge=0, description="Standard deviation of the logarithm (lognormal).")


class EchoOptions(Spec):
    max_model_len: int | None = Field(None, ge=2, description="Context in tokens.")
    max_num_seqs: int = Field(256, ge=1, description="Sequences that run at once.")
    start_seconds: float = Field(0.0, ge=0, description="Seconds a replica takes to start.")
    latency: float = Field(0.0, ge=0, description="Seconds before the first token.")
    seconds_per_token: float = Field(0.0, ge=0, description="Seconds per token of an answer.")
    length: Length = Field(Length(), description="Lengths of the answers.")
    meter: str | None = Field(None, description="Append one byte to this file per generated answer (counts work done twice).")
    process: bool = Field(False, description="The engine has a process of its own (`cat`) and dies with it.")
    start_error: str | None = Field(None, description="Fault: the engine does not start; this is its message.")
    start_error_while: str | None = Field(None, description="Fault: start_error applies only while this local file exists.")
    reject_on: str | None = Field(None, description="Fault: a prompt that contains this text is refused.")
    die_on: str | None = Field(None, description="Fault: a prompt that contains this text kills the engine.")
    kill_on: str | None = Field(None, description="Fault: a prompt that contains this text kills the replica's process.")
    hang_on: str | None = Field(None, description="Fault: a prompt that contains this text is never answered.")
    hang_while: str | None = Field(None, description="Fault: hang_on applies only while this local file exists.")
    freeze_on: str | None = Field(None, description="Fault: after a prompt that contains this text no prompt is answered.")


class EchoEngine:
    """`tokenizer` is the text of a tokenizer.json; without one a token is a byte. With `marks` it thinks before it answers."""

    workers = 1

    def __init__(
        self,
        options: EchoOptions,
        tokenizer: str | None = None,
        token_logprobs: bool = False,
        marks: Marks | None = None,
    ) -> None:
        self.options, self.capacity = options, options.max_num_seqs
        self._token_logprobs, self._marks = token_logprobs, marks
        self._tokenizer = None if tokenizer is None else Tokenizer.from_str(tokenizer)
        self._slots = asyncio.Semaphore(self.capacity)
        self._died = asyncio.Event()
        self._frozen = False
        self._process: subprocess.Popen[bytes] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await asyncio.sleep(self.options.start_seconds)
        broken_while = self.options.start_error_while
        if self.options.start_error is not None and (broken_while is None or os.path.exists(broken_while)):
            raise EngineError(self.options.start_error)
        if self.options.process:
            # `cat` ends with this process, which alone holds the other end of its input.
            self._process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
            self._watching = asyncio.create_task(self._die_with(self._process))

    async def stop(self) -> None:
        if self._process is not None and self._watching is not None:
            self._process.kill()
            await self._watching

    async def probe(self) -> None:
        await self._sleep(0)

    async def generate(self, request: Request) -> list[Answer]:
        ids = request.token_ids
        text = self._decoded(ids)
        await self._fault(text)
        words = re.findall(r"\w+", text) or ["nothing"]
        answers = [self._answer(words, ids, request.sampling, number) for number in range(request.sampling.n)]
        if request.sampling.prompt_logprobs is not None:
            of_prompt = self._of_prompt(ids, -math.log(len(words)), request.sampling.prompt_logprobs)
            answers = [dataclasses.replace(answer, prompt_logprobs=of_prompt) for answer in answers]
        seconds = self.options.latency + self.options.seconds_per_token * max(answer.tokens for answer in answers)
        if seconds or self._frozen or self._died.is_set():
            async with self._slots:
                await self._sleep(seconds)
        if self.options.meter:
            with open(self.options.meter, "ab", buffering=0) as meter:
                meter.write(b"." * len(answers))
        return answers

    async def pool(self, request: PoolingRequest) -> Pooled:
        for text in request.texts:
            await self._fault(self._decoded(text.token_ids))
        if self.options.latency or self._frozen or self._died.is_set():
            async with self._slots:
                await self._sleep(self.options.latency)
        if self.options.meter:
            with open(self.options.meter, "ab", buffering=0) as meter:
                meter.write(b".")
        unknown = {"embed": 8, "classify": 2}.get(request.task, 1)
        values = [_numbers(request, text.token_ids, request.size or unknown) for text in request.texts]
        return Pooled([pa.array(each) for each in values])

    def _decoded(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace") if self._tokenizer is None else self._tokenizer.decode(ids)

    async def _fault(self, text: str) -> None:
        """The faults that the options ask for at a prompt with this text."""
        options = self.options
        if options.kill_on and options.kill_on in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if options.die_on and options.die_on in text:
            self._died.set()
        if options.freeze_on and options.freeze_on in text:
            self._frozen = True
        if options.reject_on and options.reject_on in text:
            raise BadRow("engine_rejected", f"echo refuses {options.reject_on!r}")
        while options.hang_on and options.hang_on in text and (not options.hang_while or os.path.exists(options.hang_while)):
            await asyncio.sleep(0.05)

    async def _sleep(self, seconds: float) -> None:
        """Returns after these seconds, or never in a frozen engine. Raises EngineError once the engine is dead."""
        try:
            async with asyncio.timeout(seconds):
                await self._died.wait()
        except TimeoutError:
            if not self._frozen:
                return
        await self._died.wait()
        raise EngineError("echo died")

    async def _die_with(self, process: subprocess.Popen[bytes]) -> None:
        with process:
            await asyncio.to_thread(process.wait)
        self._died.set()

    def _answer(self, words: list[str], ids: list[int], sampling: Sampling, number: int) -> Answer:
        seed = sampling.seed if sampling.temperature else 0
        drawn_from = (ids, None, number) if seed is None else (ids, seed + number, 0)  # as vLLM seeds its samples
        dice = random.Random(xxhash.xxh3_64_intdigest(repr(drawn_from).encode()))
        limit = sampling.max_tokens or UNBOUNDED_ANSWER
        constraint = loads(sampling.structured_outputs or "{}")
        if "choice" in constraint:
            chosen = dice.choice(constraint["choice"]).split()
            words = " ".join(constraint["choice"]).split()
            text, reason = " ".join(chosen[:limit]), "stop" if len(chosen) <= limit else "length"
        else:
            wanted = limit if sampling.ignore_eos else max(self._length(dice), sampling.min_tokens)
            text = " ".join(dice.choices(words, k=min(wanted, limit)))
            reason = "length" if wanted >= limit else "stop"
            for stop in sampling.stop:
                before, found, _ = text.partition(stop)
                if found:
                    text, reason = before + (found if sampling.include_stop_str_in_output else ""), "stop"
        tokens = len(text.split())
        if (calls := calls_of(sampling)) is not None:
            return Answer("", tokens, "tool_calls", tool_calls=calls)
        if self._marks is not None:
            thoughts = dice.choices(
                words, k=min(THOUGHTS, THOUGHTS if (most := sampling.thinking_token_budget) is None else most)
            )
            tokens += len(thoughts)
            text = f"{self._marks.start}{' '.join(thoughts)}{self._marks.end}{text}"
        if sampling.logprobs is None:
            return Answer(text, tokens, reason)
        each = -math.log(len(words) or 1)
        scored = _scored(text, each, words, sampling.logprobs) if self._token_logprobs else None
        return Answer(text, tokens, reason, each * tokens, token_logprobs=scored)

    def _of_prompt(self, ids: list[int], each: float, most: int) -> pa.StructArray:
        """The tokens of a prompt but the first, of log-probability `each`; beside each `most` of the prompt's, itself first."""
        texts = {token: self._tokenizer.decode([token], False) if self._tokenizer else chr(token) for token in dict.fromkeys(ids)}
        likeliest = [(token, text, each) for token, text in itertools.islice(texts.items(), most)]
        scored = [
            (token, texts[token], each, list(dict.fromkeys([(token, texts[token], each), *likeliest]))[:most])
            for token in ids[1:]
        ]
        return of_answer([(ids[0], texts[ids[0]], None, ()), *scored])

    def _length(self, dice: random.Random) -> int:
        length = self.options.length
        if length.distribution == "constant":
            return max(1, round(length.mean))
        if length.distribution == "uniform":
            return dice.randint(1, max(1, round(2 * length.mean)))
        # The mean of a lognormal is exp(mu + sigma^2 / 2).
        return max(1, round(dice.lognormvariate(math.log(length.mean) - length.sigma**2 / 2, length.sigma)))


def _numbers(request: PoolingRequest, ids: list[int], size: int) -> np.ndarray:
    """`size` float32 numbers made from token ids: a vector of length 1, probabilities, or one number between 0 and 1; as they are
    drawn (standard normal) where they are not normalized."""
    dice = np.random.default_rng(xxhash.xxh3_64_intdigest(np.asarray(ids, np.int32).tobytes()))
    drawn = dice.standard_normal(size, np.float32)
    if not request.pooling.is_normalized(request.task):
        return drawn
    if request.task == "embed":
        return drawn / max(np.linalg.norm(drawn), np.float32(1e-12))
    shares = np.exp(drawn)
    return shares / shares.sum() if size > 1 else 1 / (1 + 1 / shares)


def _scored(text: str, each: float, words: list[str], most: int) -> pa.StructArray:
    """The words of an answer with their white space, of log-probability `each`; beside each `most` words, itself first."""
    tokens: list[tuple[None, str, float, list[Token]]] = []
    for word in re.findall(r"\s*\S+(?:\s+$)?", text):
        space = " " if tokens else ""
        likeliest = list(dict.fromkeys([word, *(space + other for other in words)]))[:most]
        tokens.append((None, word, each, [(None, other, each) for other in likeliest]))
    return of_answer(tokens)


class EchoKind:
    capabilities = Capabilities(needs_model=False, tasks=frozenset(("generate", *POOLED)))

    def check(self, job: Job) -> None:
        parse_options(job, EchoOptions)

    def context(self, job: Job) -> int | None:
        return parse_options(job, EchoOptions).max_model_len

    def make(self, job: Job, model: ModelFiles) -> EchoEngine:
        named = job.model.reasoning_parser if job.model else None
        marks = None if named is None else named if isinstance(named, Marks) else model.marks
        return EchoEngine(parse_options(job, EchoOptions), model.tokenizer, job.output.token_logprobs, marks)


KIND: EngineKind = EchoKind()
