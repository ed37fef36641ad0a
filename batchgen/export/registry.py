"""The formats of `batchgen export`, by name.

A package adds one by an entry point of the group `batchgen.exports`: the format's name, and a function of type files.Export.
Nothing is imported before a format is asked for.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from batchgen.errors import InputError

if TYPE_CHECKING:
    from batchgen.export.files import Export

GROUP = "batchgen.exports"
BUILT_IN = {
    "jsonl": "batchgen.export.jsonl:export",
    "openai": "batchgen.export.openai:export",
}


def exports() -> dict[str, EntryPoint]:
    """The known formats, the built-in ones first; a package cannot replace those."""
    added = {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}
    built_in = {name: EntryPoint(name, place, GROUP) for name, place in BUILT_IN.items()}
    return built_in | {name: entry for name, entry in added.items() if name not in built_in}


def export_named(name: str) -> Export:
    """The format of this name. Raises InputError."""
    known = exports()
    if name not in known:
        raise InputError(f"--format {name}: expected one of {', '.join(known)}")
    found: Export = known[name].load()
    return found
