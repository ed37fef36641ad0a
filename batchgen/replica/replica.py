"""The replica: spans of prompts in, parts out, many spans in flight.

Every prompt is a coroutine, so that no row waits for another. Twice as many as the engine runs at once are inside, so that it
never starves; the others wait for their turn (admission.py). A replica asks for work through `capacity_left`, which returns when
it holds fewer prompts than it should and few spans wait for the store, so that finished rows do not pile up behind a slow one.
Finished rows of open spans go into the journal every `spans.journal_seconds`. cluster/actor.py makes a Ray actor of it."""

import asyncio
import contextlib
import importlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar, TypeVarTuple

import pyarrow as pa

from batchgen import logs
from batchgen.engines.base import Engine
from batchgen.errors import SECRET_NAMES, BadRow, BatchgenError, EngineError, RowError, StoreError
from batchgen.output import parts
from batchgen.output.store import delete_all, open_store
from batchgen.records import Completion, Prompt, Receipt, failed
from batchgen.records.columns import schema_of
from batchgen.render.blocks import Block, decode_block, decode_prompts
from batchgen.render.renderer import Renderer
from batchgen.replica import careful, journal
from batchgen.replica.admission import IN_ENGINE, Priority, Queue
from batchgen.replica.careful import Begun, Care
from batchgen.replica.engines import Engines
from batchgen.tasks import TASKS, Judging
from batchgen.tasks.dedupe import Elsewhere, Sharing
from batchgen.tasks.sound import refuse_completions

_LOG = logs.logger("replica")
MAX_COMMITTING_SPANS = 4
MAX_HELD_BYTES = 16 * 2**20  # of encoded spans; their token ids take nine times as much as Python's integers
DRAIN_JOURNAL_SECONDS = 1.0
STOPS = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)  # nobody's error: they end the replica
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(eq=False)
class _OpenSpan:
    """A span that has no part yet: its finished prompts by index, those since its last journal file, its journal files."""

    name: str
    size: int
    done: dict[int, list[Completion]] = field(default_factory=dict)
    fresh: list[int] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    first: float = 0.0  # when its first prompt entered the engine


class Replica:
    """One engine and the spans it is working on. `shards` are the plan's shard names, `journaled` the spans that had
    journal files when the run began. The engine is the job's, guarded, unless another is given. `elsewhere`: what the other
    replicas generate."""

    def __init__(
        self,
        renderer: Renderer,
        output: str,
        shards: list[str],
        journaled: Iterable[str] = (),
        engine: Engine | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.renderer, self.shards = renderer, shards
        self.job = job = renderer.job
        self.store = open_store(output)
        SECRET_NAMES.update(job.replicas.env_from)
        self._engines = Engines(renderer, engine)
        self.engine = self._engines.own
        self._task = TASKS.named(job.task)(renderer, self.engine)
        if elsewhere is not None and isinstance(self._task, Sharing):
            self._task.share(elsewhere)
        if self._engines.judge is not None and isinstance(self._task, Judging):
            self._task.judge_with(self._engines.judge)
        self._journaled = frozenset(journaled)
        self._spans: list[_OpenSpan] = []  # twice the same, where a copy was given up while it ran here
        self._draining = asyncio.Event()
        self._journaling: asyncio.Task[None] | None = None
        self._accepted_spans = self._unfinished = self._committing = self._restarts = 0
        self._load = self._committing_seconds = 0.0
        self._priority, self._queue = Priority(), Queue()
        self._change = asyncio.Event()

    async def start(self) -> dict[str, int]:
        """Load the model; capacity and workers of the engine. Raises EngineError with the end of the engine's log,
        where vLLM puts the cause."""
        importlib.import_module("pandas")  # pyarrow does, at its first array of Python values: now, not at the first commit
        try:
            self.renderer.functions.load()
            await self._engines.start()
        except EngineError as error:
            raise EngineError(f"{error}{logs.tail(logs.own_file())}") from None
        self._journaling = asyncio.create_task(self._keep_journal())
        return {"capacity": self.engine.capacity, "workers": self.engine.workers}

    async def close(self) -> None:
        """Write the journal for the last time."""
        if self._journaling is not None:
            self._journaling.cancel()
        await self._write_journal(self._spans)

    async def stop(self) -> None:
        """Write the journal and end the engine."""
        await self.close()
        await self._engines.stop()

    async def drain(self) -> None:
        """The replica's node is about to go: keep every finished row from now on."""
        _LOG.info("drains")
        self._draining.set()

    async def capacity_left(self, assigned: int, share: float = 0.0) -> float:
        """The load (unfinished prompts, each by its expected length), once all `assigned` spans have arrived and there is room
        for another. `share`: see admission.share."""
        while self._accepted_spans < assigned or not self._has_room(share):
            self._change.clear()
            await self._change.wait()
        return self._load

    async def uncommitted(self) -> int:
        """The finished rows of the spans that are not committed yet."""
        return sum(len(completions) for span in self._spans for completions in span.done.values())

    async def skip(self) -> None:
        """Do not wait for an assigned span: its block is lost."""
        self._count(accepted=1)

    async def run(self, block: pa.Table, again: bool = False, care: Care | None = None) -> Receipt:
        """Generate and commit one span; `block` is an encoded one (render/blocks.py), `again` whether another replica had it in
        this run, `care` how to run one that replicas die of (careful.py; nothing else may run beside it). Raises EngineError (the
        replica is of no more use), StoreError, TooManyErrors (see tasks/generate.py)."""
        decoded = decode_block(block)
        with logs.in_span(decoded.span):
            span = _OpenSpan(decoded.span, block.nbytes)
            kept = decoded.kept if self.job.judges_rows else None
            prompts = decode_prompts(decoded.prompts, self.shards[decoded.shard], kept)
            from_journal = await self._generate(span, prompts, again, care)
            completions = [completion for index in range(len(prompts)) for completion in span.done[index]]
            return await self._commit(span, decoded, completions, from_journal)

    async def _generate(self, span: _OpenSpan, prompts: list[Prompt], again: bool, care: Care | None) -> int:
        """Fill `span.done`. Returns the number of rows from the journal. Finished rows are there when the engine is given up."""
        queued = self._priority.of_span(prompts, self.engine.capacity)
        self._count(accepted=1, unfinished=len(prompts), load=sum(length for _, length in queued))
        if again or care is not None or span.name in self._journaled:
            span.done, span.files = await asyncio.to_thread(journal.load, self.store, span.name)
            self._count(unfinished=-len(span.done), load=-sum(queued[index][1] for index in span.done))
        from_journal = sum(map(len, span.done.values()))
        missing = [index for index in range(len(prompts)) if index not in span.done]
        self._spans.append(span)
        try:
            async for group in self._groups(span, prompts, queued, missing, care):
                await asyncio.gather(*(self._answer(span, index, prompts[index], *queued[index]) for index in group))
        except EngineError:
            await self._write_journal([span])
            raise
        finally:
            self._spans.remove(span)
        return from_journal

    async def _groups(
        self, span: _OpenSpan, prompts: list[Prompt], queued: list[tuple[int, float]], missing: list[int], care: Care | None
    ) -> AsyncIterator[list[int]]:
        """The prompts to answer together: all, but for a span that needs care. The guilty ones are answered by their error."""
        if care is None:
            yield missing
            return
        begun = await asyncio.to_thread(careful.load, self.store, span.files)
        guilty, groups = careful.groups(missing, begun, care)
        for index in guilty:
            prompt = prompts[index]
            error = RowError("engine_crash", f"{prompt.place}: {careful.DETAIL}")
            span.done[index] = [failed(index, *each, error) for each in prompt.samples(self.job.samples)]
            span.fresh.append(index)
            self._count(unfinished=-1, load=-queued[index][1])
        await self._write_journal([span])
        for place, group in enumerate(groups):
            named = Begun(care.attempt, place, tuple(group), alone=self._spans == [span])
            span.files.append(await self._timed(careful.begin, self.store, f"{journal.FOLDER}/{span.name}", named))
            yield group
            await self._write_journal([span])

    async def _commit(self, span: _OpenSpan, block: Block, completions: list[Completion], from_journal: int) -> Receipt:
        last = time.time()
        self._count(committing=1)
        job, model, shard = self.job, self.renderer.model.label, self.shards[block.shard]
        schema = schema_of(job, block.kept.schema, dimensions=self.renderer.model.pooling.dimensions)
        made = await self._timed(parts.encode_sound, block.prompts, block.kept, completions, schema, shard, model)
        part, footer, completions = made
        created = await self._timed(parts.commit, self.store, span.name, part)
        sha256 = await self._timed(parts.sha256, part) if created else None
        counts, errors = footer if created else await asyncio.to_thread(parts.read_footer, self.store, span.name)
        if span.files:
            await asyncio.to_thread(delete_all, self.store, span.files)
        self._count(committing=-1)
        _LOG.info("%s: %s, %d rows from the journal", "committed" if created else "has a part already", counts, from_journal)
        restarts_before, self._restarts = self._restarts, self._engines.restarts
        committing, self._committing_seconds = self._committing_seconds, 0.0
        return Receipt(
            span=span.name,
            created=created,
            counts=counts,
            errors=errors,
            samples=parts.first_errors(completions),
            first=span.first or last,
            last=last,
            committing=committing,
            from_journal=from_journal,
            restarts=self._restarts - restarts_before,
            sha256=sha256,
            died=self._engines.taken_causes(),
        )

    async def _answer(self, span: _OpenSpan, index: int, prompt: Prompt, priority: int, length: float) -> None:
        await self._queue.enter(priority, IN_ENGINE * self.engine.capacity)
        span.first = span.first or time.time()
        samples = prompt.samples(self.job.samples)
        try:
            completions = await self._task.complete(index, prompt, priority)
            refuse_completions(completions, index, samples)
        except (BatchgenError, *STOPS):
            raise
        except BaseException as error:  # an extension in Rust panics with one that is no Exception
            problem = row_error(error, prompt.place)
            completions = [failed(index, *each, problem) for each in samples]
        finally:
            self._queue.leave()
        self._count(unfinished=-1, load=-length)
        span.done[index] = completions
        span.fresh.append(index)
        for completion in completions:
            if completion.error is None:
                self._priority.learn(prompt, completion.completion_tokens)

    def _has_room(self, share: float) -> bool:
        if sum(span.size for span in self._spans) >= MAX_HELD_BYTES:
            share = 0.0
        wanted = self._priority.wants_more(self._unfinished, self._load, self.engine.capacity, share)
        return wanted and self._committing < MAX_COMMITTING_SPANS

    def _count(self, accepted: int = 0, unfinished: int = 0, load: float = 0.0, committing: int = 0) -> None:
        self._accepted_spans += accepted
        self._unfinished += unfinished
        self._load += load
        self._committing += committing
        self._change.set()

    async def _timed(self, call: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """The result of a call in a thread, whose CPU time counts as committing."""

        def timed() -> tuple[T, float]:
            began = time.thread_time()
            return call(*arguments), time.thread_time() - began

        result, seconds = await asyncio.to_thread(timed)
        self._committing_seconds += seconds
        return result

    async def _keep_journal(self) -> None:
        while True:
            if self._draining.is_set():
                await asyncio.sleep(DRAIN_JOURNAL_SECONDS)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._draining.wait(), self.job.spans.journal_seconds)
            await self._write_journal(self._spans)

    async def _write_journal(self, spans: list[_OpenSpan]) -> None:
        """Put what these spans have finished since their last files, side by side: a stop may leave seconds."""
        await asyncio.gather(*(self._write_journal_of(span) for span in spans if span.fresh))

    async def _write_journal_of(self, span: _OpenSpan) -> None:
        fresh, span.fresh = span.fresh, []
        completions = [completion for index in fresh for completion in span.done[index]]
        try:
            span.files.append(await self._timed(journal.write, self.store, span.name, completions))
        except StoreError:
            span.fresh += fresh  # they are put the next time; the commit raises the store's error
        except Exception:
            _LOG.exception("%d rows are left out of the journal", len(completions))
        else:
            _LOG.debug("journal of %d rows: %s", len(completions), span.files[-1])


def row_error(error: BaseException, place: str) -> RowError:
    """The error of a row whose task raised what it should have caught."""
    if isinstance(error, BadRow):
        return RowError(error.code, f"{place}: {error}")
    return logs.internal_error(_LOG, place, error)
