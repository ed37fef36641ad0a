"""The input formats by name, and what planning and reading ask of one.

`jsonl.Jsonl` and `table.TableFormat` are the two families: text that is cut by lines, and tables that are cut by positions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import pyarrow as pa

from batchgen.errors import OutputConflict
from batchgen.job.input import Input
from batchgen.read import location
from batchgen.records import Data, Row, Shard, Span
from batchgen.registry import Registry

Head: TypeAlias = "list[Data] | pa.Schema"
"""What the start of a shard says of its columns: the first good rows, or the Arrow schema of the whole."""
Planned = tuple[Shard, list[Span]]
RowsOf = Callable[[float], int]
"""The number of rows of a span at whose start about so many rows of the shard are not planned yet."""
SpanRows = tuple[Span, list[Row], pa.Table]
"""A span, its rows, and the carried columns of these rows (one table row each)."""


@dataclass(frozen=True)
class Found:
    """A shard that the job's paths lead to, as it is now. `size` is in stored bytes; `stamp` changes when the shard is
    written again. `upstream` is the output that the shard is a part of: its path and its job's fingerprint."""

    name: str
    format: str
    size: int = 0
    stamp: str = ""
    upstream: tuple[str, str] | None = None


@dataclass(frozen=True)
class Measured:
    """A shard that is new or looks changed, before it is cut: about how many `rows` it adds to the plan.

    `plan(rows_of, bytes)` gives the shard as it is now and its new spans, of at most about `bytes` of text; None where its
    content is what was planned. It raises InputError, and OutputConflict where planned rows changed.
    """

    rows: int
    plan: Callable[[RowsOf, int], Planned | None]


class Format(Protocol):
    """An input format. Every method raises InputError for a shard that cannot be read as the format says."""

    name: str
    endings: tuple[str, ...] = ()
    """File names that `input.format: auto` takes for this format."""

    def claim(self, path: str) -> list[Found] | None:
        """The shards of a path that is of this format as a whole, whatever its name; None for any other path."""
        return None

    def find(self, path: str) -> list[Found]:
        """The shards of a path where the job names the format."""
        return [Found(name, self.name) for name in location.expand(path, tuple(known_endings()))]

    def version(self, spec: Input, name: str) -> tuple[int, str]:
        """Size in stored bytes, and the stamp."""
        return location.stat(name)

    def head(self, spec: Input, name: str, rows: int) -> Head:
        """The first `rows` rows at most, or the schema."""
        ...

    def measure(self, spec: Input, shard: Shard, found: Found, bytes_per_row: float) -> Measured:
        """`shard` as it is in the plan (without a digest where it is new), `found` as it is now."""
        ...

    def read(self, spec: Input, shard: Shard, spans: list[Span], kept: pa.Schema, needed: set[str]) -> Iterator[SpanRows]:
        """The rows of consecutive spans in one pass: `needed` columns as data, `kept` columns as Arrow under their output names.

        A row that cannot be read is a Row with an error. A shard that is not what was planned raises InputError.
        """
        ...

    def is_sequential(self, shard: Shard) -> bool:
        """Whether a span in the middle costs reading what precedes it in the file or row group."""
        return True


FORMATS: Registry[Format] = Registry(
    "input.format",
    "batchgen.formats",
    {
        "jsonl": "batchgen.read.formats.jsonl:JSONL",
        "parquet": "batchgen.read.formats.parquet:PARQUET",
        "dataset": "batchgen.read.formats.dataset:DATASET",
        "openai-batch": "batchgen.read.formats.openai_batch:OPENAI_BATCH",
        "output": "batchgen.read.formats.parts:PARTS",
    },
)


def format_of(spec: Input, shard: Shard | Found) -> Format:
    """The format of a shard. The job's word precedes the plan's: plans may call a shard of an OpenAI batch jsonl."""
    return FORMATS.named(shard.format if spec.format == "auto" else spec.format)


def known_endings() -> dict[str, str]:
    """The endings of file names that `auto` knows, each with the name of its format."""
    return {ending: one.name for one in FORMATS.all().values() for ending in one.endings}


def changed(shard: Shard) -> OutputConflict:
    cause = f"shard {shard.name} is not what was planned: its rows changed"
    return OutputConflict(cause, "restore it, or choose another output.path")
