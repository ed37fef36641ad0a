"""The tasks that read numbers from a model: embed, classify, score, rerank, reward. One prompt -> one completion, by one request.
A row that fails is tried again as `errors` says for its class."""

import itertools
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from batchgen.engines.base import Engine, PoolingEngine, PoolingRequest, Text
from batchgen.errors import BadRow, RowError, TooManyErrors
from batchgen.job.policy import Retry
from batchgen.records import Completion, Pooled, Prompt, failed
from batchgen.render.renderer import Renderer, prompt_hash
from batchgen.tasks.sound import refuse_pooled


class PoolingTask(ABC):
    """What they have in common. `uses` is the name of the task: of POOLED, and what the engine must be able to do."""

    uses: str

    def __init__(self, renderer: Renderer, engine: Engine) -> None:
        self._engine, self._job = cast(PoolingEngine, engine), renderer.job  # prepare has asked for the capability
        self._files, self._requests = renderer.model.pooling, 0

    @property
    def size(self) -> int | None:
        """The numbers of one text; None where nobody knows."""
        return 1

    @abstractmethod
    def filled(self, completion: Completion, found: Pooled) -> Completion:
        """The completion with the numbers in their columns. Raises BadRow (engine_rejected)."""

    async def complete(self, index: int, prompt: Prompt, priority: int) -> list[Completion]:
        """As tasks.Task says."""
        began = time.monotonic()
        [(sample, before)] = prompt.samples(1)
        if prompt.error is not None:
            self._refuse_fatal(prompt.error)
            return [failed(index, sample, before, prompt.error)]
        bare = failed(index, sample, before, RowError("internal", ""))
        for attempt in itertools.count(1):
            error: RowError | None = None
            try:
                made = await self._completion(bare, prompt, priority)
            except BadRow as bad:
                made, error = bare, RowError(bad.code, f"{prompt.place}: {bad}")
                self._refuse_fatal(error)
                policy = self._job.errors.get(error.code)
                if isinstance(policy, Retry) and attempt <= policy.retry:
                    continue
            break
        digest, seconds = prompt_hash(prompt.token_ids), time.monotonic() - began
        return [replace(made, prompt_hash=digest, seconds=seconds, attempt=before + attempt, error=error)]

    async def _completion(self, bare: Completion, prompt: Prompt, priority: int) -> Completion:
        self._requests += 1
        texts = _texts(prompt)
        request = PoolingRequest(str(self._requests), self.uses, self._job.pooling, texts, self.size, priority)
        found = await self._engine.pool(request)
        try:
            refuse_pooled(found, len(texts) if prompt.pairs or self.uses != "rerank" else None, self.size)
        except ValueError as error:
            raise BadRow("engine_rejected", str(error)) from None
        tokens = len(prompt.token_ids) if found.prompt_tokens is None else found.prompt_tokens
        return self.filled(replace(bare, prompt_tokens=tokens, cached_tokens=found.cached_tokens), found)

    def _refuse_fatal(self, error: RowError) -> None:
        """Raises TooManyErrors where the job says `fail` for the error."""
        if self._job.errors.get(error.code) == "fail":
            cause = f"{error.code}: {error.detail}"
            raise TooManyErrors(cause, f"errors.{error.code} is fail: mend the row or the job and run again")


class Embedding(PoolingTask):
    uses = "embed"

    @property
    def size(self) -> int | None:
        return self._job.pooling.dimensions or self._files.dimensions

    def filled(self, completion: Completion, found: Pooled) -> Completion:
        return replace(completion, embedding=found.values[0])


class Classification(PoolingTask):
    uses = "classify"

    @property
    def size(self) -> int | None:
        return len(self._files.labels) or None

    def filled(self, completion: Completion, found: Pooled) -> Completion:
        numbers, label = found.values[0], found.label
        if label is None:
            likeliest = pc.index(numbers, pc.max(numbers)).as_py()
            label = self._files.labels[likeliest] if self._files.labels else f"LABEL_{likeliest}"
        return replace(completion, label=label, probabilities=numbers)


class Scoring(PoolingTask):
    uses = "score"

    def filled(self, completion: Completion, found: Pooled) -> Completion:
        return replace(completion, score=found.values[0][0].as_py())


class Reward(Scoring):
    uses = "reward"


class Reranking(PoolingTask):
    uses = "rerank"

    def filled(self, completion: Completion, found: Pooled) -> Completion:
        return replace(completion, scores=pa.concat_arrays(found.values))


def _texts(prompt: Prompt) -> list[Text]:
    if not prompt.pairs:
        return [Text(prompt.token_ids)]
    starts = [0, *(end for end, _ in prompt.pairs)]
    return [
        Text(prompt.token_ids[start:end], second if second < end - start else None)
        for start, (end, second) in zip(starts, prompt.pairs, strict=False)
    ]
