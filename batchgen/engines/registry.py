"""Engine kinds by name: those built in, and those of installed packages.

A package adds a kind by an entry point of the group `batchgen.engines`. The entry point has the name that `engine.kind` gives;
its object is an EngineKind (base.py). The built-in names stay batchgen's own.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from batchgen.engines.base import EngineKind
from batchgen.errors import JobError, words
from batchgen.job.fields import did_you_mean

GROUP = "batchgen.engines"
BUILT_IN = {
    "vllm": EntryPoint("vllm", "batchgen.engines.vllm:KIND", GROUP),
    "openai": EntryPoint("openai", "batchgen.engines.openai:KIND", GROUP),
    "echo": EntryPoint("echo", "batchgen.engines.echo:KIND", GROUP),
}


def engine_kind(name: str) -> EngineKind:
    """The engine kind of this name; its module is imported now. Raises JobError for a name that no package has, and for a module
    that cannot be imported."""
    found = BUILT_IN if name in BUILT_IN else {**{entry.name: entry for entry in entry_points(group=GROUP)}, **BUILT_IN}
    if name not in found:
        raise JobError(f"engine.kind {name}: no such engine{did_you_mean(name, found)}", f"there are {', '.join(sorted(found))}")
    try:
        kind: EngineKind = found[name].load()
    except Exception as error:  # whatever the module of another package raises
        raise JobError(
            f"engine.kind {name}: {found[name].value} cannot be imported: {type(error).__name__}: {words(error)}"
        ) from None
    return kind
