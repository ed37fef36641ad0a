"""The task `generate`: one prompt -> its completions, with samples, scripted turns and the job's policy for failed rows.

The samples of a prompt are requested together. Each sample that fails is tried again as `errors` says for its class: with the
seed it had, or, after an answer that was cut at max_tokens (`truncated`), does not parse or is not accepted, with a new one. An
answer that does not parse or is not accepted is kept beside its error. The samples of a row with best_of are chosen among that
many candidates, each a whole conversation; a sample that is tried again is the one at its rank among as many new candidates."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from batchgen.engines.base import Engine
from batchgen.errors import BadRow, RowError, TooManyErrors
from batchgen.job.policy import Retry
from batchgen.job.sampling import Sampling
from batchgen.records import Completion, Prompt
from batchgen.render.images.images import Images, is_data_url
from batchgen.render.messages import images
from batchgen.render.renderer import Renderer, derive_seed
from batchgen.tasks.accept import Acceptance
from batchgen.tasks.asking import Asking
from batchgen.tasks.calls import refuse_calls
from batchgen.tasks.candidate import UNFIT, Candidate
from batchgen.tasks.dedupe import Elsewhere, Shared
from batchgen.tasks.parse import Parser

LARGEST_SEED = 2**63 - 1
THREADS, FETCHES, CALLS = 4, 16, 16
QUICK_SECONDS, MOST_SECONDS = 0.02, 5.0  # of parsing an answer: in the event loop, and in a thread


class Generation:
    uses = "generate"

    def __init__(self, renderer: Renderer, engine: Engine) -> None:
        self._renderer = renderer
        self._job = renderer.job
        self._policy = renderer.job.errors
        self._parser = Parser(self._job.parse_) if self._job.parse_ else None
        self._own = self._judge = Asking(renderer, engine)
        self._shared = Shared(self._own.generate) if self._job.dedupe else None
        self._accept = Acceptance(self._job.accept, renderer) if self._job.accept else None
        self._images = Images(self._job.input)
        self._threads = ThreadPoolExecutor(THREADS, "task")  # starts a thread when there is work
        self._fetches = ThreadPoolExecutor(FETCHES, "image")
        self._calls = ThreadPoolExecutor(CALLS, "after")

    def judge_with(self, engine: Engine) -> None:
        """As tasks.Judging says."""
        assert self._renderer.judge is not None
        self._judge = Asking(self._renderer.judge, engine)

    def share(self, elsewhere: Elsewhere) -> None:
        """As dedupe.Sharing says."""
        if self._shared is not None:
            self._shared.elsewhere = elsewhere

    async def complete(self, index: int, prompt: Prompt, priority: int) -> list[Completion]:
        """As tasks.Task says."""
        began = time.monotonic()
        numbers, earlier = zip(*prompt.samples(self._job.samples), strict=True)
        if prompt.error is not None or prompt.sampling is None:
            candidates = [Candidate(self._job.input, prompt.messages, prompt.error) for _ in numbers]
        elif prompt.failed:
            again = (self._again(prompt, one.sample, one.code, one.attempt, priority) for one in prompt.failed)
            candidates = await asyncio.gather(*again)
        else:
            candidates = await self._candidates(prompt, prompt.sampling, priority, self._shared)
        if self._policy:
            each = zip(candidates, numbers, earlier, strict=True)
            candidates = await asyncio.gather(*(self._retried(prompt, *one, priority) for one in each))
        seconds = time.monotonic() - began
        return [
            candidate.completion(index, number, before + candidate.attempt, seconds)
            for candidate, number, before in zip(candidates, numbers, earlier, strict=True)
        ]

    async def _retried(self, prompt: Prompt, candidate: Candidate, number: int, before: int, priority: int) -> Candidate:
        """The sample after the job's policy for the class of its failure, which may be another after each attempt. It had
        `before` attempts in earlier runs."""
        while (kind := next((kind for kind in candidate.failures if kind in self._policy), None)) is not None:
            policy = self._policy[kind]
            if policy == "fail":
                detail = candidate.error.detail if candidate.error else f"{prompt.place}: cut at max_tokens"
                raise TooManyErrors(f"{kind}: {detail}", f"errors.{kind} is fail: mend the row or the job and run again")
            if not isinstance(policy, Retry) or candidate.attempt > policy.retry or prompt.sampling is None:
                break
            last = candidate
            candidate = await self._again(prompt, number, kind, before + last.attempt, priority, policy)
            candidate.attempt = last.attempt + 1
            candidate.judge_tokens += last.judge_tokens
            candidate.judge_prompt_tokens += last.judge_prompt_tokens
            candidate.attempts = [*last.attempts, last.as_attempt] if self._accept else []
        return candidate

    async def _again(
        self, prompt: Prompt, number: int, kind: str, attempts: int, priority: int, policy: Retry | None = None
    ) -> Candidate:
        """Sample `number` once more, with the sampling of the policy, after `attempts` of which the last failed as `kind`."""
        assert prompt.sampling is not None
        sampling = prompt.sampling if prompt.sampling.best_of else _of_sample(prompt.sampling, number)
        if policy is not None:
            sampling = sampling.model_copy(update=policy.sampling)
        if kind in ("truncated", *UNFIT) and sampling.seed is not None:  # the same seed would give the same answer
            seed = derive_seed(sampling.seed, prompt.shard, prompt.row, attempts)
            sampling = sampling.model_copy(update={"seed": seed})
        try:
            self._renderer.refuse_mistake(sampling)  # the policy's part of it is new
            sampling = self._fitted(sampling, prompt.token_ids)
            candidates = await self._candidates(prompt, sampling, priority)
            candidate = candidates[number if sampling.best_of else 0]
        except BadRow as bad:
            candidate = Candidate(self._job.input, prompt.messages, _error(prompt, bad))
        if policy is not None or kind in UNFIT:
            candidate.sampling = sampling.model_copy(update={"n": prompt.sampling.n})
        return candidate

    async def _candidates(
        self, prompt: Prompt, sampling: Sampling, priority: int, shared: Shared | None = None
    ) -> list[Candidate]:
        """`n` conversations from the first prompt to the last scripted turn; those that fail hold their error. Where best_of is
        set, they are the best of that many, best first. The first answers may be `shared`: those of another attempt are not."""
        n, best_of = sampling.n, sampling.best_of
        if best_of is not None:
            sampling = sampling.model_copy(update={"n": best_of, "best_of": None})
        try:
            pictures = await self._pictures(prompt)
            answers = await (shared or self._own).generate(prompt.token_ids, sampling, priority, pictures)
        except BadRow as bad:
            return [Candidate(self._job.input, prompt.messages, _error(prompt, bad)) for _ in range(n)]
        candidates = [Candidate(self._job.input, prompt.messages, pictures=pictures) for _ in answers]
        for candidate, answer in zip(candidates, answers, strict=True):
            candidate.add(answer, prompt.token_ids)
        if prompt.turns:
            each = ((one, _of_sample(sampling, number)) for number, one in enumerate(candidates))
            await asyncio.gather(*(self._script(prompt, *one, priority) for one in each))
        for candidate in candidates:
            if candidate.last is not None and candidate.error is None:
                try:
                    if sampling.tools is not None or candidate.last.tool_calls:  # in a thread: a schema takes its time
                        loop = asyncio.get_running_loop()
                        await loop.run_in_executor(self._threads, refuse_calls, candidate.last, sampling)
                    if self._parser is not None and (candidate.text or not candidate.last.tool_calls):
                        candidate.parsed = await self._parsed(self._parser, prompt, candidate)
                except BadRow as bad:
                    candidate.error = _error(prompt, bad)
        if self._accept is not None:
            await asyncio.gather(*(self._judged(self._accept, prompt, one, priority) for one in candidates))
        return candidates if best_of is None else sorted(candidates, key=lambda one: one.rank)[:n]

    async def _pictures(self, prompt: Prompt) -> list[str]:
        """The images of a prompt as data URLs. Raises BadRow (input). They are read here, beside the other rows, and not when the
        prompt is rendered: only those of the prompts in the engine are held."""
        if not (urls := images(prompt.messages)) or all(map(is_data_url, urls)):
            return urls
        return await asyncio.get_running_loop().run_in_executor(self._fetches, self._images.load, urls)

    async def _parsed(self, parser: Parser, prompt: Prompt, candidate: Candidate) -> dict[str, object]:
        """The columns of an answer. Raises BadRow (parse). The job's function is called, and a long search made, in a thread,
        beside the other rows."""
        answer = candidate.text
        if (after := self._renderer.functions.after) is not None:
            row = candidate.row(prompt)
            made = await asyncio.get_running_loop().run_in_executor(self._calls, after, row, "parse")
            return parser.typed({name: _plain(value) for name, value in made.items()}, f"what {after.name} returned")
        try:
            return parser.parse(answer, QUICK_SECONDS)
        except TimeoutError:
            pass
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, parser.parse, answer, MOST_SECONDS)
        except TimeoutError:
            raise BadRow("parse", f"the regex is not done with the answer after {MOST_SECONDS:g} s") from None

    async def _judged(self, accept: Acceptance, prompt: Prompt, candidate: Candidate, priority: int) -> None:
        async def ask(ids: list[int], sampling: Sampling) -> str:
            [answer] = await self._judge.generate(ids, sampling, priority)
            candidate.judged(answer, len(ids))
            return answer.text

        if candidate.error is None:
            try:
                await accept.refuse(prompt, candidate, ask)
            except BadRow as bad:
                candidate.error = _error(prompt, bad)

    async def _script(self, prompt: Prompt, candidate: Candidate, sampling: Sampling, priority: int) -> None:
        """The scripted turns of one candidate after the first: each follows the model's own answers."""
        loop = asyncio.get_running_loop()
        try:
            for turn in prompt.turns:
                assert candidate.last is not None
                candidate.messages = self._renderer.continued(candidate.messages, candidate.said, turn)
                # In a thread: a template that takes its time must not hold up the other rows.
                _, ids = await loop.run_in_executor(self._threads, self._renderer.encode, candidate.messages, sampling)
                [answer] = await self._own.generate(ids, self._fitted(sampling, ids), priority, candidate.pictures)
                candidate.add(answer, ids)
        except BadRow as bad:
            candidate.error = _error(prompt, bad)

    def _fitted(self, sampling: Sampling, ids: list[int]) -> Sampling:
        """The sampling with the max_tokens that the context leaves. Raises BadRow (too_long)."""
        return sampling.model_copy(update={"max_tokens": self._renderer.within_context(sampling, len(ids))})


def _of_sample(sampling: Sampling, number: int) -> Sampling:
    """The sampling of sample `number` alone; an engine seeds the samples of a prompt one after the other."""
    seed = None if sampling.seed is None else min(sampling.seed + number, LARGEST_SEED)
    return sampling.model_copy(update={"n": 1, "seed": seed})


def _plain(value: object) -> object:
    """A number of numpy's as Python's."""
    item = getattr(value, "item", None)
    return item() if callable(item) else value


def _error(prompt: Prompt, bad: BadRow) -> RowError:
    return RowError(bad.code, f"{prompt.place}: {bad}")
