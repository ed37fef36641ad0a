"""The feed: a Ray Data execution that reads and renders the spans without a part, as a stream.

Each span becomes one block of one row (span, shard, prompts and carried columns as Arrow IPC bytes): read tasks yield one-row
tables, and `target_max_block_size = 1` keeps Ray Data from merging them, with one operator where a repartition
would add a second. Blocks stay in the object store; the driver handles references only, and takes the next
one when a replica has room, so that backpressure is Ray Data's.
"""

from __future__ import annotations

import functools
import logging
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from batchgen.errors import BatchgenError
from batchgen.read import reader
from batchgen.read.formats import FORMATS
from batchgen.records import Shard, Span
from batchgen.render.blocks import encode_block, encode_span
from batchgen.render.renderer import Renderer

TASK_SPANS = 16
TASK_SPANS_STREAMED = 128  # where a task must begin at the start of a file or row group
READ_CPUS = 0.5
READERS_REMOTE = 4
AHEAD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Assets:
    """What every read task needs, put once into the object store."""

    renderer: Renderer
    kept: pa.Schema


def _read_task(assets_ref: Any, shard: Shard, spans: list[Span]) -> Iterator[pa.Table]:
    assets: Assets = _fetch(assets_ref)
    renderer = assets.renderer
    for span, rows, kept in reader.read_spans(renderer.job, shard, spans, assets.kept, renderer.needed):
        yield encode_block(span, encode_span(renderer, shard.name, rows, span.again), kept)


@functools.lru_cache(maxsize=2)
def _fetch(assets_ref: Any) -> Assets:
    assets: Assets = ray.get(assets_ref)
    return assets


class SpanSource(Datasource):  # type: ignore[misc]
    """Spans as a Ray Data source: one read task for some consecutive spans of a shard."""

    def __init__(self, assets_ref: Any, shards: dict[int, Shard], spans: list[Span]) -> None:
        super().__init__()
        self._assets_ref, self._shards, self._spans = assets_ref, shards, spans

    def get_name(self) -> str:
        return "Spans"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> list[ReadTask]:
        return [
            ReadTask(
                functools.partial(_read_task, self._assets_ref, shard, group),
                BlockMetadata(num_rows=len(group), size_bytes=None, input_files=None, exec_stats=None),
            )
            for shard, group in group_spans(self._shards, self._spans)
        ]


def group_spans(shards: dict[int, Shard], spans: Iterable[Span]) -> Iterator[tuple[Shard, list[Span]]]:
    """Runs of adjoining spans that one task reads in one pass."""
    group: list[Span] = []
    for span in spans:
        if group:
            shard = shards[group[0].shard]
            sequential = FORMATS.named(shard.format).is_sequential(shard)
            full = len(group) >= (TASK_SPANS_STREAMED if sequential else TASK_SPANS)
            if full or span.shard != shard.index or span.start != group[-1].end:
                yield shard, group
                group = []
        group.append(span)
    if group:
        yield shards[group[0].shard], group


class Feed:
    """Runs the execution in a thread; `next` gives block references, `END` at the end.

    A task per replica reads at a time: it renders prompts faster than a replica answers them, and every further process
    imports Ray Data while the replicas start; where a reader waits for an object store, READERS_REMOTE. It works ahead while
    the replicas load their model, by AHEAD_BYTES or two blocks per replica, whichever is more: a row rendered then takes no
    CPU from an engine later. An exception of the execution is raised by `next`.
    """

    END = object()

    def __init__(self, assets_ref: Any, shards: Iterable[Shard], spans: list[Span], replicas: int) -> None:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        by_index = {shard.index: shard for shard in shards}
        source = SpanSource(assets_ref, by_index, spans)
        tasks = sum(1 for _ in group_spans(by_index, spans))
        readers = READERS_REMOTE if any("://" in shard.name for shard in by_index.values()) else 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._dataset = ray.data.read_datasource(
                source, num_cpus=READ_CPUS, override_num_blocks=tasks, concurrency=readers * replicas
            )
            # The dataset's own copy: the process may run other datasets with other settings.
            context = self._dataset.context
            context.target_max_block_size = 1
            context.enable_progress_bars = False
            context.execution_options.preserve_order = False
            context.execution_no_progress_timeout_s = -1
        self._ahead = 2 * replicas
        self._blocks: deque[tuple[Any, int]] = deque()
        self._held = 0
        self._change = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._iterate, name="feed", daemon=True)
        self._thread.start()

    def next(self) -> Any:
        """A reference to a span's block, END, or None when none is ready yet."""
        with self._change:
            if not self._blocks:
                return None
            item, size = self._blocks.popleft()
            self._held -= size
            self._change.notify_all()
        if isinstance(item, BaseException):
            raise _cause(item) from item
        return item

    def stop(self) -> None:
        """Take no more blocks; what is executing is cancelled with its dataset."""
        with self._change:
            self._stopped = True
            self._blocks.clear()
            self._change.notify_all()
        self._thread.join()

    def _iterate(self) -> None:
        try:
            for bundle in self._dataset.iter_internal_ref_bundles():
                for entry in bundle.blocks:
                    self._put(entry.ref, entry.metadata.size_bytes or 0)
                if self._stopped:
                    return
            self._put(self.END, 0)
        except BaseException as error:  # the driver's thread raises it
            self._put(error, 0)

    def _put(self, item: Any, size: int) -> None:
        with self._change:
            self._change.wait_for(lambda: self._stopped or len(self._blocks) < self._ahead or self._held + size <= AHEAD_BYTES)
            if not self._stopped:
                self._blocks.append((item, size))
                self._held += size


def _cause(error: BaseException) -> BaseException:
    """The innermost error of ours that Ray has wrapped (in classes that look like ours), else the error itself."""
    found = error
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, BatchgenError):
            found = inner
        wrapped = getattr(inner, "cause", None)
        inner = wrapped if isinstance(wrapped, BaseException) else inner.__cause__
    # Ray appends lines of advice on its own retries to the message.
    return type(found)(str(found).partition("\n")[0]) if isinstance(found, BatchgenError) else found
