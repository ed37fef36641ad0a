"""The input formats by name: the values of `input.format`, beside `auto`."""

from __future__ import annotations

from batchgen.job.input import Input
from batchgen.read.formats.base import Format, Found
from batchgen.read.formats.dataset import DatasetFormat
from batchgen.read.formats.jsonl import Jsonl
from batchgen.read.formats.openai_batch import OpenAIBatch
from batchgen.read.formats.parquet import Parquet
from batchgen.read.formats.parts import Parts
from batchgen.read.registry import Registry
from batchgen.records import Shard

_BUILT_IN: tuple[Format, ...] = (Jsonl(), Parquet(), DatasetFormat(), OpenAIBatch(), Parts())
FORMATS: Registry[Format] = Registry("format", {one.name: one for one in _BUILT_IN})


def format_of(spec: Input, shard: Shard | Found) -> Format:
    """The format of a shard. The job's word precedes the plan's: plans may call a shard of an OpenAI batch jsonl."""
    return FORMATS.named(shard.format if spec.format == "auto" else spec.format)


def known_endings() -> tuple[str, ...]:
    return tuple(ending for one in FORMATS.all().values() for ending in one.endings)


def format_by_ending(name: str) -> str:
    """The name of the format that claims a file's ending, "" where none does."""
    return next((one.name for one in FORMATS.all().values() if name.endswith(one.endings)), "")
