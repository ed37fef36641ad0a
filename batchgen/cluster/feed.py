"""The feed: a Ray Data execution that reads and renders the spans without a part, as a stream.

Each span becomes one block of one row (span, shard, prompts and carried columns as Arrow IPC bytes): read tasks yield one-row
tables, and `target_max_block_size = 1` keeps Ray Data from merging them, without the second operator of a repartition. Blocks
stay in the object store; the driver takes the next reference when a replica has capacity, so that backpressure is Ray Data's."""

import functools
import logging
import os
import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from batchgen.cluster.lookahead import Lookahead
from batchgen.cluster.state.feed_room import READ_CPUS, Room
from batchgen.cluster.state.ray_adapter import blocks
from batchgen.errors import SECRET_NAMES, BatchgenError
from batchgen.read import reader
from batchgen.read.formats import FORMATS
from batchgen.records import Shard, Span
from batchgen.render.blocks import encode_block, encode_span
from batchgen.render.renderer import Renderer

TASK_SPANS, TASK_SPANS_STREAMED = 16, 128
"""Spans of a read task; the second where a task must begin at the start of a file or row group."""
READERS_REMOTE = 4  # read tasks per replica that run at a time where a shard is in an object store
BLOCKS_AHEAD = 2  # per replica that are made ahead, whatever their size
AHEAD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Assets:
    """What every read task needs, put once into the object store. `env`: what it gets of the driver's environment."""

    renderer: Renderer
    input_columns: pa.Schema
    env: Mapping[str, str] = field(default_factory=dict)


def _read_task(assets_ref: Hashable, shard: Shard, spans: list[Span]) -> Iterator[pa.Table]:
    assets: Assets = _fetch(assets_ref)
    renderer = assets.renderer
    os.environ.update(assets.env)
    SECRET_NAMES.update(renderer.job.replicas.env_from)
    before = renderer.functions.before
    for span, rows, kept in reader.read_spans(renderer.job, shard, spans, assets.input_columns, renderer.needed, before):
        yield encode_block(span, encode_span(renderer, shard.name, rows, span.again), kept)


_fetch = functools.lru_cache(maxsize=2)(ray.get)


class SpansDatasource(Datasource):  # type: ignore[misc]
    """The source that Ray Data names "Spans": one read task for some consecutive spans of a shard."""

    def __init__(self, assets_ref: Hashable, shards: dict[int, Shard], spans: list[Span]) -> None:
        super().__init__()
        self._assets_ref = assets_ref
        self.groups = list(group_spans(shards, spans))

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        return [
            ReadTask(
                functools.partial(_read_task, self._assets_ref, shard, group),
                BlockMetadata(num_rows=len(group), size_bytes=None, input_files=None, exec_stats=None),
            )
            for shard, group in self.groups
        ]


def group_spans(shards: dict[int, Shard], spans: Iterable[Span]) -> Iterator[tuple[Shard, list[Span]]]:
    """Runs of adjoining spans that one task reads in one pass."""
    group: list[Span] = []
    most = 0
    for span in spans:
        if group and (len(group) >= most or span.shard != group[-1].shard or span.start != group[-1].end):
            yield shards[group[0].shard], group
            group = []
        if not group:
            shard = shards[span.shard]
            most = TASK_SPANS_STREAMED if FORMATS.named(shard.format).is_sequential(shard) else TASK_SPANS
        group.append(span)
    if group:
        yield shards[group[0].shard], group


class Feed(Lookahead):
    """The blocks of some spans, as they become ready. Ray Data works ahead while replicas load their model, by AHEAD_BYTES
    or BLOCKS_AHEAD per replica, whichever is more: a row rendered then takes no CPU from an engine later. `room`: where its
    tasks run; None for anywhere."""

    def __init__(
        self, assets_ref: Hashable, shards: Iterable[Shard], spans: list[Span], replicas: int, room: Room | None = None
    ) -> None:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        by_index = {shard.index: shard for shard in shards}
        source, concurrency = SpansDatasource(assets_ref, by_index, spans), readers(by_index.values(), replicas)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tasks = len(source.groups)
            most = max(1, min(concurrency, tasks, room.tasks if room else tasks))
            where = {"scheduling_strategy": PlacementGroupSchedulingStrategy(room.group)} if room else {}
            dataset = ray.data.read_datasource(
                source, num_cpus=READ_CPUS, override_num_blocks=tasks, concurrency=most, ray_remote_args=where
            )
            context = dataset.context  # the dataset's own: the process may run other datasets with other settings
            context.target_max_block_size = 1
            context.enable_progress_bars = False
            context.execution_options.preserve_order = False
            context.execution_no_progress_timeout_s = -1
        super().__init__(blocks(dataset), BLOCKS_AHEAD * replicas, AHEAD_BYTES)

    def next(self) -> Hashable | None:
        """A reference to a span's block, END after the last one, None when none is ready yet. Raises what a read task raised."""
        try:
            return super().next()
        except Exception as error:
            raise _cause(error) from error


def readers(shards: Iterable[Shard], replicas: int) -> int:
    """Read tasks that run at a time: one per replica, since one renders prompts faster than a replica answers them and each is a
    process that imports Ray Data while the replicas start; READERS_REMOTE where they wait for an object store."""
    return replicas * (READERS_REMOTE if any("://" in shard.name for shard in shards) else 1)


def _cause(error: BaseException) -> BaseException:
    """The innermost of our errors that Ray has wrapped (in classes that look like ours), without the lines of advice on retries
    that Ray appends to its message; else the error itself."""
    found = error
    inner: BaseException | None = error
    while inner is not None:
        found = inner if isinstance(inner, BatchgenError) else found
        wrapped = getattr(inner, "cause", None)
        inner = wrapped if isinstance(wrapped, BaseException) else inner.__cause__
    return type(found)(str(found).partition("\n")[0]) if isinstance(found, BatchgenError) else found
