"""Delta and Iceberg tables: the Parquet files that belong to a table now, each a shard, so that what holds for Parquet holds for
them. Rows that are added later are new shards; a table whose files were rewritten or deleted is refused by name.

The logs are read by deltalake and pyiceberg, which are imported here only. What the files alone do not say (deleted rows, other
names of columns) is refused: https://github.com/delta-io/delta/blob/master/PROTOCOL.md, https://iceberg.apache.org/spec/."""

import glob
import importlib
import os
import re
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar
from urllib.parse import unquote

import pyarrow as pa

from batchgen.errors import InputError, safe_message
from batchgen.output.store import open_store, s3_endpoint
from batchgen.read import location
from batchgen.read.formats import Found
from batchgen.read.formats.parquet import Parquet
from batchgen.read.partitions import of_name

T = TypeVar("T")
_DELTA_FEATURES = {"timestampNtz", "deletionVectors", "columnMapping", "v2Checkpoint", "vacuumProtocolCheck"}
_METADATA = re.compile(r"v?(\d+)(?:-[^/]*)?\.metadata\.json")
_COMPACT = (
    "rewrite its files (Delta: OPTIMIZE, REORG ... APPLY (PURGE); Iceberg: rewrite_data_files), or write the rows as Parquet"
)


class Lake(Parquet):
    """A table with a log in the folder `log` of its own."""

    endings = ()
    takes_folders = True
    log: str

    def claim(self, path: str) -> list[Found] | None:
        return self.find(path) if self.is_table(path) else None

    def is_table(self, path: str) -> bool:
        return bool(names_in(f"{path.rstrip('/')}/{self.log}"))

    def find(self, path: str) -> list[Found]:
        return [Found(location.plain(name), self.name) for name in sorted(self.files(path))]

    @abstractmethod
    def files(self, path: str) -> list[str]:
        """The names of the table's files. Raises InputError."""


def names_in(folder: str) -> list[str]:
    """The names of the files in a folder, local or of a store; none where there is no such folder."""
    if "://" not in folder:
        return os.listdir(folder) if os.path.isdir(folder) else []
    return [] if folder.startswith("hf://") or glob.has_magic(folder) else list(open_store(folder).list(""))


class Delta(Lake):
    name = "delta"
    log = "_delta_log"

    def files(self, path: str) -> list[str]:
        root = path.rstrip("/")
        options = {"allow_http": "true"} if s3_endpoint().startswith("http://") else None
        module = imported("deltalake", path, self.name)
        table = asked(path, lambda: module.DeltaTable(root, storage_options=options))
        protocol, settings = table.protocol(), table.metadata()
        if unknown := set(protocol.reader_features or ()) - _DELTA_FEATURES:
            refuse(path, f"it has the feature {min(unknown)}")
        if settings.configuration.get("delta.columnMapping.mode", "none") != "none":
            refuse(path, "its columns have other names in its files (delta.columnMapping.mode)")
        if "deletionVectors" in (protocol.reader_features or ()) and len(pa.table(table.deletion_vectors())):
            refuse(path, "rows of it are deleted (deletion vectors)")
        names = []
        for file in asked(path, lambda: pa.table(table.get_add_actions(flatten=False))).to_pylist():
            names.append(file["path"] if "://" in file["path"] else f"{root}/{unquote(file['path'])}")
            of_path = of_name(names[-1])
            for column, value in (file.get("partition") or {}).items():
                if column not in of_path or str(value).casefold() != str(of_path[column]).casefold():
                    refuse(path, f"partition {column} = {value} is not in the name of {names[-1]}")
        return names


class Iceberg(Lake):
    """The newest metadata file in the table's folder; `input.path` may name one."""

    name = "iceberg"
    log = "metadata"

    def is_table(self, path: str) -> bool:
        return bool(_METADATA.fullmatch(path.rpartition("/")[2])) or (
            super().is_table(path) and any(map(_METADATA.fullmatch, names_in(f"{path.rstrip('/')}/{self.log}")))
        )

    def files(self, path: str) -> list[str]:
        module = imported("pyiceberg.table", path, self.name)
        options = {"s3.endpoint": endpoint} if (endpoint := s3_endpoint()) else {}
        table = asked(path, lambda: module.StaticTable.from_metadata(self._newest(path), options))
        if table.format_version > 2:
            refuse(path, f"it has format version {table.format_version}")
        fields = {field.name: field.field_id for field in table.schema().fields}
        for schema in table.schemas().values():
            for field in schema.fields:
                if fields.get(field.name) != field.field_id:
                    refuse(path, f"column {field.name} was renamed or dropped, while older files have it")
        names = []
        for task in asked(path, lambda: list(table.scan().plan_files())):
            name = re.sub("^s3[an]://", "s3://", re.sub("^file:(//)?(?=/)", "", task.file.file_path))
            if task.delete_files:
                refuse(path, f"rows of {name} are deleted")
            if str(getattr(task.file.file_format, "value", task.file.file_format)).upper() != "PARQUET":
                refuse(path, f"{name} is no Parquet file")
            names.append(name)
        return names

    def _newest(self, path: str) -> str:
        if _METADATA.fullmatch(path.rpartition("/")[2]):
            return path
        folder = f"{path.rstrip('/')}/{self.log}"
        found = sorted((int(one[1]), one[0]) for one in map(_METADATA.fullmatch, names_in(folder)) if one)
        if not found:
            raise InputError(f"input.path {path}: no Iceberg table: no metadata/*.metadata.json in it")
        if len(found) > 1 and found[-2][0] == found[-1][0]:
            cause = f"input.path {path}: {found[-2][1]} and {found[-1][1]} are both its newest metadata"
            raise InputError(cause, "name the one that the catalog names as input.path")
        return f"{folder}/{found[-1][1]}"


def imported(module: str, path: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        cause = f"input.path {path}: a table of {extra} is read through the package {module.partition('.')[0]}"
        raise InputError(cause, f"pip install 'batchgen[{extra}]'") from None


def asked(path: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except InputError:
        raise
    except Exception as error:  # each library raises its own
        raise InputError(f"input.path {path}: {type(error).__name__}: {safe_message(error)}") from None


def refuse(path: str, cause: str) -> NoReturn:
    raise InputError(f"input.path {path}: {cause}", _COMPACT)


DELTA, ICEBERG = Delta(), Iceberg()
