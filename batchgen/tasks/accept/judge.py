"""A judge: a second request, whose answer says whether an answer is accepted."""

from asyncio import get_running_loop
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial

from batchgen.errors import BadRow, JobError
from batchgen.job.accept import Judge
from batchgen.job.job import Job, unknown_adapter
from batchgen.job.sampling import Sampling, check_sampling
from batchgen.records import Data, Prompt
from batchgen.render.renderer import Renderer, derive_seed
from batchgen.render.sandbox import RowTemplate
from batchgen.tasks.accept.fit import FitRule

SHOWN = 80
FIELD = "accept.judge"
Ask = Callable[[list[int], Sampling], Awaitable[str]]
"""Token ids of a prompt and a sampling -> the text of the answer. Raises BadRow."""


class JudgeRule:
    """Raises JobError for a judge that the job cannot have."""

    def __init__(self, spec: Judge, job: Job, renderer: Renderer) -> None:
        if job.input.continue_final_message is not None:
            raise JobError(f"{FIELD}: prompts of input.continue_final_message do not end with a user's message", "leave it out")
        self._renderer, self._fit = renderer, FitRule(spec, FIELD)
        self._sampling = check_sampling({"temperature": 0.0, **spec.sampling})
        try:
            self._template = RowTemplate(spec.template, f"{FIELD}.template")
        except ValueError as error:
            raise JobError(f"{FIELD}.template: {error}") from None
        if self._sampling.adapter is not None and self._sampling.adapter not in job.adapters:
            raise JobError(f"{FIELD}.sampling.adapter: {unknown_adapter(self._sampling.adapter, job.adapters)}")
        try:
            renderer.refuse_mistake(self._sampling)
        except BadRow as bad:
            raise JobError(f"{FIELD}.{bad}") from None

    def refuse_unfit(self, known: set[str]) -> None:
        """Raises JobError for a template with a variable that no row has."""
        if missing := sorted(self._template.columns - known):
            raise JobError(f"{FIELD}.template: no column {missing[0]!r}", f"a row with its answer has {', '.join(sorted(known))}")

    async def mistake(self, prompt: Prompt, row: Data, ask: Ask, threads: Executor) -> str | None:
        """Why the judge does not accept the answer in a row, None where it does. What keeps it from judging is a reason too."""
        loop = get_running_loop()
        try:
            ids = await loop.run_in_executor(threads, self._ids, prompt, row)
            sampling = self._sampling.model_copy(update={"max_tokens": self._renderer.within_context(self._sampling, len(ids))})
            if sampling.seed is not None:
                sampling = sampling.model_copy(
                    update={"seed": derive_seed(sampling.seed, prompt.shard, prompt.row, prompt.variant)}
                )
            said = await ask(ids, sampling)
        except BadRow as bad:
            return f"{FIELD} did not answer: {bad.code}: {bad}"
        cause = await loop.run_in_executor(threads, partial(self._fit.mistake, said))
        shown = repr(said if len(said) <= SHOWN else f"{said[:SHOWN]}...")
        return None if cause is None else f"{cause.replace('the answer', 'its answer', 1)}: {shown}"

    def _ids(self, prompt: Prompt, row: Data) -> list[int]:
        """The judge's prompt: one message of the user's, with the values that steer the row. Raises BadRow (render, too_long)."""
        message = {"role": "user", "content": self._template.render(row), **(prompt.attributes or {})}
        _, ids = self._renderer.encode([message], self._sampling)
        return ids
