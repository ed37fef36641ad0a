"""The job's paths become shards, each once, of one format."""

import os

import pytest

from batchgen.errors import InputError
from batchgen.prepare import prepare
from batchgen.read.discover import discover
from tests.support.planning import lines, make_job, write_parquet


def test_two_formats_in_one_input_are_refused(two_shards):
    write_parquet(two_shards / "c.parquet", 1)
    with pytest.raises(InputError, match=r"^input\.path leads to both jsonl and parquet shards; give each its own job$"):
        discover(make_job(two_shards).input)


def test_a_shard_of_an_unknown_format_is_refused_unless_the_job_names_it(tmp_path):
    (tmp_path / "in.txt").write_text(lines(1))
    with pytest.raises(InputError, match=r"in\.txt: unknown format; set input\.format, or use an ending of \.jsonl "):
        discover(make_job(tmp_path / "in.txt").input)
    [found] = discover(make_job(tmp_path / "in.txt", input={"format": "jsonl"}).input)
    assert (found.name, found.format, found.size) == (f"{tmp_path}/in.txt", "jsonl", len(lines(1)))


def test_a_shard_that_two_paths_lead_to_is_found_once(two_shards):
    found = discover(make_job("x", input={"path": [f"{two_shards}/b.jsonl", str(two_shards), f"{two_shards}/*.jsonl"]}).input)
    assert [shard.name for shard in found] == [f"{two_shards}/b.jsonl", f"{two_shards}/a.jsonl"]


def test_files_of_other_endings_are_named_and_endings_are_read_in_any_case(tmp_path):
    for name in ("a.jsonl", "b.JSONL", "c.json", "d.csv", "_e.csv", ".f.csv"):
        (tmp_path / name).write_text('{"prompt": "x"}\n')
    made = prepare(make_job(tmp_path))
    assert [os.path.basename(shard.name) for shard in made.found] == ["a.jsonl", "b.JSONL"]
    assert [os.path.basename(name) for name in made.skipped] == ["c.json", "d.csv"]
    assert made.skipped_words == (
        f"2 files of other endings are left out: {tmp_path}/c.json, {tmp_path}/d.csv; set input.format to read them"
    )
    assert prepare(make_job(tmp_path / "a.jsonl")).skipped == ()
    assert prepare(make_job(tmp_path / "*.jsonl")).skipped == ()
