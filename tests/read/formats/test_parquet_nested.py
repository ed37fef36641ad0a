"""Nested texts of a Parquet file are read with their dictionaries, and every value is that of pyarrow's own reader."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.read import reader
from batchgen.read.formats import parquet
from batchgen.read.formats.tables import cells
from tests.support.reading import planned, read_all


def nested(rows: int) -> pa.Table:
    dice = random.Random(1)

    def text() -> str | None:
        return dice.choice([None, "", "same", dice.randbytes(40).hex()])

    return pa.table(
        {
            "prompt": [f"row {n}" for n in range(rows)],
            "list": [[text() for _ in range(dice.randrange(4))] if n % 7 else None for n in range(rows)],
            "lists": [[[text()], None, [text(), text()]] for _ in range(rows)],
            "structs": [[{"role": text(), "n": 1}, None] for _ in range(rows)],
            "map": pa.array([[("k", text())] for _ in range(rows)], pa.map_(pa.string(), pa.string())),
            "pair": pa.array([[text(), "b"] if n % 5 else None for n in range(rows)], pa.list_(pa.string(), 2)),
            "struct": [{"inner": [text()]} if n % 3 else None for n in range(rows)],
        }
    )


@pytest.mark.parametrize("batch_bytes", [2**26, 3000], ids=["small", "over"])
@pytest.mark.parametrize("group", [1, 70, 1000])
def test_nested_values_are_those_of_the_file(tmp_path: Path, monkeypatch: Any, group: int, batch_bytes: int) -> None:
    table = nested(60 if group == 1 else 300)
    options: dict[str, Any] = {"row_group_size": group, "dictionary_pagesize_limit": 2000, "store_schema": False}
    pq.write_table(table, tmp_path / "in.parquet", **options)
    monkeypatch.setattr(parquet, "BATCH_BYTES", batch_bytes)
    job, columns, [shard], spans = planned(tmp_path / "in.parquet", spans={"rows": 13})
    parts = list(reader.read_spans(job, shard, spans, columns.kept, set(table.column_names)))
    expected = pq.read_table(tmp_path / "in.parquet").to_pylist()
    assert [row.data for _, rows, _ in parts for row in rows] == expected
    assert pa.concat_tables([kept for _, _, kept in parts]).select(table.column_names).to_pylist() == expected


def test_the_bytes_of_a_span_are_counted_over_its_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"prompt": ["x" * 100] * 20, "v": [["y" * 50, "z"]] * 20})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=3)
    monkeypatch.setattr(cells, "SPAN_BYTES", 10 * (100 + 51 + 2 * cells.ITEM_BYTES))
    rows, kept = read_all(tmp_path / "in.parquet", spans={"rows": 20})
    assert [row.error is None for row in rows] == [True] * 10 + [False] * 10
    assert kept["v"].to_pylist() == [["y" * 50, "z"]] * 10 + [None] * 10
    assert str(rows[10].error).count("in.parquet:11: the rows of its span before it hold") == 1
