"""Job + shards -> spans, frozen in the output; later runs add what the input has grown by.

JSONL is scanned once for line ends (numpy over 8 MiB chunks, nothing parsed, memory independent of the
input's size); Parquet gives its row counts from footers. A row's ordinal is its line number - 1
(JSONL, where blank lines are not rows) or its position (Parquet, datasets).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import orjson
import pyarrow as pa
import xxhash

from batchgen.errors import InputError, JobError, OutputConflict
from batchgen.job.fields import Column
from batchgen.job.input import Input
from batchgen.job.job import Job
from batchgen.output import plan_file
from batchgen.output.store import Store
from batchgen.plan.sizes import Sizes, span_sizes
from batchgen.read import columns, location, reader, tables
from batchgen.read.formats import parts
from batchgen.read.formats.jsonl import Rows, scan, text_digest
from batchgen.records import Shard, Span, carried_name
from batchgen.render.sandbox.template import RowTemplate

HEAD_ROWS, HEAD_SHARDS = 10_000, 16
KINDS = {"openai-batch": "jsonl"}
"""What a shard is to the planner, where `input.format` says more of it."""
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Columns:
    """What the first rows tell of the input: its column names, and the carried columns under their output
    names with their types (`kept`)."""

    names: tuple[str, ...]
    kept: pa.Schema
    bytes_per_row: float


@dataclass(frozen=True)
class Found:
    """A shard that the job's paths lead to, as it is now."""

    name: str
    format: str
    size: int
    stamp: str


def discover(spec: Input) -> list[Found]:
    """The shards of the job's paths, in order. Raises InputError when there are none, or two formats."""
    if spec.format == "dataset":
        return [Found(path, "dataset", 0, str(tables.load_dataset(spec, path)._fingerprint)) for path in spec.paths]
    outputs = {path for path in spec.paths if spec.format == "auto" and parts.job_of(path) is not None}
    expanded = {path: location.expand(parts.parts_path(path) if path in outputs else path) for path in spec.paths}
    of_outputs = {_normal(name) for path in outputs for name in expanded[path]}
    names = list(dict.fromkeys(_normal(name) for found in expanded.values() for name in found))
    files: dict[str, str] = {}
    for name in names:
        if not name.isprintable():
            raise InputError(f"shard {name!r}: control characters or bytes that are no UTF-8 in its name", "rename it")
        if "://" not in name and (other := files.setdefault(os.path.realpath(name), name)) != name:
            raise InputError(f"shards {other} and {name} are one file", "leave the symbolic link out")
    kinds = {name: location.format_of(name) if spec.format == "auto" else KINDS.get(spec.format, spec.format) for name in names}
    kinds |= dict.fromkeys(of_outputs, parts.FORMAT)
    for name, kind in kinds.items():
        if kind is None:
            raise InputError(
                f"shard {name}: unknown format", f"set input.format, or use an ending of {' '.join(location.SUFFIXES)}"
            )
    if len(set(kinds.values())) > 1:
        both = " and ".join(sorted(map(str, set(kinds.values()))))
        raise InputError(f"input.path leads to both {both} shards", "give each its own job")
    stats = _threads(location.stat, names)
    return [Found(name, str(kinds[name]), size, stamp) for name, (size, stamp) in zip(names, stats, strict=True)]


def _normal(name: str) -> str:
    return name if "://" in name else os.path.normpath(name)


def look(job: Job, found: list[Found]) -> Columns:
    """Read the heads of some shards: column names, types of the carried columns. Raises InputError, JobError."""
    spec = job.input
    step = max(1, len(found) // HEAD_SHARDS)
    heads = [reader.head(spec, shard.name, shard.format, HEAD_ROWS) for shard in found[::step]]
    rows = [row for sample, _ in heads for row in sample]
    schemas = [schema for _, schema in heads if schema is not None]
    try:
        types = pa.unify_schemas(schemas, promote_options="permissive") if schemas else columns.infer_columns(rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"the shards' columns differ in type: {error}", "write them with one schema") from None
    if types.names or schemas:
        _check_columns(job, types.names)
    wanted = types.names if spec.keep == "all" else spec.keep
    fields = []
    for name in wanted:
        if name == spec.id == "id":
            continue
        field = types.field(name) if name in types.names else pa.field(name, pa.string(), metadata={"json": "1"})
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        fields.append(pa.field(carried_name(name), kind, metadata={**(field.metadata or {}), "column": name}))
    if not schemas and wanted:
        fields.append(columns.extra_field(spec.keep == "all", spec.id if spec.id == "id" else None))
    taken = [field.name for field in fields]
    if len(set(taken)) != len(taken):
        twice = next(name for name in taken if taken.count(name) > 1)
        raise InputError(f"two input columns would both be carried as {twice}", "leave one out with input.keep")
    weight = sum(len(orjson.dumps(row)) + 1 for row in rows) / len(rows) if rows else 256.0
    return Columns(tuple(types.names), pa.schema(fields), weight)


def _check_columns(job: Job, names: list[str]) -> None:
    named: dict[str, str | None] = {f"input.{k}": getattr(job.input, k) for k in ("id", "prompt", "messages", "turns")}
    if isinstance(job.input.system, Column):
        named["input.system"] = job.input.system.column
    named |= {f"sampling.{field}": column for field, column in job.sampling_columns.items()}
    if job.attributes and isinstance(job.attributes.columns, dict):
        named |= {f"attributes.columns.{name}": column for name, column in job.attributes.columns.items()}
    if isinstance(job.input.keep, list):
        named |= {f"input.keep[{index}]": column for index, column in enumerate(job.input.keep)}
    if job.input.template is not None:
        named |= {f"input.template: {name}": name for name in sorted(RowTemplate(job.input.template).columns)}
    for field, name in named.items():
        if name is not None and name not in names:
            raise JobError(f"{field}: no column {name!r} in the input", f"its columns are {', '.join(sorted(names))}")


def make_plan(job: Job, found: list[Found], columns: Columns, known: tuple[Shard, ...] = ()) -> tuple[list[Shard], list[Span]]:
    """Shards and spans that `known` does not have yet. Raises InputError, and OutputConflict for a
    known shard that changed or vanished."""
    before = {shard.name: shard for shard in known}
    gone = [name for name in before if name not in {shard.name for shard in found}]
    if gone:
        raise OutputConflict(
            f"planned shard {gone[0]} is not in the input any more", "bring it back, or choose another output.path"
        )
    fresh = [shard for shard in found if shard.name not in before]
    counts = _threads(lambda shard: _row_count(job.input, shard), fresh)
    empty = [Shard(len(known) + i, new.name, new.format, new.size, new.stamp, "", 0, 0) for i, new in enumerate(fresh)]
    pairs = [(before[shard.name], shard) for shard in found if shard.name in before]
    grown = [(old, now, None) for old, now in pairs if (now.size, now.stamp) != (old.size, old.stamp)]
    work = [_Work(*item, columns.bytes_per_row) for item in [*zip(empty, fresh, counts, strict=True), *grown]]
    total = sum(item.estimate for item in work)
    sizes = span_sizes(job, max(total, sum(shard.rows for shard in known)))
    later = [total - upto for upto in itertools.accumulate(item.estimate for item in work)]
    made = _threads(lambda item: _plan_shard(job, item[0], item[1], sizes), zip(work, later, strict=True))
    added = [one for one in made if one is not None]
    spans = [span for _, more in added for span in more]
    if not spans and not any(shard.rows for shard in known):
        raise InputError(f"input.path {', '.join(job.input.paths)}: no rows in it")
    return [shard for shard, _ in added], spans


@dataclass(frozen=True)
class _Work:
    """A shard to plan: as it was (`old`, empty when it is new), as it is, and its rows where they are known."""

    old: Shard
    now: Found
    rows: int | None
    bytes_per_row: float

    @property
    def is_new(self) -> bool:
        return not self.old.digest

    @property
    def text_bytes(self) -> float:
        """Bytes of its text; for a compressed shard a guess, good enough for span sizes."""
        return self.now.size * (4.0 if self.now.name.endswith((".gz", ".zst")) else 1.0)

    @property
    def estimate(self) -> int:
        """About how many rows it adds to the plan."""
        if self.rows is not None:
            return self.rows
        return max(0, int((self.text_bytes - self.old.text_bytes) / self.bytes_per_row))


def _row_count(spec: Input, found: Found) -> int | None:
    if found.format == parts.FORMAT:
        return len(parts.ok_positions(found.name))
    if found.format == "parquet":
        return int(tables.open_parquet(found.name)[0].metadata.num_rows)
    return len(tables.load_dataset(spec, found.name)) if found.format == "dataset" else None


def _plan_shard(job: Job, work: _Work, later: int, sizes: Sizes) -> tuple[Shard, list[Span]] | None:
    """The shard with its new spans, None where it only looks changed; about `later` rows follow it in the plan."""
    old, now = work.old, work.now

    def at(offset: int) -> int:
        return sizes.rows(later + (work.text_bytes - offset) / work.bytes_per_row)

    if not work.is_new:
        return _grow(job, old, now, at)
    if now.format == "jsonl":
        return scan(old, (now.size, now.stamp), at, job.spans.bytes)
    rows = work.rows or 0
    ordinals = parts.ok_positions(now.name) if now.format == parts.FORMAT else range(rows)
    spans: list[Span] = []
    low = 0
    while low < rows:
        size = min(sizes.rows(later + rows - low), rows - low)
        begin = spans[-1].end if spans else 0
        spans.append(Span(old.index, begin, int(ordinals[low + size - 1]) + 1, size))
        low += size
    return replace(old, digest=_table_digest(job.input, now), lines=spans[-1].end if spans else 0, rows=rows), spans


def _table_digest(spec: Input, found: Found) -> str:
    if found.format == "dataset":
        return str(tables.load_dataset(spec, found.name)._fingerprint)
    return xxhash.xxh3_128_hexdigest(tables.open_parquet(found.name)[1])


def _grow(job: Job, old: Shard, found: Found, rows: Rows) -> tuple[Shard, list[Span]] | None:
    changed = OutputConflict(
        f"shard {old.name} is not what was planned: its rows changed", "restore it, or choose another output.path"
    )
    if old.format != "jsonl":
        if _table_digest(job.input, found) != old.digest:
            raise changed
        return None
    try:
        digest = text_digest(found.name, old.text_bytes)
        if digest is None or digest.hexdigest() != old.digest:
            raise changed
        shard, spans = scan(old, (found.size, found.stamp), rows, job.spans.bytes, digest)
    except InputError:
        raise changed from None
    return (shard, spans) if spans else None


def freeze_plan(job: Job, store: Store, found: list[Found], columns: Columns) -> plan_file.Plan:
    """The output's plan after the input's growth is added to it. Raises InputError, OutputConflict."""
    factor = job.variants * job.samples
    while True:
        plan, files = plan_file.load_plan(store, factor)
        shards, spans = make_plan(job, found, columns, plan.shards)
        if not shards:
            return plan
        plan_file.add(store, files, shards, spans)


def _threads(call: Callable[[T], R], items: Iterable[T]) -> list[R]:
    items = list(items)
    if len(items) < 2:
        return [call(item) for item in items]
    with ThreadPoolExecutor(min(8, len(items))) as pool:
        return list(pool.map(call, items))
