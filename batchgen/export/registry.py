"""The formats of `batchgen export`, by name."""

from __future__ import annotations

from batchgen.export.files import Export
from batchgen.registry import Registry

EXPORTS: Registry[Export] = Registry(
    "--format", "batchgen.exports", {name: f"batchgen.export.{name}:export" for name in ("jsonl", "openai")}
)
