"""A SQL expression over the columns of a row, by DuckDB, which may open no file, no network and no extension."""

import functools
import importlib
import threading
from typing import Any

import pyarrow as pa

from batchgen.errors import safe_message

MEMORY_BYTES = 2**29
SECONDS_CAP = 60.0  # of looking at an expression
_CONFIG = {
    "threads": "1",
    "memory_limit": f"{MEMORY_BYTES}B",
    "temp_directory": "",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
_SETTINGS = (
    "TimeZone = 'UTC'",
    "python_enable_replacements = false",
    "enable_external_access = false",
    "lock_configuration = true",
)
DuckDB = Any  # what is imported late
_ROW = '"\0row"'


class SqlRule:
    """`expression` is over a table of one row. Methods raise ImportError without DuckDB, and may be called by several threads."""

    def __init__(self, expression: str) -> None:
        self._query = f"SELECT (\n{expression}\n) FROM {_ROW}"
        self._lock = threading.Lock()

    @functools.cached_property
    def _duckdb(self) -> DuckDB:
        return importlib.import_module("duckdb")

    @functools.cached_property
    def _database(self) -> DuckDB:
        database = self._duckdb.connect(config=_CONFIG)
        for setting in _SETTINGS:
            database.execute(f"SET {setting}")
        return database

    def refuse_unfit(self, schema: pa.Schema) -> None:
        """Raises ValueError for an expression that is wrong or is no boolean, over these columns."""
        try:
            statements = self._database.extract_statements(self._query)
            if [str(one.type).rpartition(".")[2] for one in statements] != ["SELECT"]:
                raise ValueError("it is not one expression")
            kinds = [str(row[1]) for row in self._answer(schema.empty_table(), SECONDS_CAP, "DESCRIBE ")[1]]
        except (self._duckdb.Error, pa.ArrowException, UnicodeError) as error:
            raise ValueError(_first(error)) from None
        if kinds != ["BOOLEAN"]:
            raise ValueError(f"it is a {kinds[0]}, not a BOOLEAN" if len(kinds) == 1 else "it is not one expression")

    def holds(self, row: pa.Table, seconds: float) -> bool | None:
        """Of a table of one row; None where SQL does not know. Raises ValueError with DuckDB's words, TimeoutError."""
        try:
            kind, values = self._answer(row, seconds)
        except self._duckdb.InterruptException:
            raise TimeoutError from None
        except (self._duckdb.Error, pa.ArrowException, UnicodeError) as error:
            raise ValueError(_first(error)) from None
        if kind != "BOOLEAN" or len(values) != 1:
            raise ValueError(f"it is a {kind}, not a BOOLEAN" if kind != "BOOLEAN" else "it has not one value a row")
        found: bool | None = values[0][0]
        return found

    def _answer(self, row: pa.Table, seconds: float, verb: str = "") -> tuple[str, list[DuckDB]]:
        with self._lock:  # two threads might make the database twice
            cursor = self._database.cursor()
        with cursor:
            watch = threading.Timer(seconds, cursor.interrupt)
            watch.daemon = True
            cursor.register(_ROW.strip('"'), row)
            watch.start()
            try:
                found = cursor.execute(verb + self._query)
                return str(found.description[0][1]), found.fetchall()
            finally:
                watch.cancel()
                watch.join()  # else it might interrupt a cursor that is closed


def _first(error: Exception) -> str:
    return safe_message(ValueError(str(error).partition("\n\nLINE ")[0]))
