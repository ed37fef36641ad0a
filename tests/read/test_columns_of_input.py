"""The columns of an input: those that the job names are there, and no two are carried under one name."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import BAD_JOB, JobError
from batchgen.read.columns import conform, look
from batchgen.read.discover import discover
from tests.support.planning import make, make_job


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"input": {"prompt": "wrong"}}, "input.prompt"),
        ({"input": {"id": "wrong"}}, "input.id"),
        ({"input": {"system": {"column": "wrong"}}}, "input.system"),
        ({"input": {"keep": ["prompt", "wrong"]}}, "input.keep[1]"),
        ({"sampling": {"temperature": {"column": "wrong"}}}, "sampling.temperature"),
        ({"attributes": {"schema": "karakuri", "columns": {"humor": "wrong"}}}, "attributes.columns.humor"),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path, sections, field, ending):
    path = tmp_path / f"in.{ending}"
    if ending == "jsonl":
        path.write_text('{"prompt": "a", "extra": 1}\n')
    else:
        pq.write_table(pa.table({"prompt": ["a"], "extra": [1]}), path)
    with pytest.raises(JobError) as caught:
        make(make_job(path, **sections))
    assert str(caught.value) == f"{field}: no column 'wrong' in the input; its columns are extra, prompt"
    assert caught.value.exit_code == BAD_JOB


def test_a_column_of_a_later_row_is_there(tmp_path):
    (tmp_path / "in.jsonl").write_text('nonsense\n{"prompt": "a"}\n{"id": "b"}\n')
    job = make_job(tmp_path / "in.jsonl", input={"id": "id"})
    assert make(job)[0][0].rows == 3


def test_kept_columns_of_an_input_without_a_good_row_are_no_crash(tmp_path):
    (tmp_path / "in.jsonl").write_text("nonsense\n")
    shards, spans = make(make_job(tmp_path / "in.jsonl", input={"keep": ["prompt"]}))
    assert (shards[0].rows, spans[0].rows) == (1, 1)


def test_columns_that_would_be_carried_under_one_name_are_told_apart_whatever_their_case(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"row": 1, "input_row": 2, "ROW": 3, "prompt": "a", "Prompt": "b", "Status": 4}\n')
    job = make_job(tmp_path / "in.jsonl")
    kept = look(job, discover(job.input)).kept
    table = conform([{"row": 1, "input_row": 2, "ROW": 3, "prompt": "a", "Prompt": "b", "Status": 4}], kept)
    assert table.drop_columns(["input_extra"]).to_pylist() == [
        {"input_row_2": 1, "input_row": 2, "input_ROW_3": 3, "prompt": "a", "Prompt_2": "b", "input_Status": 4}
    ]
