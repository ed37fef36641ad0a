"""The engine kinds, by the name that `engine.kind` gives."""

from __future__ import annotations

from batchgen.engines.base import EngineKind
from batchgen.registry import Registry

ENGINES: Registry[EngineKind] = Registry(
    "engine.kind",
    "batchgen.engines",
    {name: f"batchgen.engines.{name}:KIND" for name in ("vllm", "openai", "echo")},
)
