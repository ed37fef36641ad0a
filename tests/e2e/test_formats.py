"""`batchgen check` and a run over each format, as a person calls them."""

from __future__ import annotations

import bz2
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.support.commands import in_process

ROWS = [{"prompt": 'a "quoted", text\nof two lines', "n": "1"}, {"prompt": "b", "n": "2"}, {"prompt": "ü", "n": ""}]


def as_csv(delimiter: str = ",") -> bytes:
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row.values()] for row in ROWS]
    return "\r\n".join(delimiter.join(row) for row in [["prompt", "n"], *quoted, []]).encode()


def lines() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def saved(path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(path)


def delta(path: Path) -> None:
    pytest.importorskip("deltalake").write_deltalake(str(path), pa.Table.from_pylist(ROWS))


def iceberg(path: Path) -> None:
    catalog = pytest.importorskip("pyiceberg.catalog.sql").SqlCatalog(
        "c", uri=f"sqlite:///{path.parent}/c.db", warehouse=f"file://{path.parent}"
    )
    catalog.create_namespace("ns")
    table = pa.Table.from_pylist(ROWS)
    catalog.create_table("ns.t", table.schema, location=f"file://{path}").append(table)


def hive(path: Path) -> None:
    for row in ROWS:
        (path / f"n={row['n']}").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([{"prompt": row["prompt"]}]), path / f"n={row['n']}/in.parquet")


MADE: dict[str, bytes | Callable[[Path], None]] = {
    "in.csv": b"\xef\xbb\xbf" + as_csv(),
    "in.csv.bz2": bz2.compress(as_csv()),
    "in.tsv": as_csv("\t"),
    "array.json": json.dumps(ROWS, indent=2).encode(),
    "lines.json": lines(),
    "in.json.xz": lzma.compress(json.dumps(ROWS).encode()),
    "in.jsonl.xz": lzma.compress(lines()),
    "in.jsonl.bz2": bz2.compress(lines()),
    "saved": saved,
    "delta": delta,
    "iceberg": iceberg,
    "hive": hive,
}


def write_job(folder: Path, path: str, **fields: Any) -> None:
    given = {"input": {"path": path, "prompt": "prompt", **fields}, "engine": {"kind": "echo"}, "output": {"path": "out"}}
    (folder / "job.yaml").write_text(yaml.safe_dump(given))


@pytest.mark.parametrize("name", MADE)
def test_check_reads_every_format(tmp_path: Path, name: str) -> None:
    made = MADE[name]
    if isinstance(made, bytes):
        (tmp_path / name).write_bytes(made)
    else:
        made(tmp_path / name)
    write_job(tmp_path, name)
    done = in_process(tmp_path, "check", "job.yaml", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["bad"]) == (3, 0)


def test_check_names_the_row_and_column_of_a_bad_cell(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('prompt;n\na;1\n"b"x;2\nc;3;4\nd;x\n')
    write_job(tmp_path, "in.csv")
    done = in_process(tmp_path, "check", "job.yaml")
    assert (done.returncode, "set input.csv.delimiter" in done.stderr) == (2, True)
    write_job(tmp_path, "in.csv", csv={"delimiter": ";"}, types={"n": "integer"})
    done = in_process(tmp_path, "check", "job.yaml", "--json")
    assert json.loads(done.stdout)["first_errors"] == [
        "input: in.csv:3: column prompt: bad quoting",
        "input: in.csv:4: cell 3 has no column: the row has 3 cells, the header 2",
        "input: in.csv:5: column n: 'x' is no integer",
    ]


@pytest.mark.parametrize("name", ["in.csv", "array.json", "in.jsonl.xz"])
def test_objects_of_a_store_are_read(s3: Any, tmp_path: Path, name: str) -> None:
    made = MADE[name]
    assert isinstance(made, bytes)
    s3.client.put_object(Bucket=s3.bucket, Key=f"{tmp_path.name}/n=7/{name}", Body=made)
    write_job(tmp_path, f"{s3.url}/{tmp_path.name}")
    done = in_process(tmp_path, "check", "job.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 3


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_tables_in_a_store_are_read(s3: Any, tmp_path: Path, kind: str) -> None:
    table, url = pa.Table.from_pylist([{**row, "lang": "ja x/y"} for row in ROWS]), f"{s3.url}/{tmp_path.name}/{kind}"
    if kind == "delta":
        options = {"allow_http": "true", "aws_conditional_put": "etag"}
        pytest.importorskip("deltalake").write_deltalake(url, table, partition_by=["lang"], storage_options=options)
    else:
        where = {"uri": f"sqlite:///{tmp_path}/c.db", "warehouse": url, "s3.endpoint": os.environ["AWS_ENDPOINT_URL"]}
        catalog = pytest.importorskip("pyiceberg.catalog.sql").SqlCatalog("c", **where)
        catalog.create_namespace("ns")
        catalog.create_table("ns.t", table.schema, location=url).append(table)
    write_job(tmp_path, url)
    (tmp_path / "job.yaml").write_text((tmp_path / "job.yaml").read_text().replace("prompt: prompt", "prompt: lang"))
    done = in_process(tmp_path, "check", "job.yaml", "--prompts", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert "ja x/y" in done.stdout
