"""Folders named `key=value` in a shard's name (Hive's partitions): columns of all its rows, unless it has a column of that name
itself. Spark and Delta escape characters in these names as in addresses, and write NULL for null."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import unquote

import pyarrow as pa

from batchgen.errors import BadRow, InputError
from batchgen.job.input import Input
from batchgen.read.typed import TYPES, typed

NULL = "__HIVE_DEFAULT_PARTITION__"
Folders = Mapping[str, object]  # values by column


def of_name(name: str) -> Folders:
    """The columns of a shard's name, as text. Raises InputError for a column that is there twice."""
    return _of_folder(name.partition("://")[2].rpartition("/")[0] if "://" in name else name.rpartition("/")[0])


@functools.lru_cache(maxsize=1024)
def _of_folder(folder: str) -> Mapping[str, str | None]:
    found: dict[str, str | None] = {}
    for part in folder.split("/"):
        key, equals, value = part.partition("=")
        if key and equals:
            if (key := unquote(key)) in found:
                raise InputError(f"folder {folder}: {key}= is there twice", "give each folder a key of its own")
            found[key] = None if value == NULL else unquote(value)
    return MappingProxyType(found)


def folders_of(spec: Input, name: str) -> Folders:
    """The columns of a shard's name, with the job's types. Raises InputError for a value that has not its type."""
    found: dict[str, object] = {}
    for column, text in of_name(name).items():
        kind = spec.types.get(column, "string")
        try:
            if kind == "json":
                raise BadRow("input", f"column {column}: the name of a folder is no json")
            found[column] = text if text is None else typed(column, str(text), kind)
        except BadRow as bad:
            raise InputError(f"shard {name}: {bad}", f"see input.types.{column}") from None
    return found


def type_of(spec: Input, column: str) -> pa.DataType:
    return TYPES.get(spec.types.get(column, "string"), pa.string())


def added(table: pa.Table, folders: Folders, spec: Input) -> pa.Table:
    """A table with the columns that it lacks."""
    for name, value in folders.items():
        if name not in table.column_names:
            kind = type_of(spec, name)
            table = table.append_column(name, pa.repeat(pa.scalar(value, kind), len(table)))
    return table
