"""verify: a good output passes, and every kind of damage is named."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import InputError
from batchgen.job.sampling import check_sampling
from batchgen.output import plan_file
from batchgen.output.format import KEY
from batchgen.output.output import Output
from batchgen.output.plan_file import SUCCESS
from batchgen.output.store import LocalStore
from batchgen.records import Span
from tests.support.swept import PART_ROWS, SAMPLES, SHARDS, SPANS, VARIANTS, Swept, edited


@pytest.fixture
def output(tmp_path: Path) -> Swept:
    return Swept(tmp_path)


def test_a_good_output_is_proven(output: Swept) -> None:
    verdict = Output.open(output.store).verify()
    assert verdict.problems == []
    failed = SHARDS * SPANS * VARIANTS * SAMPLES
    assert (verdict.spans, verdict.rows_ok, verdict.rows_error) == (4, SHARDS * SPANS * PART_ROWS - failed, failed)


def test_verify_changes_nothing(output: Swept) -> None:
    before = {path: path.stat().st_mtime_ns for path in output.store.root.rglob("*")}
    assert Output.open(output.store).verify().problems == []
    assert {path: path.stat().st_mtime_ns for path in output.store.root.rglob("*")} == before


def test_there_is_nothing_to_verify_where_there_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no batchgen output there"):
        Output.open(LocalStore(tmp_path))


def test_a_missing_part_is_named(output: Swept) -> None:
    output.path(2).unlink()
    assert output.problems() == [f"{output.name(2)}: missing (3 rows)"]


@pytest.mark.parametrize("name", ["data/notes.txt", "data/deep/part.parquet", "data/000009-000000000000-000000000001.parquet"])
def test_a_foreign_file_among_the_parts_is_named(output: Swept, name: str) -> None:
    output.store.put(name, b"PAR1")
    assert output.problems() == [f"{name}: not a part of this plan"]


def test_a_missing_success_mark_is_named(output: Swept) -> None:
    output.store.delete(SUCCESS)
    assert output.problems() == ["_SUCCESS: missing although every part is there; run the job again to finish it"]


def test_a_flipped_byte_in_the_middle_of_a_part_is_damage(output: Swept) -> None:
    data = bytearray(output.path().read_bytes())
    chunk = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(0).column(2)
    data[chunk.data_page_offset + chunk.total_compressed_size - 1 - chunk.total_compressed_size // 8] ^= 0x10
    output.path().write_bytes(bytes(data))
    [problem] = output.problems()
    assert problem.startswith(f"{output.name()}: damaged: ")


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_part_is_damage(output: Swept, keep: int) -> None:
    output.path().write_bytes(output.path().read_bytes()[:keep])
    [problem] = output.problems()
    assert problem.startswith(f"{output.name()}: damaged: ")


def test_no_flipped_byte_passes_that_changes_a_value(output: Swept) -> None:
    data, table = output.path().read_bytes(), pq.read_table(output.path())
    for place in range(4, len(data), len(data) // 60):
        flipped = bytearray(data)
        flipped[place] ^= 0x04
        output.path().write_bytes(bytes(flipped))
        problems = output.problems()
        assert problems or pq.read_table(output.path()).equals(table), f"byte {place}"


def test_a_duplicate_row_is_named(output: Swept) -> None:
    output.rewrite(lambda table: pa.concat_tables([table.slice(0, 1), table]))
    assert output.problems() == [f"{output.name()}: row, variant, sample (0, 0, 0) is there 2 times"]


@pytest.mark.parametrize(("gone", "key"), [(0, (0, 0, 0)), (1, (0, 0, 1)), (6, (1, 1, 0)), (PART_ROWS - 1, (2, 1, 1))])
def test_a_missing_sample_is_named(output: Swept, gone: int, key: tuple[int, int, int]) -> None:
    output.rewrite(lambda table: pa.concat_tables([table.slice(0, gone), table.slice(gone + 1)]))
    assert output.problems() == [f"{output.name()}: row, variant, sample {key} is missing or was not planned"]


def test_a_missing_variant_is_named(output: Swept) -> None:
    output.rewrite(lambda table: table.slice(SAMPLES))
    assert output.problems() == [f"{output.name()}: row, variant, sample (0, 0, 0) is missing or was not planned"]


def test_a_missing_row_is_named(output: Swept) -> None:
    output.rewrite(lambda table: table.slice(VARIANTS * SAMPLES))
    assert output.problems() == [f"{output.name()}: it has 2 input rows, planned are 3 of 0..2"]


def test_an_empty_part_is_named(output: Swept) -> None:
    output.rewrite(lambda table: table.slice(0, 0))
    assert f"{output.name()}: it has 0 input rows, planned are 3 of 0..2" in output.problems()


def test_rows_of_another_shard_are_named(output: Swept) -> None:
    output.rewrite(edited("shard", lambda shards: ["other.jsonl", *shards[1:]]))
    assert output.problems() == [f"{output.name()}: rows of another shard"]


def swap(output: Swept, one: int, other: int) -> None:
    first, second = output.path(one).read_bytes(), output.path(other).read_bytes()
    output.path(one).write_bytes(second)
    output.path(other).write_bytes(first)


def test_swapped_parts_of_one_shard_are_named(output: Swept) -> None:
    swap(output, 0, 1)
    assert output.problems() == [
        f"{output.name(0)}: it has 3 input rows, planned are 3 of 0..2",
        f"{output.name(1)}: it has 3 input rows, planned are 3 of 3..5",
    ]


def test_swapped_parts_of_two_shards_are_named(output: Swept) -> None:
    swap(output, 0, 2)
    assert output.problems() == [f"{output.name(0)}: rows of another shard", f"{output.name(2)}: rows of another shard"]


def test_rows_out_of_input_order_are_named(output: Swept) -> None:
    output.rewrite(lambda table: table.take(list(reversed(range(table.num_rows)))))
    assert output.problems() == [f"{output.name()}: rows out of input order"]


@pytest.mark.parametrize("status", ["fine", None, "OK"])
def test_a_status_that_is_neither_ok_nor_error_is_named(output: Swept, status: str | None) -> None:
    output.rewrite(edited("status", lambda statuses: [status, *statuses[1:]]))
    assert output.problems() == [f"{output.name()}: a status that is neither ok nor error"]


def test_a_part_with_other_columns_is_named(output: Swept) -> None:
    output.rewrite(lambda table: table.drop_columns(["seconds"]))
    assert output.problems() == [f"{output.name()}: its columns are not this job's: no seconds"]


def test_samples_are_counted_by_the_job_and_not_by_what_a_row_says_of_itself(output: Swept) -> None:
    def more(samplings: list[Any]) -> list[Any]:
        return [dict(check_sampling({"n": 3})) if n < SAMPLES else sampling for n, sampling in enumerate(samplings)]

    output.rewrite(edited("sampling", more))
    assert output.problems() == [f"{output.name()}: row 0 says n = 3, planned are 2"]


def test_every_damage_is_named_at_once(output: Swept) -> None:
    output.path(0).unlink()
    output.path(1).write_bytes(b"")
    output.rewrite(edited("shard", lambda shards: ["x"] * len(shards)), number=3)
    problems = output.problems()
    assert [problem.split(": ")[0] for problem in problems] == [output.name(0), output.name(1), output.name(3)]


def test_overlapping_spans_of_a_plan_are_named(output: Swept) -> None:
    shard, span = output.plan.shards[0], output.plan.spans[0]
    twice = Span(0, span.start, span.end - 1, span.rows - 1)
    output.store.put(plan_file.name_of(1), plan_file.encode_plan([shard], [twice]))
    problems = output.problems()
    assert f"plan: span {twice.name} overlaps the one before it" in problems
    assert f"plan: the spans of {shard.name} do not add up to its 6 rows" in problems


def test_a_variant_that_was_not_planned_is_named(output: Swept) -> None:
    output.rewrite(edited("variant", lambda variants: [7 if variant == 1 else variant for variant in variants]))
    assert output.problems() == [f"{output.name()}: row, variant, sample (0, 1, 0) is missing or was not planned"]


def test_samples_out_of_order_are_named(output: Swept) -> None:
    output.rewrite(lambda table: table.take([1, 0, *range(2, table.num_rows)]))
    assert output.problems() == [f"{output.name()}: rows out of input order"]


def test_a_footer_that_miscounts_is_named(output: Swept) -> None:
    output.rewrite(edited("status", lambda statuses: ["error", *statuses[1:]]), recount=False)
    assert output.problems() == [f"{output.name()}: its footer counts 8 ok and 4 error, its rows are 7 and 5"]


def test_a_damaged_plan_is_a_problem(output: Swept) -> None:
    path = output.store.root / plan_file.name_of(0)
    path.write_bytes(path.read_bytes()[:50])
    assert plan_file.name_of(0) in output.problems()[0]


@pytest.mark.parametrize("footer", [{}, {KEY: b"{"}, {KEY: b"{}"}])
def test_a_part_without_its_footer_entry_is_named(output: Swept, footer: dict[bytes, bytes]) -> None:
    output.rewrite(lambda table: table.replace_schema_metadata(footer), recount=False)
    [problem] = output.problems()
    assert problem.startswith(f"{output.name()}: ")


@pytest.mark.parametrize("column", ["row", "variant", "sample"])
def test_a_null_in_a_rows_key_is_named(output: Swept, column: str) -> None:
    output.rewrite(edited(column, lambda values: [None, *values[1:]]))
    assert output.problems()[0].startswith(f"{output.name()}: ")
