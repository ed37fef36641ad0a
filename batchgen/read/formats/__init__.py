"""The input formats by name: the values of `input.format`, beside `auto`."""

from __future__ import annotations

from batchgen.job.input import Input
from batchgen.read.formats.base import Format, Found
from batchgen.records import Shard
from batchgen.registry import Registry

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
