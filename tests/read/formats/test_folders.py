"""Folders named key=value are columns of the rows below them; saved datasets and tables are known by what they hold."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import InputError, JobError, OutputConflict
from batchgen.output.output import Output
from batchgen.read import reader
from batchgen.read.discover import discover
from batchgen.read.formats import lake
from tests.support.finished import Finished
from tests.support.planning import make_job
from tests.support.reading import planned, read_all

FIELDS: dict[str, Any] = {"sampling": {"n": 1}, "engine": {"kind": "echo"}}
PARTS = {"lang=ja/year=2024": "a", "lang=%C3%A9%2F/year=2025": "b", "lang=__HIVE_DEFAULT_PARTITION__/year=2026": "c"}


def write(folder: Path, ending: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"in.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending == "csv":
        path.write_text("\n".join(",".join(map(str, row)) for row in [list(rows[0]), *(row.values() for row in rows)]) + "\n")
    else:
        path.write_text(json.dumps(rows) if ending == "json" else "".join(json.dumps(row) + "\n" for row in rows))


def done(tmp_path: Path, **input: Any) -> list[dict[str, Any]]:
    fields = {"path": str(tmp_path / "in"), "template": "{{ prompt }} {{ lang }} {{ year }}", **input}
    found = Finished(tmp_path, input=fields, **FIELDS)
    assert found.output.verify().problems == []
    return found.rows()


@pytest.mark.parametrize("ending", ["jsonl", "csv", "json", "parquet"])
def test_folders_are_columns_for_prompts_and_output(tmp_path: Path, ending: str) -> None:
    for name, word in PARTS.items():
        write(tmp_path / "in" / name, ending, [{"prompt": word, "n": 1}])
    rows = done(tmp_path, template="{{ prompt }} {{ lang | default('none', true) }} {{ year + 1 }}", types={"year": "integer"})
    assert {(row["lang"], row["year"], row["messages"][0]["content"]) for row in rows} == {
        ("ja", 2024, "a ja 2025"),
        ("é/", 2025, "b é/ 2026"),
        (None, 2026, "c none 2027"),
    }


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_column_of_the_file_itself_wins(tmp_path: Path, ending: str) -> None:
    write(tmp_path / "in/lang=ja/year=1", ending, [{"prompt": "a", "lang": "own"}])
    [row] = done(tmp_path)
    assert (row["lang"], row["year"], row["messages"][0]["content"]) == ("own", "1", "a own 1")


def test_folders_are_read_for_prompts_that_are_not_carried(tmp_path: Path) -> None:
    write(tmp_path / "in/lang=ja/year=1", "parquet", [{"prompt": "a"}])
    [row] = done(tmp_path, keep=["prompt"])
    assert (row["messages"][0]["content"], "lang" in row) == ("a ja 1", False)


def test_bad_folders_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "in/n=x", "jsonl", [{"prompt": "a"}])
    with pytest.raises(InputError, match=r"n=x/in\.jsonl: column n: 'x' is no integer; see input\.types\.n"):
        planned(tmp_path / "in", input={"types": {"n": "integer"}})
    with pytest.raises(InputError, match="the name of a folder is no json"):
        planned(tmp_path / "in", input={"types": {"n": "json"}})
    write(tmp_path / "in/n=x/n=y", "jsonl", [{"prompt": "a"}])
    with pytest.raises(InputError, match="n= is there twice"):
        planned(tmp_path / "in")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_an_output_that_does_not_know_the_folders_goes_on_without_them(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of an earlier release."""
    write(tmp_path / "in/lang=ja", ending, [{"prompt": "a"}])
    with monkeypatch.context() as patch:
        patch.setattr("batchgen.read.partitions.of_name", lambda name: {})
        kept = planned(tmp_path / "in")[1].kept
    assert "lang" not in kept.names
    job, columns, [shard], spans = planned(tmp_path / "in")
    assert "lang" in columns.kept.names
    columns.refuse_unfit(job.input, kept)
    [(_, rows, carried)] = reader.read_spans(job, shard, spans, kept, set())
    assert [row.data for row in rows] == [{"prompt": "a"}]
    assert [{name: value for name, value in row.items() if value is not None} for row in carried.to_pylist()] == [{"prompt": "a"}]


def test_a_saved_dataset_is_known_by_its_files(tmp_path: Path) -> None:
    one = datasets.Dataset.from_list([{"prompt": "a"}])
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"test": one}).save_to_disk(tmp_path / "two")
    assert [row.data for row in read_all(tmp_path / "one")[0]] == [{"prompt": "a"}]
    assert [row.data for row in read_all(tmp_path / "two", input={"split": "test"})[0]] == [{"prompt": "a"}]
    with pytest.raises(InputError, match="its splits are test"):
        planned(tmp_path / "two")


def delta(path: Path, rows: list[dict[str, Any]], **options: Any) -> Any:
    module = pytest.importorskip("deltalake")
    module.write_deltalake(str(path), pa.Table.from_pylist(rows), mode="append", **options)
    return module.DeltaTable(str(path))


def test_a_delta_table_is_the_files_that_belong_to_it(tmp_path: Path) -> None:
    path = tmp_path / "in"
    table = delta(path, [{"prompt": "gone", "n": 0}])
    table.delete()
    delta(path, [{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}])
    first = Finished(tmp_path, input={"path": str(path), "prompt": "prompt"}, **FIELDS)
    assert [row["prompt"] for row in first.rows()] == ["a", "b"]
    delta(path, [{"prompt": "c", "n": 3}])
    assert first.run() == 1
    assert sorted(row["prompt"] for row in first.rows()) == ["a", "b", "c"]
    assert Output.open(first.store).verify().problems == []
    table.update_incremental()
    table.optimize.compact()
    with pytest.raises(OutputConflict, match="is not in the input any more"):
        first.run()


def test_partitions_of_a_delta_table_are_columns(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "lang": "ja x/y", "n": 1}, {"prompt": "b", "lang": None, "n": 2}]
    delta(tmp_path / "in", rows, partition_by=["lang", "n"])
    found = done(tmp_path, template="{{ prompt }}", types={"n": "integer"})
    assert sorted((row["prompt"], row["lang"], row["n"]) for row in found) == [("a", "ja x/y", 1), ("b", None, 2)]


@pytest.mark.parametrize("mode", ["name", "id"])
def test_a_delta_table_whose_files_do_not_say_all_is_refused(tmp_path: Path, mode: str) -> None:
    delta(tmp_path / "in", [{"prompt": "a"}])
    log = tmp_path / "in/_delta_log/00000000000000000000.json"
    log.write_text(
        log.read_text()
        .replace('"configuration":{}', json.dumps({"configuration": {"delta.columnMapping.mode": mode}})[1:-1])
        .replace('"minReaderVersion":1,"minWriterVersion":2', '"minReaderVersion":2,"minWriterVersion":5')
    )
    with pytest.raises(InputError, match=r"in: (its columns have other names|.*[Cc]olumn ?[Mm]apping)"):
        planned(tmp_path / "in")


def iceberg(folder: Path, rows: list[dict[str, Any]]) -> tuple[Any, Path]:
    pytest.importorskip("pyiceberg")
    catalogs = pytest.importorskip("pyiceberg.catalog.sql")
    catalog = catalogs.SqlCatalog("c", uri=f"sqlite:///{folder}/c.db", warehouse=f"file://{folder}/w")
    catalog.create_namespace("ns")
    table = pa.Table.from_pylist(rows)
    made = catalog.create_table("ns.t", table.schema)
    made.append(table)
    return made, folder / "w/ns/t"


def test_an_iceberg_table_is_the_files_of_its_newest_snapshot(tmp_path: Path) -> None:
    table, path = iceberg(tmp_path, [{"prompt": "a", "n": 1}])
    first = Finished(tmp_path, input={"path": str(path), "prompt": "prompt"}, **FIELDS)
    table.append(pa.Table.from_pylist([{"prompt": "b", "n": 2}]))
    assert first.run() == 1
    assert [row["prompt"] for row in first.rows()] == ["a", "b"]
    old = sorted((path / "metadata").glob("00001-*.metadata.json"))[0]
    assert len(discover(make_job(old).input)) == 1
    assert {one.format for one in discover(make_job(path).input)} == {"iceberg"}
    table.overwrite(pa.Table.from_pylist([{"prompt": "c", "n": 3}]))
    with pytest.raises(OutputConflict, match="is not in the input any more"):
        first.run()


def test_an_iceberg_table_whose_files_do_not_say_all_is_refused(tmp_path: Path) -> None:
    table, path = iceberg(tmp_path, [{"prompt": "a", "n": 1}])
    with table.update_schema() as update:
        update.rename_column("n", "m")
    with pytest.raises(InputError, match="column n was renamed or dropped"):
        planned(path)
    newest = sorted((path / "metadata").glob("*.metadata.json"))[-1]
    shutil.copy(newest, path / "metadata" / f"{newest.name[:5]}-twin.metadata.json")
    with pytest.raises(InputError, match="are both its newest metadata; name the one"):
        planned(path)


@pytest.mark.parametrize(("log", "extra"), [("_delta_log/0.json", "delta"), ("metadata/v1.metadata.json", "iceberg")])
def test_a_package_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, extra: str) -> None:
    for name in ("deltalake", "pyiceberg", "pyiceberg.table"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / log).parent.mkdir()
    (tmp_path / log).touch()
    with pytest.raises(InputError, match=rf"a table of {extra} is read through .*; pip install 'batchgen\[{extra}\]'"):
        discover(make_job(tmp_path).input)


def test_no_such_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Iceberg table"):
        discover(make_job(tmp_path, input={"format": "iceberg"}).input)
    with pytest.raises((InputError, JobError)):
        discover(make_job(tmp_path, input={"format": "delta"}).input)
    assert lake.names_in(str(tmp_path / "none")) == []
