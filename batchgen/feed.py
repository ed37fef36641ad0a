"""The feed: a Ray Data execution that reads and renders the spans without a part, as a stream.

Each span becomes one block of one row (span, shard, prompts as Arrow IPC bytes): read tasks yield one-row
tables, and `target_max_block_size = 1` keeps Ray Data from merging them, with one operator where a repartition
would add a second. Blocks stay in the object store; the driver handles references only, and takes the next
one when a replica has room, so that backpressure is Ray Data's.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from batchgen import read
from batchgen.records import Prompt, Row, Shard, Span, prompt_schema
from batchgen.render import Renderer

TASK_SPANS = 16
TASK_SPANS_STREAMED = 128  # where a task must begin at the start of a file or row group
READ_CPUS = 0.5
END = object()


@dataclass(frozen=True)
class Assets:
    """What every read task needs, put once into the object store."""

    renderer: Renderer
    kept: pa.Schema


def encode_span(assets: Assets, shard: str, rows: list[Row], kept: pa.Table) -> bytes:
    """The rendered prompts of a span as Arrow IPC (records.prompt_schema)."""
    prompts: list[Prompt] = []
    source: list[int] = []
    for index, row in enumerate(rows):
        made = assets.renderer.prompts(row, shard)
        prompts += made
        source += [index] * len(made)
    schema = prompt_schema(assets.kept, assets.renderer.job.schema_names)
    columns: dict[str, list[Any]] = {
        "_row": [p.row for p in prompts],
        "_variant": [p.variant for p in prompts],
        "_id": [p.id for p in prompts],
        "_attributes": [p.attributes for p in prompts],
        "_conversation": [None if p.messages is None else orjson.dumps(p.messages).decode() for p in prompts],
        "_turns": [p.turns for p in prompts],
        "_token_ids": [p.token_ids for p in prompts],
        "_sampling": [p.sampling for p in prompts],
        "_error_code": [p.error.code if p.error else None for p in prompts],
        "_error_detail": [p.error.detail if p.error else None for p in prompts],
    }
    taken = kept.take(pa.array(source, pa.int64()))
    carried = set(assets.kept.names)
    arrays = [taken[f.name] if f.name in carried else pa.array(columns[f.name], f.type) for f in schema]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.table(arrays, schema=schema))
    return bytes(sink.getvalue())


def _read_task(assets_ref: Any, shard: Shard, spans: list[Span]) -> Iterator[pa.Table]:
    assets: Assets = _fetch(assets_ref)
    renderer = assets.renderer
    for span, rows, kept in read.read_spans(renderer.job.input, shard, spans, assets.kept, renderer.needed):
        prompts = encode_span(assets, shard.name, rows, kept)
        yield pa.table({"span": [span.name], "shard": [shard.index], "prompts": pa.array([prompts], pa.large_binary())})


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
            streamed = shard.format == "parquet" or shard.name.endswith((".gz", ".zst"))
            full = len(group) >= (TASK_SPANS_STREAMED if streamed else TASK_SPANS)
            if full or span.shard != shard.index or span.start != group[-1].end:
                yield shard, group
                group = []
        group.append(span)
    if group:
        yield shards[group[0].shard], group


class Feed:
    """Runs the execution in a thread; `next` gives block references, `END` at the end.

    An exception of the execution is raised by `next`.
    """

    def __init__(self, assets_ref: Any, shards: Iterable[Shard], spans: list[Span], ahead: int) -> None:
        context = ray.data.DataContext.get_current()
        context.target_max_block_size = 1
        context.enable_progress_bars = False
        context.execution_options.preserve_order = False
        context.execution_no_progress_timeout_s = -1
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        source = SpanSource(assets_ref, {shard.index: shard for shard in shards}, spans)
        tasks = sum(1 for _ in group_spans({shard.index: shard for shard in shards}, spans))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._dataset = ray.data.read_datasource(source, num_cpus=READ_CPUS, override_num_blocks=tasks)
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._iterate, name="feed", daemon=True)
        self._thread.start()

    def next(self) -> Any:
        """A reference to a span's block, END, or None when none is ready yet."""
        try:
            item = self._queue.get_nowait()
        except queue.Empty:
            return None
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        """Take no more blocks; what is executing is cancelled with its dataset."""
        self._stopped.set()
        while self._thread.is_alive():
            self.next_quietly()
            self._thread.join(0.05)

    def next_quietly(self) -> None:
        try:
            self._queue.get_nowait()
        except queue.Empty:
            return

    def _iterate(self) -> None:
        try:
            for bundle in self._dataset.iter_internal_ref_bundles():
                for entry in bundle.blocks:
                    self._queue.put(entry.ref)
                if self._stopped.is_set():
                    return
            self._queue.put(END)
        except BaseException as error:  # the driver's thread raises it
            self._queue.put(error)
