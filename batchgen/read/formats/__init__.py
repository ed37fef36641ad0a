"""The input formats by name, and the protocol of one. There are two families: `text.base.TextFormat`, text that is cut by rows,
and `table.TableFormat`, tables that are cut by positions."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import pyarrow as pa

from batchgen.errors import OutputConflict
from batchgen.job.input import Input
from batchgen.read import location
from batchgen.records import Data, Row, Shard, Span
from batchgen.registry import Registry

Head: TypeAlias = "Iterator[tuple[Data, int]] | pa.Schema"
"""The first good rows of a shard, each with the bytes of its text, or the Arrow schema of the whole."""
Planned = tuple[Shard, list[Span]]
RowsOf = Callable[[float], int]  # the number of rows of a span, given about how many rows of the shard follow the span's start
SpanRows = tuple[Span, list[Row], pa.Table]  # a span, its rows, and the carried columns of each


@dataclass(frozen=True)
class Found:
    """A shard of the input as it is now. `size` is in stored bytes; `version` changes when the shard is written again. `upstream`
    is the output that the shard is a part of: its path and its job's fingerprint."""

    name: str
    format: str
    size: int = 0
    version: str = ""
    upstream: tuple[str, str] | None = None


@dataclass(frozen=True)
class Measured:
    """A shard that is new or may have changed, before it is cut; it adds about `rows` rows to the plan. `plan(rows_of, bytes)` is
    the shard as it is now and its new spans of about `bytes` of text at most, or None where the content is the planned one. It
    raises InputError, and OutputConflict where planned rows changed."""

    rows: int
    plan: Callable[[RowsOf, int], Planned | None]


class Format(Protocol):
    """An input format. Every method raises InputError for a shard that is not of the format."""

    name: str
    endings: tuple[str, ...] = ()  # of the file names that `input.format: auto` takes for this format
    is_typed: bool = True  # whether columns have types; else they are text, to which `input.types` gives one
    takes_folders: bool = False  # whole, so that no file in them is left out
    rank: int = 0  # of several formats in one folder, those of the lowest are read and the others left out

    def claim(self, path: str) -> list[Found] | None:
        """The shards of a path that `auto` takes for this format whatever its name; None for any other path."""
        return None

    def find(self, path: str) -> list[Found]:
        """The shards of a path where the job names the format."""
        return [Found(name, self.name) for name in location.expand(path, tuple(known_endings()))]

    def of_content(self, name: str) -> str:
        """The name of the format of a file with one of `endings`, where `auto` has to look into it."""
        return self.name

    def version(self, spec: Input, name: str) -> tuple[int, str]:
        """Size in stored bytes, and a mark that changes when the shard is written again."""
        return location.stat(name)

    def folders(self, spec: Input, name: str) -> Mapping[str, object]:
        """The columns that all rows of a shard have by its name."""
        return {}

    def head(self, spec: Input, name: str, rows: int) -> Head:
        """The good ones of the first `rows` rows, or the schema."""

    def first(self, spec: Input, name: str, rows: int) -> Iterator[tuple[Data, int]]:
        """The good ones of the first `rows` rows, whole, each with its bytes."""
        found = self.head(spec, name, rows)
        assert not isinstance(found, pa.Schema)
        return found

    def measure(self, spec: Input, shard: Shard, found: Found, bytes_per_row: float, columns: list[str] | None) -> Measured:
        """`shard` is as in the plan (without a digest where it is new), `found` as now; `columns` are read of it (None: all)."""

    def read(self, spec: Input, shard: Shard, spans: list[Span], kept: pa.Schema, needed: set[str]) -> Iterator[SpanRows]:
        """The rows of consecutive spans in one pass: `needed` columns as data, `kept` columns as Arrow under their output names.
        A row that cannot be read is a Row with an error. A shard that is not the planned one raises InputError."""

    def is_sequential(self, shard: Shard) -> bool:
        """Whether a read of a span also reads what precedes it in the file or row group."""
        return True


_BUILT_IN = {
    "jsonl": f"{__name__}.text.jsonl:JSONL",
    "csv": f"{__name__}.text.csv:CSV",
    "json": f"{__name__}.text.array:JSON_ARRAY",
    "parquet": f"{__name__}.parquet:PARQUET",
    "dataset": f"{__name__}.dataset:DATASET",
    "delta": f"{__name__}.lake:DELTA",
    "iceberg": f"{__name__}.lake:ICEBERG",
    "openai-batch": f"{__name__}.openai_batch:OPENAI_BATCH",
    "output": f"{__name__}.parquet:PARTS",
    "query": f"{__name__}.query:QUERY",
}
FORMATS: Registry[Format] = Registry("input.format", "batchgen.formats", _BUILT_IN)


def format_of(spec: Input, shard: Shard | Found) -> Format:
    """The format of a shard. The job's word precedes the plan's: plans may call a shard of an OpenAI batch jsonl."""
    return FORMATS.named(shard.format if spec.format == "auto" else spec.format)


def known_endings() -> dict[str, str]:
    """The endings of file names that `auto` knows, each with the name of its format."""
    return {ending: one.name for one in FORMATS.all().values() for ending in one.endings}


def changed(shard: Shard) -> OutputConflict:
    cause = f"shard {shard.name} is not what was planned: its rows changed"
    return OutputConflict(cause, "restore it, or choose another output.path")
