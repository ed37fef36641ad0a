"""Damaged progress, plan, lease, manifest and job files are named: never a traceback, and never another count."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchgen.errors import BatchgenError, OutputConflict, VerifyError
from batchgen.output import job_file, lease, parts, plan_file, progress
from batchgen.output.output import Output
from batchgen.output.plan_file import SUCCESS
from batchgen.output.store import LocalStore
from batchgen.output.trust import manifest
from batchgen.prepare import prepare
from tests.support.finished import Finished

DEEP = b"[" * 100_000 + b"]" * 100_000
BYTES = [
    b"",
    b"\0\xff\xfe",
    b"null",
    b"[]",
    b"7",
    b'"x"',
    b"{",
    b"{}",
    DEEP,
    b'{"a":' * 300 + b"1" + b"}" * 300,
    b"1e999",
    b"\xef\xbb\xbf{}",
]
VALUES: list[Any] = [None, True, -1, 1.5, 2**63, 10**40, 1e300, "x", "\x1b[31m", [], [1], {}, {"x": "y"}, {"ok": -1}, [[[]]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("made"))


@pytest.fixture
def store(made: Finished) -> Any:
    """The store of a finished output, as it was afterwards."""
    store = made.store
    files = {name: store.get(name) for name in store.list("") if not name.startswith("data/")}
    yield store
    for name in set(store.list("_batchgen")) - files.keys():
        store.delete(name)
    for name, data in files.items():
        store.put(name, data or b"")


def looked_at(store: LocalStore) -> list[str]:
    """Every way to look at an output, and what verify finds; errors are of our own kinds."""
    found = []
    try:
        output = Output.open(store)
        found += output.verify().problems
        output.status()
        output.unfinished()
    except BatchgenError as error:
        found.append(str(error))
    return found


@pytest.mark.parametrize("data", BYTES, ids=lambda data: repr(data[:12]))
@pytest.mark.parametrize("name", [job_file.NAME, plan_file.name_of(0), manifest.name_of(0), SUCCESS])
def test_a_damaged_file_is_named(store: LocalStore, name: str, data: bytes) -> None:
    store.put(name, data)
    assert any(name.rpartition("/")[2].partition(".")[0] in problem for problem in looked_at(store))


@pytest.mark.parametrize("name", [job_file.NAME, plan_file.name_of(0), manifest.name_of(0), SUCCESS])
def test_a_file_that_is_cut_anywhere_is_named(store: LocalStore, name: str) -> None:
    data = store.get(name) or b""
    for length in range(1, len(data), len(data) // 17):
        store.put(name, data[:length])
        assert looked_at(store) != [], length


def test_a_job_file_with_any_value_in_any_field_is_named(store: LocalStore) -> None:
    fields = json.loads(store.get(job_file.NAME) or b"")
    for field in fields:
        for value in VALUES:
            if fields[field] != value:
                store.put(job_file.NAME, json.dumps({**fields, field: value}).encode())
                assert looked_at(store) != [], (field, value)


def test_a_run_over_a_job_file_with_any_value_in_any_field_ends_with_an_error_of_ours_or_goes_on(
    made: Finished, store: LocalStore
) -> None:
    fields = json.loads(store.get(job_file.NAME) or b"")
    refused = 0
    for field in ("format", "job", "fingerprint", "meaning", "model", "carried", "carried_schema", "schema", "manifest"):
        for value in VALUES:
            store.put(job_file.NAME, json.dumps({**fields, field: value}).encode())
            try:
                prepare(made.prepared.job, store)
            except BatchgenError:
                refused += 1
    assert refused


@pytest.mark.parametrize("data", BYTES, ids=lambda data: repr(data[:12]))
def test_a_damaged_progress_file_is_named_and_the_parts_are_counted(
    store: LocalStore, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "batchgen")
    store.put(progress.PROGRESS, data)
    status = Output.open(store).status()
    assert (status["state"], status["rows_ok"], status["rows_error"]) == ("done", 48, 14)
    assert (
        data.startswith((b"{}", b'{"a":'))
        or data == b""
        or "progress.json: damaged, its counts are made again from the parts" in caplog.text
    )


def test_a_progress_file_with_any_value_in_any_field_counts_as_the_parts_do(made: Finished, store: LocalStore) -> None:
    fields = json.loads(progress.load_tally(store, made.plan, made.output.parts()).encode())
    paths = [
        *((name,) for name in fields),
        *(("counts", name) for name in fields["counts"]),
        ("driver", "pid"),
        ("errors", "input"),
    ]
    for path in paths:
        for value in VALUES:
            changed = json.loads(json.dumps(fields))
            (changed if len(path) == 1 else changed[path[0]])[path[-1]] = value
            store.put(progress.PROGRESS, json.dumps(changed).encode())
            status = Output.open(store).status()
            json.dumps(status)
            assert "\x1b" not in status["state"]
            assert all(
                isinstance(status[name], int) and status[name] >= 0 for name in ("rows_ok", "rows_error", "spans_generated")
            )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=40)
    | st.recursive(st.none() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_whatever_is_in_the_lease_it_is_taken_when_it_stands_still(store: LocalStore, data: bytes) -> None:
    store.put(lease.NAME, data)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "BEAT_SECONDS", 0.0)
        with lease.hold(store, said.append) as held:
            held.confirm()
    assert store.get(lease.NAME) is None


@pytest.mark.parametrize("pid", [-1, 0, "../../etc", [1], {}, 10**30, 1.5, True])
def test_a_lease_of_no_process_is_watched_or_taken(store: LocalStore, pid: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.0)
    store.put(lease.NAME, json.dumps({"token": 1, "driver": lease.process(1) | {"pid": pid, "started": [2]}}).encode())
    with lease.hold(store, print) as held:
        held.confirm()
    assert store.get(lease.NAME) is None


def replanned(store: LocalStore, column: str, values: Any) -> None:
    """The plan with another column, as a program that knows the format would write it."""
    table = pq.read_table(pa.BufferReader(store.get(plan_file.name_of(0))))
    index = table.column_names.index(column)
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(index, column, pa.array([values] * len(table))), sink, write_page_checksum=True)
    store.put(plan_file.name_of(0), bytes(sink.getvalue()))


@pytest.mark.parametrize("column", ["shard", "start", "end", "rows", "offset", "bytes"])
@pytest.mark.parametrize("value", [None, -1, 1.5, "x", True, [1], 2**62, b"\xff"], ids=repr)
def test_a_plan_with_any_value_in_any_column_is_named(store: LocalStore, column: str, value: object) -> None:
    replanned(store, column, value)
    assert looked_at(store) != []


@pytest.mark.parametrize(
    "shards", [b"", b"{}", b"[]", b"[1]", b"[{}]", b"[" * 9_000, b'[{"index": 7, "stamp": "", "name": 3}]', b"\xff"]
)
def test_a_plan_with_other_shards_is_damaged(store: LocalStore, shards: bytes) -> None:
    table = pq.read_table(pa.BufferReader(store.get(plan_file.name_of(0))))
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"shards": shards}), sink)
    store.put(plan_file.name_of(0), bytes(sink.getvalue()))
    with pytest.raises(VerifyError, match=r"plan.*: damaged: "):
        _ = Output.open(store).plan


def test_no_schema_that_names_an_extension_type_is_interpreted(
    made: Finished, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a process that has imported ray.data would have unpickled it")

    field = pa.field("id", pa.string(), metadata={"ARROW:extension:name": "ray.data.arrow_pickled_object"})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table([pa.array(["a"])], schema=pa.schema([field])), sink)
    span = made.plan.spans[0].name
    part = store.get(parts.part_name(span)) or b""
    try:
        store.put(parts.part_name(span), bytes(sink.getvalue()))
        with monkeypatch.context() as patch:
            patch.setattr(pq, "ParquetFile", never)
            with pytest.raises(VerifyError, match="damaged: it has an Arrow extension type"):
                parts.read_part(store, span)
    finally:
        store.put(parts.part_name(span), part)
    fields = json.loads(store.get(job_file.NAME) or b"")
    schema = pa.schema([field]).serialize().to_pybytes()
    store.put(job_file.NAME, json.dumps(fields | {"schema": base64.b64encode(schema).decode()}).encode())
    monkeypatch.setattr(pa.ipc, "read_schema", never)
    with pytest.raises(OutputConflict, match="it has an Arrow extension type"):
        Output.open(store)
