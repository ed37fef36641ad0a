"""Where a job stands: exact counts after any kill."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import InputError, VerifyError
from batchgen.output import parts, progress
from batchgen.output.lease import process
from batchgen.output.output import Output
from batchgen.output.plan_file import SUCCESS
from batchgen.records import Counts
from tests.support.committed import Committed

# The fields that users' tools read, and those that were added to them.
FIELDS = {
    "rows_planned",
    "rows_ok",
    "rows_error",
    "spans_planned",
    "spans_done",
    "prompt_tokens",
    "completion_tokens",
    "seconds_total",
    "seconds_generating",
    "tokens_per_second",
    "state",
}
ADDED = {
    "spans_generated",
    "errors",
    "cached_tokens",
    "deduplicated",
    "judge_prompt_tokens",
    "judge_tokens",
    "seconds_committing",
    "rows_from_journal",
    "engine_restarts",
}
WORDS = {"waits_for", "ended"}


@pytest.fixture
def output(tmp_path: Path) -> Committed:
    return Committed(tmp_path)


def test_an_output_that_nobody_ran_is_planned(output: Committed) -> None:
    assert output.tally().status() == dict.fromkeys(FIELDS | ADDED, 0) | dict.fromkeys(WORDS) | {
        "state": "planned",
        "rows_planned": 16,
        "spans_planned": 4,
        "errors": {},
        "tokens_per_second": 0.0,
    }


def test_status_has_exactly_the_promised_fields(output: Committed) -> None:
    assert set(output.tally().status()) == FIELDS | ADDED | WORDS


def test_without_progress_json_all_footers_are_read(output: Committed) -> None:
    output.commit(output.spans[0], ["one two three", "four"])
    output.commit(output.spans[2], ["five"], failed=2)
    tally = output.tally()
    assert tally.counted == {output.spans[0].name, output.spans[2].name}
    assert tally.counts == Counts(ok=3, error=2, prompt_tokens=30, completion_tokens=5)
    assert tally.errors == {"too_long": 2}


def test_the_tally_is_exact_after_parts_that_progress_json_does_not_count(output: Committed) -> None:
    monitor = output.monitor(quiet=True)
    monitor.receipt(output.commit(output.spans[0], ["one two three", "four"]))
    monitor.receipt(output.commit(output.spans[1], ["five"], failed=1))
    monitor.tick(1, force=True)
    output.commit(output.spans[3], ["six seven", "eight"], failed=2)
    tally = output.tally()
    assert tally.counted == {output.spans[n].name for n in (0, 1, 3)}
    assert tally.counts == Counts(ok=5, error=3, prompt_tokens=50, completion_tokens=8)
    assert tally.errors == {"too_long": 3}


def test_the_parts_that_progress_json_counts_are_not_opened(output: Committed) -> None:
    monitor = output.monitor(quiet=True)
    monitor.receipt(output.commit(output.spans[0], ["one", "two"]))
    monitor.tick(1, force=True)
    (output.store.root / parts.part_name(output.spans[0].name)).write_bytes(b"not Parquet")
    assert output.tally().counts.ok == 2


def test_a_counted_part_that_vanished_makes_all_footers_be_read(output: Committed) -> None:
    monitor = output.monitor(quiet=True)
    for number in (0, 1):
        monitor.receipt(output.commit(output.spans[number], ["one", "two"]))
    monitor.tick(1, force=True)
    output.store.delete(parts.part_name(output.spans[0].name))
    tally = output.tally()
    assert (tally.counted, tally.counts.ok) == ({output.spans[1].name}, 2)


@pytest.mark.parametrize("counted", [[], [0], [7], [8], [1, 6, 7, 8, 9], list(range(10))])
def test_progress_json_names_the_counted_spans(tmp_path: Path, counted: list[int]) -> None:
    output = Committed(tmp_path, spans=10)
    monitor = output.monitor(quiet=True)
    for number in counted:
        monitor.receipt(output.commit(output.spans[number], ["one", "two"]))
    monitor.tick(1, force=True)
    for number in counted:
        (output.store.root / parts.part_name(output.spans[number].name)).write_bytes(b"not Parquet")
    assert output.tally().counted == {output.spans[number].name for number in counted}


def test_a_part_is_counted_once_however_often_it_is_answered_for(output: Committed) -> None:
    receipt = output.commit(output.spans[0], ["one", "two"], failed=1)
    monitor = output.monitor(quiet=True)
    tally = monitor.tally
    before = tally.counts
    monitor.receipt(receipt)
    monitor.receipt(receipt)
    assert before == receipt.counts, "the footer was read when the tally was loaded"
    assert (tally.counts, tally.errors, tally.spans_generated) == (before, {"too_long": 1}, 2)


def test_planned_rows_are_those_of_finished_spans_and_the_plan_of_the_others(output: Committed) -> None:
    output.commit(output.spans[0], ["a"] * 7)
    assert output.tally().rows_planned == 7 + 3 * 2 * 2


def test_seconds_and_generated_spans_add_up_over_runs(output: Committed) -> None:
    for number in (0, 1):
        monitor = output.monitor(quiet=True)
        monitor.receipt(output.commit(output.spans[number], ["one two"]))
        monitor.tick(1, force=True)
    status = output.tally().status()
    assert (status["seconds_generating"], status["spans_generated"], status["tokens_per_second"]) == (8.0, 2, 0.5)


def test_status_is_read_from_the_output_alone(output: Committed) -> None:
    output.commit(output.spans[0], ["one two", "three"])
    status = Output.open(output.store).status()
    assert set(status) == FIELDS | ADDED | WORDS | {"name", "output"}
    assert (status["name"], status["output"], status["rows_ok"], status["spans_done"]) == ("test", output.store.url, 2, 1)


def test_there_is_no_status_where_there_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no batchgen output there"):
        Output.open(str(tmp_path / "nothing"))
    assert list(tmp_path.iterdir()) == []


def driver(output: Committed, **changes: Any) -> str:
    """The state that a progress.json of a running job with `changes` in its driver is read as."""
    tally = output.tally()
    tally.state, tally.waits_for = "running", "a GPU"
    fields = json.loads(tally.encode())
    fields["driver"] |= changes
    output.store.put(progress.PROGRESS, json.dumps(fields).encode())
    found = output.tally()
    gone = {"reason": "the driver is gone", "exit_code": None}
    words = {"running": ("a GPU", None), "interrupted": (None, gone)}[found.state]
    assert (found.status()["waits_for"], found.status()["ended"]) == words
    return found.state


def test_why_a_run_ended_is_kept_and_goes_where_the_next_begins(output: Committed) -> None:
    tally = output.tally()
    tally.state, tally.ended = "failed", progress.Ended(reason="no replica can start", exit_code=1)
    output.store.put(progress.PROGRESS, tally.encode())
    found = output.tally()
    assert found.status()["ended"] == {"reason": "no replica can start", "exit_code": 1}
    found.run_begins()
    assert (found.state, found.status()["ended"]) == ("running", None)


def test_a_progress_json_of_an_earlier_release_says_neither_what_it_waits_for_nor_why_it_ended(output: Committed) -> None:
    fields = {name: value for name, value in ran(output).items() if name not in WORDS}
    output.store.put(progress.PROGRESS, json.dumps(fields).encode())
    status = output.tally().status()
    assert (status["rows_ok"], status["waits_for"], status["ended"]) == (2, None, None)


def test_a_running_job_whose_driver_lives_is_running(output: Committed) -> None:
    assert driver(output) == "running"


def test_a_running_job_whose_driver_died_on_this_host_is_interrupted(output: Committed) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert driver(output, pid=process.pid) == "interrupted"


def test_a_running_job_whose_driver_is_elsewhere_is_believed(output: Committed) -> None:
    assert driver(output, pid=2**22 + 1, host=socket.gethostname() + "-other") == "running"


def test_progress_json_names_its_driver(output: Committed) -> None:
    fields = json.loads(output.tally().encode())
    assert fields["driver"] == process(os.getpid())
    assert fields["driver"]["pid"] == os.getpid()
    assert None not in fields["driver"].values()


def test_error_samples_are_of_the_first_five_causes(output: Committed) -> None:
    monitor = output.monitor(quiet=True)
    for number in range(2):
        monitor.receipt(output.commit(output.spans[number], [], failed=2))
    assert monitor.tally.samples == ["too_long: no 0", "too_long: no 1"]
    monitor.receipt(output.commit(output.spans[2], [], failed=7))
    assert monitor.tally.samples == [f"too_long: no {number}" for number in range(5)]
    monitor.tick(1, force=True)
    assert monitor.tally.sample_rows == [3, 3, 1, 1, 1]
    assert output.tally().samples == monitor.tally.samples
    again = output.monitor(quiet=True)
    again.receipt(output.commit(output.spans[3], [], failed=1))
    assert again.tally.sample_rows == [4, 3, 1, 1, 1], "what an earlier run has shown is counted on"


def ran(output: Committed) -> dict[str, Any]:
    """The progress.json of a run in which two spans were done."""
    monitor = output.monitor(quiet=True)
    for span in output.spans[:2]:
        monitor.receipt(output.commit(span, ["one two"], failed=1))
    monitor.tick(1, force=True)
    found: dict[str, Any] = json.loads(output.store.get(progress.PROGRESS) or b"")
    return found


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"counted": 5}', b'{"counted": "AA==", "counts": {"ok": 1}}'])
def test_a_damaged_progress_json_is_made_again_from_the_parts(output: Committed, data: bytes) -> None:
    ran(output)
    output.store.put(progress.PROGRESS, data)
    status = Output.open(output.store).status()
    assert (status["rows_ok"], status["rows_error"], status["spans_done"], status["errors"]) == (2, 2, 2, {"too_long": 2})
    assert status["state"] == "interrupted"
    output.store.put(SUCCESS, b"")
    assert Output.open(output.store).status()["state"] == "done"


def test_whatever_field_progress_json_lacks_the_counts_are_exact(output: Committed) -> None:
    fields = ran(output)
    before = Output.open(output.store).status()
    for name in fields:
        output.store.put(progress.PROGRESS, json.dumps({k: v for k, v in fields.items() if k != name}).encode())
        found = Output.open(output.store).status()
        assert {k: v for k, v in found.items() if k.startswith(("rows_ok", "rows_error", "spans_", "errors"))} == {
            k: v for k, v in before.items() if k.startswith(("rows_ok", "rows_error", "spans_", "errors"))
        } | ({"spans_generated": 0} if name == "spans_generated" else {}), name


def test_a_progress_json_of_a_later_format_is_left_to_the_release_that_wrote_it(output: Committed) -> None:
    fields = ran(output)
    changed = fields | {"format": 2, "counts": {"ok": 99, "error": 0}}
    output.store.put(progress.PROGRESS, json.dumps(changed).encode())
    assert Output.open(output.store).status()["rows_ok"] == 2


def test_a_damaged_part_is_named(output: Committed) -> None:
    output.commit(output.spans[0], ["one"])
    name = parts.part_name(output.spans[0].name)
    output.store.put(name, b"{")
    with pytest.raises(VerifyError, match=name):
        Output.open(output.store).status()
