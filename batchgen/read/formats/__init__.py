"""The input formats by name: the values of `input.format`.

A package adds its own with an entry point of the group `batchgen.formats` that names a Format object, so that the workers of a
cluster know it too; `register` adds one to this process.
"""

from __future__ import annotations

import functools
from importlib.metadata import entry_points

from batchgen.errors import JobError
from batchgen.job.fields import unknown_key
from batchgen.job.input import Input
from batchgen.read.formats.base import Format, Found
from batchgen.read.formats.dataset import DatasetFormat
from batchgen.read.formats.jsonl import Jsonl
from batchgen.read.formats.openai_batch import OpenAIBatch
from batchgen.read.formats.parquet import Parquet
from batchgen.read.formats.parts import Parts
from batchgen.records import Shard

FORMATS: dict[str, Format] = {}


def register(made: Format) -> None:
    FORMATS[made.name] = made


for _built_in in (Jsonl(), Parquet(), DatasetFormat(), OpenAIBatch(), Parts()):
    register(_built_in)


@functools.cache
def _load_packages() -> None:
    for entry in entry_points(group="batchgen.formats"):
        register(entry.load())


def all_formats() -> list[Format]:
    _load_packages()
    return list(FORMATS.values())


def format_named(name: str) -> Format:
    """Raises JobError with the nearest name."""
    _load_packages()
    if name not in FORMATS:
        raise JobError(f"input.format: {unknown_key(name, FORMATS, 'format')}", f"there are auto, {', '.join(FORMATS)}")
    return FORMATS[name]


def format_of(spec: Input, shard: Shard | Found) -> Format:
    """The format of a shard. The job's word precedes the plan's: plans call a shard of an OpenAI batch jsonl, too."""
    return format_named(shard.format if spec.format == "auto" else spec.format)


def known_endings() -> tuple[str, ...]:
    return tuple(ending for one in all_formats() for ending in one.endings)


def format_by_ending(name: str) -> str:
    """The name of the format that claims a file's ending, "" where none does."""
    return next((one.name for one in all_formats() if name.endswith(one.endings)), "")
