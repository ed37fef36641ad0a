"""`attributes.sample.from` as a path: the combinations in the rows of a file take its place."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import JobError
from batchgen.job.job import Job
from batchgen.read.discover import with_combinations
from batchgen.render.steering import Steering
from tests.support.jobs import fields

ROWS = [{"verbosity": 4, "humor": 0}] * 3 + [{"verbosity": 0, "humor": 1}] + [{"text": "no attribute"}, {"verbosity": None}]


def drawing(path: Path | str, k: int = 1) -> Job:
    return with_combinations(Job.parse(fields(attributes={"sample": {"k": k, "from": str(path)}})))


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_file_of_rows_gives_the_combinations_that_are_in_it_and_how_often(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    job = drawing(path, k=2)
    assert job.attributes is not None
    assert job.attributes.sample is not None
    assert job.attributes.sample.from_ == [{"verbosity": 4, "humor": 0, "weight": 3}, {"verbosity": 0, "humor": 1, "weight": 1}]
    path.unlink()
    again = Job.model_validate(job.model_dump(mode="json", by_alias=True))
    assert Steering(again.attributes).variants("s", 0) == Steering(job.attributes).variants("s", 0), (
        "the output remembers what was in the file"
    )


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('{"text": "a"}\n', "no row in it has one of verbosity, humor"),
        ('{"verbosity": 1}\n{"humor": 9}\n', "attributes: sample.from: combination 2: humor: 9 is not an integer 0..4"),
        ("nonsense\n", ""),
    ],
)
def test_a_file_that_gives_no_combinations_is_refused_by_its_name(tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(JobError) as caught:
        drawing(tmp_path / "rows.jsonl")
    assert str(caught.value).startswith(f"attributes.sample.from {tmp_path}/rows.jsonl: {cause}")


def test_a_file_that_is_not_there_is_refused_by_its_name() -> None:
    with pytest.raises(JobError, match=r"^attributes\.sample\.from nowhere\.jsonl: .*No such file"):
        drawing("nowhere.jsonl")


def test_a_job_without_a_file_stays_as_it_is() -> None:
    for attributes in ({}, {"sample": {"k": 1, "from": [{"humor": 1}]}}):
        job = Job.parse(fields(attributes=attributes))
        assert with_combinations(job) is job
