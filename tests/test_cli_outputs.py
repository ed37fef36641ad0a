"""The verbs that look at outputs: exit codes, lists that end, and nothing from a file that commands the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchgen.job.meaning import fingerprint
from batchgen.output import job_file, parts, plan_file, progress
from batchgen.output.plan_file import SUCCESS
from tests.support.commands import in_process as batchgen
from tests.support.finished import Finished

TITLE = "\x1b]0;owned\x07\x9b31m\u202e"


@pytest.fixture
def output(tmp_path: Path) -> Finished:
    return Finished(tmp_path, spans={"rows": 1}, limits={"errors": 1})


def unfinished(output: Finished, spans: int) -> None:
    """The output as it was before these spans got their parts."""
    for name in list(output.store.list("_batchgen/manifest")):
        output.store.delete(name)
    output.store.delete(SUCCESS)
    for span in output.plan.spans[:spans]:
        output.store.delete(parts.part_name(span.name))


def test_verify_says_what_it_has_proven(output: Finished, tmp_path: Path) -> None:
    done = batchgen(tmp_path, "verify", "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "every planned row is there exactly once: 62 rows (48 ok, 14 error) in 31 spans",
        "sha256 recorded: 31 of 31 parts",
    ]


def test_an_unfinished_output_is_one_line_and_exit_code_4(output: Finished, tmp_path: Path) -> None:
    unfinished(output, 25)
    done = batchgen(tmp_path, "verify", "out")
    assert (done.returncode, done.stderr) == (4, "")
    assert done.stdout == "unfinished: 25 of 31 spans have no part yet; run the job again to finish it\n"
    found = json.loads(batchgen(tmp_path, "verify", "out", "--json").stdout)
    assert (found["unfinished"], found["parts"], found["damaged"]) == (True, 6, [])


def test_an_unfinished_output_with_a_damaged_part_is_not_just_unfinished(output: Finished, tmp_path: Path) -> None:
    unfinished(output, 3)
    output.store.put(parts.part_name(output.plan.spans[-1].name), b"PAR1")
    done = batchgen(tmp_path, "verify", "out")
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[:2]] == [
        "unfinished",
        parts.part_name(output.plan.spans[-1].name),
    ]


def test_at_most_20_damages_are_named(output: Finished, tmp_path: Path) -> None:
    for span in output.plan.spans[:25]:
        output.store.put(parts.part_name(span.name), b"PAR1")
    done = batchgen(tmp_path, "verify", "out")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert (len(lines), lines[20]) == (23, "... and 5 more")
    assert all("damaged: " in line for line in lines[:20])
    assert len(json.loads(batchgen(tmp_path, "verify", "out", "--json").stdout)["problems"]) == 25
    moved = batchgen(tmp_path, "verify", "out", "--repair").stderr.splitlines()
    assert (len(moved), moved[-1]) == (21, "... and 5 more")


@pytest.mark.parametrize("form", ["jsonl", "openai"])
def test_an_unfinished_output_is_exported_on_the_callers_word_alone(output: Finished, tmp_path: Path, form: str) -> None:
    unfinished(output, 25)
    done = batchgen(tmp_path, "export", "out", "--to", "to", "--format", form)
    assert (done.returncode, (tmp_path / "to").exists()) == (2, False)
    assert "the job is unfinished, 25 of 31 spans have no part; run the job to its end, or" in done.stderr
    done = batchgen(tmp_path, "export", "out", "--to", "to", "--format", form, "--partial")
    assert (done.returncode, "lines" in done.stdout) == (0, True)


def change(output: Finished, name: str, edit: Any) -> None:
    fields = json.loads(output.store.get(name) or b"")
    edit(fields)
    if fields.pop("digest", None):
        fields["digest"] = fingerprint(fields)
    output.store.put(name, json.dumps(fields).encode())


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("verb", ["status", "verify", "export", "fidelity", "retry"])
def test_nothing_from_an_outputs_files_commands_the_terminal(
    output: Finished, tmp_path: Path, verb: str, options: list[str]
) -> None:
    output.store.put(progress.PROGRESS, progress.load_tally(output.store, output.plan, output.output.parts()).encode())
    change(output, progress.PROGRESS, lambda fields: fields.update(state=TITLE, error_samples=[TITLE], errors={TITLE: 3}))
    change(output, job_file.NAME, lambda fields: fields["job"]["engine"].update(env={"A": TITLE}))
    table = plan_file.load_plan(output.store, 1)[0]
    plan_file_data = plan_file.encode_plan(
        [shard.__class__(**shard.__dict__ | {"name": TITLE}) for shard in table.shards], table.spans
    )
    output.store.put(plan_file.name_of(0), plan_file_data)
    output.store.put(f"data/{TITLE}.parquet", b"PAR1")
    words = ["--to", "to", "--format", "openai"] if verb == "export" else options
    done = batchgen(tmp_path, verb, "out", *words)
    said = done.stdout + done.stderr
    assert said
    assert all(c == "\n" or c.isprintable() for c in said), said
    assert "Traceback" not in said


def test_a_damaged_progress_file_is_named_and_the_status_is_there(output: Finished, tmp_path: Path) -> None:
    output.store.put(progress.PROGRESS, b"\xff{")
    done = batchgen(tmp_path, "status", "out")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "job: done")
    assert "progress.json: damaged, its counts are made again from the parts" in done.stderr


def test_an_output_that_has_lost_a_part_is_not_exported_as_if_it_were_whole(output: Finished, tmp_path: Path) -> None:
    output.store.delete(parts.part_name(output.plan.spans[3].name))
    done = batchgen(tmp_path, "export", "out", "--to", "to")
    assert (done.returncode, "1 of 31 spans have no part; " in done.stderr) == (2, True)


def test_a_job_whose_last_run_did_not_say_so_is_unfinished(output: Finished, tmp_path: Path) -> None:
    output.store.delete(SUCCESS)
    done = batchgen(tmp_path, "verify", "out")
    assert (done.returncode, done.stdout) == (
        4,
        "_SUCCESS: missing although every part is there; run the job again to finish it\n",
    )
    assert "it has no _SUCCESS; run" in batchgen(tmp_path, "export", "out", "--to", "to").stderr
