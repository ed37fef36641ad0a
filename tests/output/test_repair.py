"""repair moves parts whose own bytes are to blame, and no sound one, whatever else is wrong."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchgen.errors import NewerFormat, StoreError
from batchgen.job.sampling import SAMPLING_TYPE
from batchgen.output import job_file, parts, plan_file
from batchgen.output.format import KEY
from batchgen.output.job_file import NAME
from batchgen.output.output import Output
from batchgen.output.plan_file import SUCCESS
from batchgen.output.store import LocalStore
from batchgen.records import columns
from batchgen.records.columns import Column
from tests.support.swept import PART_ROWS, Swept, edited


@pytest.fixture
def output(tmp_path: Path) -> Swept:
    return Swept(tmp_path)


def moved(output: Swept) -> list[str]:
    """The parts that a repair moves away."""
    found = Output.open(output.store)
    before = set(output.store.list(parts.DATA))
    found.repair(found.verify())
    return sorted(before - set(output.store.list(parts.DATA)))


def of_first_format(output: Swept) -> None:
    """Make job file and plan what they were before the format had a number."""
    fields = json.loads(output.store.get(NAME) or b"")
    for name in ("format", "version", "schema", "digest"):
        del fields[name]
    fields["fingerprint"] = job_file.fingerprint(fields["meaning"])
    output.store.put(NAME, json.dumps(fields).encode())
    write_plan(output, job=None)


def write_plan(output: Swept, job: str | None, **changes: Any) -> None:
    plan = replace(output.plan, **changes)
    output.store.put(plan_file.name_of(0), plan_file.encode_plan(plan.shards, plan.spans, job))


def change_job(output: Swept, **changes: Any) -> None:
    """Change the job file as a program that does not know its digest would."""
    fields = json.loads(output.store.get(NAME) or b"")
    output.store.put(NAME, json.dumps(fields | changes).encode())


def test_a_part_whose_rows_contradict_the_plan_is_moved(output: Swept) -> None:
    output.rewrite(lambda table: table.slice(0, PART_ROWS - 1))
    assert moved(output) == [output.name()]
    assert output.store.get(SUCCESS) is None


def test_a_part_that_cannot_be_read_is_moved(output: Swept) -> None:
    output.path(2).write_bytes(output.path(2).read_bytes()[:-9])
    of_first_format(output)
    assert moved(output) == [output.name(2)]


@pytest.mark.parametrize("first", [True, False])
def test_a_release_with_another_sampling_field_and_another_column_proves_older_parts(
    output: Swept, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if first:
        of_first_format(output)
    kind = pa.struct([*SAMPLING_TYPE, ("top_h", pa.float64())])
    after = [replace(column, type=kind) if column.name == "sampling" else column for column in columns.AFTER_INPUT]
    after.append(Column("mood", pa.string(), "completion", later=True))
    monkeypatch.setattr(columns, "AFTER_INPUT", after)
    monkeypatch.setattr(columns, "COLUMNS", (*columns.BEFORE_INPUT, *after))
    assert output.problems() == []
    output.path().write_bytes(b"")
    assert moved(output) == [output.name()]


def test_a_part_of_another_release_with_one_more_column_is_sound(output: Swept) -> None:
    more = pa.array(["because"] * PART_ROWS)
    output.rewrite(lambda table: table.append_column("reasoning", more).replace_schema_metadata(table.schema.metadata))
    assert output.problems() == []


def test_a_footer_that_counts_more_than_this_release_knows_is_sound(output: Swept) -> None:
    def count(table: pa.Table) -> pa.Table:
        about = json.loads(table.schema.metadata[KEY])
        about["counts"]["image_tokens"] = 7
        about["errors"]["unheard_of"] = 0
        return table.replace_schema_metadata({KEY: json.dumps(about)})

    output.rewrite(count, recount=False)
    assert output.problems() == []


def test_a_part_of_a_later_format_stops_the_repair(output: Swept) -> None:
    later = {KEY: json.dumps({"format": 2, "version": "9.9", "rows": {"answered": 12}})}
    output.rewrite(lambda table: table.replace_schema_metadata(later), recount=False)
    output.path(1).write_bytes(b"")
    with pytest.raises(
        NewerFormat, match=rf"{output.name()}: written by batchgen 9\.9 \(format 2\), this is batchgen .*; upgrade"
    ):
        moved(output)
    assert output.path(1).exists()


class Uncertain(LocalStore):
    """A store that answers a wrong thing for some of the reads of a name, in their order; None is the truth."""

    def __init__(self, output: Swept, answers: dict[str, list[Any]]) -> None:
        super().__init__(output.store.root)
        self._answers = answers

    def get(self, name: str) -> bytes | None:
        data = super().get(name)
        answers = self._answers.get(name)
        wrong = answers.pop(0) if answers else None
        return data if wrong is None else wrong(data)


def nothing(_: bytes) -> None:
    return None


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("wrong", [nothing, half])
def test_a_read_that_is_cut_for_a_moment_is_made_once_more(output: Swept, wrong: Any) -> None:
    store = Uncertain(output, {output.name(number): [wrong] for number in range(4)})
    assert Output.open(store).verify().problems == []


def test_a_part_that_is_read_otherwise_when_it_is_moved_stays(output: Swept) -> None:
    found = Output.open(Uncertain(output, {output.name(): [half, half, half]}))
    verdict = found.verify()
    assert verdict.damaged == [output.name()]
    with pytest.raises(StoreError, match="two reads of it differ; nothing was moved"):
        found.repair(verdict)
    assert output.problems() == []


def test_a_part_whose_copy_is_not_what_was_put_stays(output: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    output.path().write_bytes(b"PAR1")
    monkeypatch.setattr(output.store, "put_new", lambda name, data: None)
    with pytest.raises(StoreError, match="not what was put there; the part is where it was"):
        moved(output)
    assert output.path().exists()


@pytest.mark.parametrize("first", [True, False])
def test_other_columns_than_the_job_file_lists_are_a_problem_and_no_damage(output: Swept, first: bool) -> None:
    if first:
        of_first_format(output)
        columns = pa.schema([*output.kept, ("lang", pa.string())])
        change_job(output, carried_schema=base64.b64encode(columns.serialize()).decode())
        wanted = "no lang"
    else:
        output.rewrite(lambda table: table.drop_columns(["seconds"]))
        wanted = "no seconds"
    assert f"{output.name()}: its columns are not this job's: {wanted}" in output.problems()
    assert moved(output) == []


@pytest.mark.parametrize("first", [True, False])
def test_parts_do_not_pay_for_a_job_file_that_was_changed(output: Swept, first: bool) -> None:
    if first:
        of_first_format(output)
    job = json.loads(output.store.get(NAME) or b"")["job"]
    change_job(output, job=job | {"sampling": {"n": 1}})
    output.path(3).write_bytes(b"")
    verdict = Output.open(output.store).verify()
    assert "is missing or was not planned" in "".join(verdict.problems)
    assert verdict.doubt is not None
    assert moved(output) == []


@pytest.mark.parametrize("first", [True, False])
def test_parts_do_not_pay_for_the_job_file_of_another_output(output: Swept, tmp_path: Path, first: bool) -> None:
    (tmp_path / "other").mkdir()
    other = Swept(tmp_path / "other", sweep=[0, 2, 4])
    if first:
        of_first_format(output)
        of_first_format(other)
    output.store.put(NAME, other.store.get(NAME) or b"")
    assert len(output.problems()) == 4
    assert moved(output) == []


@pytest.mark.parametrize("first", [True, False])
def test_parts_do_not_pay_for_a_plan_with_fewer_shards(output: Swept, first: bool) -> None:
    if first:
        of_first_format(output)
    spans = [replace(span, rows=2) for span in output.plan.spans if span.shard == 0]
    shards = tuple(replace(shard, rows=4) for shard in output.plan.shards[:1])
    write_plan(output, None, shards=shards, spans=spans)
    assert f"{output.name(0)}: it has 3 input rows, planned are 2 of 0..2" in output.problems()
    assert moved(output) == []


def test_parts_do_not_pay_for_a_shard_that_is_called_otherwise_in_the_plan(output: Swept) -> None:
    write_plan(output, None, shards=tuple(replace(shard, name=f"{shard.name}x") for shard in output.plan.shards))
    assert f"{output.name()}: rows of another shard" in output.problems()
    assert moved(output) == []


def test_parts_do_not_pay_for_the_plan_of_another_job(output: Swept) -> None:
    output.rewrite(edited("variant", lambda variants: [7 if variant == 1 else variant for variant in variants]))
    write_plan(output, "of another job")
    assert Output.open(output.store).verify().doubt == "the plan is damaged, or of another job than the job file"
    assert moved(output) == []


def test_parts_do_not_pay_for_a_plan_file_that_is_gone(output: Swept) -> None:
    plan_file.add(output.store, 1, [], [])
    output.store.delete(plan_file.name_of(0))
    assert output.problems() == [f"{plan_file.name_of(0)}: missing although {plan_file.name_of(1)} is there"]
    assert moved(output) == []


def test_a_bit_that_flips_in_the_plan_is_found(output: Swept) -> None:
    path = output.store.root / plan_file.name_of(0)
    data = path.read_bytes()
    for place in range(4, len(data), len(data) // 60):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x04]) + data[place + 1 :])
        try:
            assert moved(output) == [], f"byte {place}"
        except NewerFormat:
            continue


def test_a_footer_that_miscounts_leaves_its_part_where_it_is(output: Swept) -> None:
    output.rewrite(edited("status", lambda statuses: ["error", *statuses[1:]]), recount=False)
    assert len(output.problems()) == 1
    assert moved(output) == []
