"""Equal requests, generated once (`dedupe`)."""

import array
import asyncio
import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from batchgen.job.sampling import Sampling
from batchgen.records import Answer

MAX_BYTES = 2**26  # of finished answers that are remembered
_ENTRY_BYTES = 1024  # of an answer's Python objects
Generate = Callable[[list[int], Sampling, int, Sequence[str]], Awaitable[list[Answer]]]
"""Token ids, sampling, priority, images -> the answers."""


class Elsewhere(Protocol):
    """The requests that other replicas generate, by key."""

    async def claim(self, key: bytes) -> list[Answer] | None:
        """The answers of another replica, once it has them; None: this one is to generate them, and to tell `finish`."""

    def finish(self, key: bytes, answers: list[Answer] | None) -> None:
        """What became of a request that was claimed; None: it failed, and another may try."""


@runtime_checkable
class Sharing(Protocol):
    """A task that can spare work that other replicas do."""

    def share(self, elsewhere: Elsewhere) -> None: ...


@dataclass(eq=False)
class _Running:
    """A request in the engine, how many wait for it, and whether one of them has its answers, which are copies for the others."""

    task: asyncio.Future[list[Answer]]
    waiting: int = 0
    taken: bool = False


class Shared:
    """`generate`, called once for requests of the same token ids, images and sampling: the others get copies of its answers
    (`Answer.copied`). Sampled answers without a seed are never shared. An error is told to those who wait for it, and is not
    remembered. A request is cancelled when all who wait for it are. `elsewhere`: the other replicas."""

    def __init__(self, generate: Generate, max_bytes: int = MAX_BYTES, elsewhere: Elsewhere | None = None) -> None:
        self._generate, self._max_bytes, self.elsewhere = generate, max_bytes, elsewhere
        self._running: dict[bytes, _Running] = {}
        self._finished: OrderedDict[bytes, tuple[list[Answer], int]] = OrderedDict()  # the least recently used first
        self._bytes = 0

    async def generate(self, ids: list[int], sampling: Sampling, priority: int, images: Sequence[str]) -> list[Answer]:
        if (key := key_of(ids, sampling, images)) is None:
            return await self._generate(ids, sampling, priority, images)
        if (found := self._finished.get(key)) is not None:
            self._finished.move_to_end(key)
            return _copies(found[0])
        running = self._running.get(key)
        if running is None:
            running = _Running(asyncio.ensure_future(self._claimed(key, ids, sampling, priority, images)))
            self._running[key] = running
            running.task.add_done_callback(lambda task: self._end(key, running))
        running.waiting += 1
        try:
            answers = await asyncio.shield(running.task)
        finally:
            running.waiting -= 1
            if not running.waiting and not running.task.done():
                self._forget(key, running)
                running.task.cancel()
        is_copy, running.taken = running.taken, True
        return _copies(answers) if is_copy else answers

    async def _claimed(
        self, key: bytes, ids: list[int], sampling: Sampling, priority: int, images: Sequence[str]
    ) -> list[Answer]:
        """The answers of another replica, or else of this one's engine."""
        if self.elsewhere is None:
            return await self._generate(ids, sampling, priority, images)
        if (found := await self.elsewhere.claim(key)) is not None:
            return _copies(found)
        answers = None
        try:
            answers = await self._generate(ids, sampling, priority, images)
        finally:
            self.elsewhere.finish(key, answers)
        return answers

    def _end(self, key: bytes, running: _Running) -> None:
        self._forget(key, running)
        if running.task.cancelled() or running.task.exception() is not None:
            return
        answers = running.task.result()
        size = sum(map(_size, answers))
        if size <= self._max_bytes:
            self._finished[key] = answers, size
            self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, least) = self._finished.popitem(last=False)
            self._bytes -= least

    def _forget(self, key: bytes, running: _Running) -> None:
        if self._running.get(key) is running:
            del self._running[key]


def key_of(ids: list[int], sampling: Sampling, images: Sequence[str]) -> bytes | None:
    """The same for requests with the same answers: of the sampling all counts, but the seed at temperature 0. None for a request
    whose answers are another each time. A row is untrusted: this is a hash that nobody can aim at."""
    if sampling.temperature > 0 and sampling.seed is None:
        return None
    if sampling.temperature == 0:
        sampling = sampling.model_copy(update={"seed": None})
    parts = [sampling.model_dump_json().encode(), array.array("q", ids).tobytes(), *(image.encode() for image in images)]
    made = hashlib.sha256(array.array("q", map(len, parts)).tobytes())
    for part in parts:
        made.update(part)
    return made.digest()


def _copies(answers: list[Answer]) -> list[Answer]:
    return [dataclasses.replace(answer, copied=True, cached_tokens=0) for answer in answers]


def _size(answer: Answer) -> int:
    scored = sum(int(tokens.nbytes) for tokens in (answer.token_logprobs, answer.prompt_logprobs) if tokens is not None)
    texts = sum(len(text) for text in (answer.text, answer.reasoning or "", str(answer.tool_calls or "")))
    return _ENTRY_BYTES + 4 * texts + scored
