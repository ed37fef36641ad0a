"""Output.tables and rows: in plan order, the last attempt of each row, few rows at a time."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from batchgen.errors import VerifyError
from batchgen.output import output as output_module
from batchgen.output import parts
from tests.support.finished import ROWS, Finished


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Finished:
    """An output in which the retried rows, every fifth one, are ok by now."""
    monkeypatch.setattr(output_module, "TABLE_ROWS", 3)
    output = Finished(tmp_path)
    output.mend()
    assert (output.retry(), output.run()) == (12, 12)
    return output


def test_tables_are_small_and_have_every_row_once_in_plan_order_as_its_last_attempt(output: Finished) -> None:
    tables = list(output.output.tables())
    assert {len(table) for table in tables} <= {1, 2, 3}
    rows = [row for table in tables for row in table.to_pylist()]
    assert [(row["row"], row["sample"]) for row in rows] == [(row, sample) for row in range(ROWS + 1) for sample in range(2)]
    assert [row["attempt"] for row in rows] == [2 if row["row"] % 5 == 0 and row["row"] < ROWS else 1 for row in rows]
    assert rows == list(output.output.rows())
    assert all(isinstance(table, pa.Table) and table.schema == tables[0].schema for table in tables)


def test_the_last_of_several_retries_counts(tmp_path: Path) -> None:
    output = Finished(tmp_path)
    assert (output.retry(), output.run()) == (12, 12)
    output.mend()
    assert (output.retry("engine_rejected"), output.run()) == (12, 12)
    rows = list(output.output.rows())
    assert len(rows) == 2 * (ROWS + 1)
    assert {row["attempt"] for row in rows if row["row"] % 5 == 0 and row["row"] < ROWS} == {3}


@pytest.mark.parametrize("span", [0, -1])
def test_a_damaged_part_is_named(output: Finished, span: int) -> None:
    name = parts.part_name(output.plan.spans[span].name)
    data = output.store.get(name) or b""
    output.store.put(name, data[:4] + b"\xff" * 64 + data[68:])
    with pytest.raises(VerifyError, match=name):
        list(output.output.rows())
