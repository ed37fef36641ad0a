"""A judge: a second request, whose answer says whether an answer is accepted."""

from asyncio import get_running_loop
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial

from batchgen.errors import BadRow, JobError
from batchgen.job.accept import Judge
from batchgen.job.job import unknown_adapter
from batchgen.job.sampling import Sampling, check_sampling
from batchgen.records import Data, Prompt
from batchgen.render.renderer import JUDGE, Renderer, derive_seed
from batchgen.render.sandbox import RowTemplate
from batchgen.tasks.accept.fit import FitRule

SHOWN = 80
Ask = Callable[[list[int], Sampling], Awaitable[str]]
"""Token ids of a prompt and a sampling -> the text of the answer. Raises BadRow."""


class JudgeRule:
    """`renderer` is the job's, which has that of a judge with an engine of its own. Raises JobError for a judge that the job
    cannot have."""

    def __init__(self, spec: Judge, renderer: Renderer) -> None:
        self._is_own = renderer.judge is not None
        if not self._is_own and renderer.job.input.continue_final_message is not None:
            cause = f"{JUDGE}: prompts of input.continue_final_message do not end with a user's message"
            raise JobError(cause, f"leave it out, or give {JUDGE}.model")
        self._renderer = renderer = renderer.judge or renderer
        self._fit, job = FitRule(spec, JUDGE), renderer.job
        self._sampling = check_sampling({"temperature": 0.0, **spec.sampling})
        try:
            self._template = RowTemplate(spec.template, f"{JUDGE}.template")
        except ValueError as error:
            raise JobError(f"{JUDGE}.template: {error}") from None
        if self._sampling.adapter is not None and self._sampling.adapter not in job.adapters:
            raise JobError(f"{JUDGE}.sampling.adapter: {unknown_adapter(self._sampling.adapter, job.adapters)}")
        try:
            renderer.refuse_mistake(self._sampling)
        except BadRow as bad:
            raise JobError(f"{JUDGE}.{bad}") from None

    def refuse_unfit(self, known: set[str]) -> None:
        """Raises JobError for a template with a variable that no row has."""
        if missing := sorted(self._template.columns - known):
            raise JobError(f"{JUDGE}.template: no column {missing[0]!r}", f"a row with its answer has {', '.join(sorted(known))}")

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
            said = (await ask(ids, sampling)).strip()  # what thinks begins its answer with empty lines
        except BadRow as bad:
            return f"{JUDGE} did not answer: {bad.code}: {bad}"
        cause = await loop.run_in_executor(threads, partial(self._fit.mistake, said))
        shown = repr(said if len(said) <= SHOWN else f"{said[:SHOWN]}...")
        return None if cause is None else f"{cause.replace('the answer', 'its answer', 1)}: {shown}"

    def _ids(self, prompt: Prompt, row: Data) -> list[int]:
        """The judge's prompt: one message of the user's, of the job's own model with the values that steer the row. Raises BadRow
        (render, too_long)."""
        steered = {} if self._is_own else prompt.attributes or {}
        message = {"role": "user", "content": self._template.render(row), **steered}
        _, ids = self._renderer.encode([message], self._sampling)
        return ids
