"""Parquet at the edges of Arrow, made by hypothesis: a job is refused with its own error, or every row is there once, in error
where its prompt or a cell is no value, else with every column as pyarrow's own reader has it. BATCHGEN_HOSTILE says how many
inputs there are; `make chaos` takes 100,000."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, event, given, reject, settings
from hypothesis import strategies as st
from pyarrow import types

from batchgen.errors import InputError, JobError
from batchgen.job.job import Job
from batchgen.output.output import Output
from batchgen.output.store import LocalStore
from batchgen.prepare import prepare
from batchgen.read.schemas import holds
from tests.faults.arrow_values import arrays, as_json, kinds_of_depth, same, stored
from tests.support.finished import run_here

INPUTS = int(os.environ.get("BATCHGEN_HOSTILE", "60"))
NAMES = [
    "v",
    "w",
    "V",
    "id",
    "shard",
    "row",
    "status",
    "Response",
    "input_extra",
    "input_status",
    "INPUT_v",
    "attributes",
    "model",
]
NAMES += ["a.b", "a b", "", " ", "nul\0", "\0ordinal", "\0", "\U0001f600", "e\u0301", "\u2028", "x" * 300]
PROMPTS = [pa.string()] * 8 + [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
PROMPTS += [pa.binary(), pa.int64(), pa.null(), pa.list_(pa.string())]
MOST_BYTES = 3 * 2**19
options = st.fixed_dictionaries(
    {
        "compression": st.sampled_from(["none", "snappy", "zstd", "gzip"]),
        "data_page_version": st.sampled_from(["1.0", "2.0"]),
        "version": st.sampled_from(["2.6", "2.6", "2.4", "1.0"]),
        "use_dictionary": st.booleans(),
        "write_page_checksum": st.booleans(),
        "write_statistics": st.booleans(),
        "write_page_index": st.booleans(),
        "store_schema": st.sampled_from([True, True, False]),
        "use_compliant_nested_type": st.booleans(),
        "data_page_size": st.sampled_from([None, 1, 64]),
        "dictionary_pagesize_limit": st.sampled_from([None, 1]),
        "use_deprecated_int96_timestamps": st.sampled_from([False, False, True]),
    }
)


@dataclass(frozen=True)
class Shard:
    """A table, how it is written, and the ends of its row groups."""

    table: pa.Table
    options: dict[str, Any]
    groups: list[int]

    def write(self, path: Path) -> None:
        given = {name: value for name, value in self.options.items() if value is not None}
        with pq.ParquetWriter(path, self.table.schema, **given) as writer:
            for start, end in zip([0, *self.groups], [*self.groups, len(self.table)], strict=True):
                writer.write_table(self.table.slice(start, end - start), row_group_size=max(1, end - start))

    def read(self) -> pa.Table:
        """As pyarrow reads it; texts of a dictionary that are no UTF-8 it reads only without the dictionary."""
        columns = [self._plain(column) for column in self.table.columns]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "in.parquet"
            Shard(pa.table(columns, self.table.column_names), self.options, self.groups).write(path)
            return pq.ParquetFile(path, coerce_int96_timestamp_unit="us").read()

    def too_fine(self, row: int) -> list[str]:
        """What may be said of a row whose INT96 have digits below a microsecond."""
        if not self.options["use_deprecated_int96_timestamps"]:
            return []
        columns = zip(self.table.column_names, map(self._plain, self.table.columns), strict=True)
        fine = (
            (name, column[row].value) for name, column in columns if types.is_timestamp(column.type) and column.type.unit == "ns"
        )
        return [f"column {name}: INT96 with nanoseconds" for name, value in fine if value is not None and value % 1000]

    @staticmethod
    def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
        if not types.is_dictionary(column.type):
            return column
        return pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], column.type.value_type)


@st.composite
def prompts(draw: Any, size: int) -> pa.Array:
    """Texts that are prompts, now and then what is none."""
    if not draw(st.integers(0, 5)):
        return draw(arrays(draw(st.sampled_from(PROMPTS)), size))
    odd = st.sampled_from(["", "\0", "\U0001f600", "\u2028", "x" * (MOST_BYTES + 1)])
    often = st.one_of(*[st.text(min_size=1, max_size=5)] * 8, odd, st.none())
    return pa.array(draw(st.lists(often, min_size=size, max_size=size)), pa.string())


@st.composite
def inputs(draw: Any) -> list[Shard]:
    """Shards with columns of their own: most in all of them, some in a few or of another type in one."""
    names = draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True))
    kinds = {name: draw(kinds_of_depth(draw(st.integers(0, 4)))) for name in names}
    shards = []
    for _ in range(draw(st.integers(1, 4))):
        size = draw(st.integers(0, 5))
        columns = {"prompt": draw(prompts(size))}
        for name, kind in kinds.items():
            if (luck := draw(st.integers(0, 9))) > 0:
                columns[name] = draw(arrays(draw(kinds_of_depth(2)) if luck == 1 else kind, size))
        groups = sorted(draw(st.lists(st.integers(0, size), max_size=3)))
        shards.append(
            Shard(pa.table({name: columns[name] for name in draw(st.permutations(list(columns)))}), draw(options), groups)
        )
    return shards


def run(folder: Path, rows: int) -> tuple[list[pa.Table], pa.Schema]:
    """The parts of an output of the shards in a folder, and their schema."""
    fields: dict[str, Any] = {"input": {"path": str(folder / "in"), "prompt": "prompt", "max_row_bytes": MOST_BYTES}}
    fields |= {"engine": {"kind": "echo"}, "spans": {"rows": rows}, "output": {"path": str(folder / "out")}}
    run_here(prepare(Job.parse(fields)), LocalStore(folder / "out"))
    output = Output.open(str(folder / "out"))
    assert output.verify().problems == []
    paths = sorted((folder / "out/data").iterdir()) if (folder / "out/data").exists() else []
    return [pq.ParquetFile(path).read() for path in paths], pq.read_schema(paths[0]) if paths else pa.schema([])


@contextlib.contextmanager
def nothing_said() -> Any:
    """No traceback is printed or logged meanwhile."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger("batchgen").addHandler(handler)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
    finally:
        logging.getLogger("batchgen").removeHandler(handler)
    assert "Traceback" not in said.getvalue(), said.getvalue()


def faults(shard: pa.Table, row: int) -> list[str]:
    """What an error of this row may say; nothing where it is ok. A cell is no value where Arrow says so."""
    found = []
    for name, column in zip(shard.column_names, shard.columns, strict=True):
        cell = pa.concat_arrays([column.slice(row, 1).combine_chunks(), column.chunk(0).slice(0, 0)])
        try:
            cell.validate(full=True)
        except pa.ArrowInvalid as error:
            is_text = "UTF8" in str(error)
            if not is_text or not holds(cell.type, types.is_dictionary) or is_broken(stored(column[row])):
                found.append(f"column {name}: {'invalid UTF-8' if is_text else ''}")  # a dictionary may have what no cell uses
    if sum(length(stored(column[row])) for column in shard.columns) > MOST_BYTES:
        found.append("the row is over input.max_row_bytes")
    prompt = stored(shard.column("prompt")[row])
    return found or ([] if isinstance(prompt, str) else ["prompt is null" if prompt is None else "prompt must be a string"])


def is_broken(value: Any) -> bool:
    """Whether a text in what `stored` gave was no UTF-8."""
    if isinstance(value, dict | list):
        return any(map(is_broken, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value)


def length(value: Any) -> int:
    """The bytes of the texts of a value."""
    if isinstance(value, dict | list):
        return sum(map(length, value.values() if isinstance(value, dict) else value))
    value = value.encode(errors="surrogateescape") if isinstance(value, str) else value
    return len(value) if isinstance(value, bytes) else 0


def check_row(
    shard: str, expected: pa.Table, row: int, found: dict[str, pa.Scalar], names: dict[str, str], too_fine: list[str]
) -> None:
    """`too_fine`: what may be said of the digits that are not read."""
    said = found["error_detail"].as_py()
    if causes := too_fine + faults(expected, row):
        assert (found["status"].as_py(), found["error_code"].as_py()) == ("error", "input"), causes
        assert said.startswith(tuple(f"{shard}:{row + 1}: {cause}" for cause in causes)), (said, causes)
        return
    assert found["status"].as_py() == "ok", said
    extra = (
        json.loads(found["input_extra"].as_py() or "{}") if "input_extra" in found and "input_extra" not in names.values() else {}
    )
    for name, column in zip(expected.column_names, expected.columns, strict=True):
        value = stored(column[row])
        if name in extra:
            assert same(extra[name], as_json(value)), (name, column.type, extra[name], value)
        else:
            carried = stored(found[names[name]])
            assert same(carried, value), (name, column.type, found[names[name]].type, carried, value)


@pytest.mark.timeout(12 * 3600)
@settings(
    max_examples=INPUTS, derandomize="BATCHGEN_HOSTILE" not in os.environ, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(inputs(), st.integers(1, 4))
def test_every_row_is_there_once_with_the_values_of_its_columns_or_its_own_error(shards: list[Shard], rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder, nothing_said():
        (Path(folder) / "in").mkdir()
        paths = [Path(folder) / f"in/{number}.parquet" for number in range(len(shards))]
        try:
            for shard, path in zip(shards, paths, strict=True):
                shard.write(path)
            tables = [shard.read() for shard in shards]
        except (pa.ArrowException, OSError) as error:
            event(f"not written: {str(error)[:60]}")
            reject()
        if [len(table) for table in tables] != [len(shard.table) for shard in shards]:
            event("pyarrow reads fewer rows than it wrote")  # of empty lists in pages of one byte
            reject()
        try:
            parts, schema = run(Path(folder), rows)
        except (InputError, JobError) as error:
            event(f"refused: {str(error).replace(folder, '')[:80]}")
            refused = str(error)
        else:
            refused = ""
    if refused:
        assert "shard " in refused or "column " in refused or not sum(map(len, tables)), refused
        return
    notes = {field.name: field.metadata or {} for field in schema}
    names = {found[b"column"].decode(): name for name, found in notes.items() if b"column" in found}
    found = {
        (part["shard"][index].as_py(), part["row"][index].as_py()): {name: part[name][index] for name in part.column_names}
        for part in parts
        for index in range(len(part))
    }
    assert sum(map(len, parts)) == len(found)
    assert sorted(found) == [(str(path), row) for path, table in zip(paths, tables, strict=True) for row in range(len(table))]
    event("a whole output")
    for path, table, shard in zip(paths, tables, shards, strict=True):
        for row in range(len(table)):
            check_row(str(path), table, row, found[str(path), row], names, shard.too_fine(row))
