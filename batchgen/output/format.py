"""The format of the files under `_batchgen/` and of the parts, and the refusal of a newer one.

job.json, every plan file and every journal file carry the mark of the release that wrote them, and so does the entry `batchgen`
in every part's metadata: `format`, a number, and `version`, batchgen's. Files without a number were written before there was
one and are of format 1. A release reads every format up to its own. The number changes when an older release would
misread an output; fields that are added, with a default that means what their absence meant, do not change it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import orjson

from batchgen import __version__
from batchgen.errors import NewerFormat

FORMAT = 1
KEY = b"batchgen"
"""Of the mark in a Parquet file's metadata."""
T = TypeVar("T")


def mark() -> dict[str, object]:
    """The fields by which a later release knows what it reads."""
    return {"format": FORMAT, "version": __version__}


def refuse_newer(fields: object, name: str) -> None:
    """Raises NewerFormat where the mark among the fields of file `name` is of a later release."""
    found = fields.get("format", 1) if isinstance(fields, Mapping) else 1
    if isinstance(found, int) and found > FORMAT:
        writer = f"batchgen {fields.get('version', 'of a later version')}" if isinstance(fields, Mapping) else ""
        raise NewerFormat(
            f"{name}: written by {writer} (format {found}), this is batchgen {__version__} (format {FORMAT})", "upgrade batchgen"
        )


def marked(metadata: Mapping[bytes, bytes] | None, name: str) -> dict[str, object]:
    """The fields of the mark in the metadata of Parquet file `name`, none where they cannot be read. Raises NewerFormat."""
    try:
        fields = orjson.loads((metadata or {}).get(KEY, b"{}"))
    except ValueError:
        return {}
    refuse_newer(fields, name)
    return fields if isinstance(fields, dict) else {}


def known(record: type[T], fields: Mapping[str, object]) -> T:
    """A dataclass from the fields that this release knows. Raises TypeError where one without a default is missing."""
    names = {field.name for field in dataclasses.fields(record)}  # type: ignore[arg-type]
    return record(**{name: value for name, value in fields.items() if name in names})
