"""Where a job stands: exact counts after any kill, and what people are shown."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchgen.errors import BatchgenError, RowError
from batchgen.job.job import Job
from batchgen.job.sampling import check_sampling
from batchgen.output import parts, progress
from batchgen.output.store import LocalStore
from batchgen.records import Completion, Counts, Receipt, Span, output_schema
from batchgen.render.blocks import prompt_schema
from tests.support.planning import freeze_output

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
ADDED = {"spans_generated", "errors", "cached_tokens", "seconds_committing", "rows_from_journal", "engine_restarts"}


class Output:
    """An output of (four) spans of two rows, none of which has a part yet."""

    def __init__(self, folder: Path, spans: int = 4) -> None:
        (folder / "in.jsonl").write_text("".join(f'{{"prompt": "row {n}"}}\n' for n in range(2 * spans)))
        self.job = Job.parse(
            {
                "name": "test",
                "input": {"path": str(folder / "in.jsonl"), "prompt": "prompt"},
                "engine": {"kind": "echo"},
                "sampling": {"n": 2},
                "spans": {"rows": 2},
                "output": {"path": str(folder / "out")},
            }
        )
        self.store = LocalStore(folder / "out")
        self.kept, self.plan = freeze_output(self.job, self.store)

    @property
    def spans(self) -> list[Span]:
        return self.plan.spans

    def commit(self, span: Span, texts: Iterable[str] = ("hello there",), failed: int = 0) -> Receipt:
        """Give the span a part whose first rows have `texts` as answers and whose last `failed` rows failed."""
        done = [answer(number, text) for number, text in enumerate(texts)]
        done += [failure(len(done) + number, f"no {number}") for number in range(failed)]
        rows = [
            {"source": 0, "row": span.start + n, "variant": 0, "turns": [], "sampling": dict(check_sampling({}))}
            for n in range(len(done))
        ]
        prompts = pa.Table.from_pylist(rows, prompt_schema(()))
        kept = pa.table([pa.nulls(1, field.type) for field in self.kept], schema=self.kept)
        counts, errors = footer = parts.footer_of(done)
        part = parts.encode_part(prompts, kept, done, output_schema(kept.schema, ()), "in.jsonl", "echo", footer)
        assert parts.commit(self.store, span.name, part)
        return Receipt(span.name, True, counts, errors, parts.first_errors(done), 100.0, 104.0, 4.0)

    def tally(self) -> progress.Tally:
        return progress.load_tally(self.store, self.plan, parts.committed(self.store))

    def monitor(self, out: io.StringIO | None = None, quiet: bool = False) -> progress.Monitor:
        return progress.Monitor(self.tally(), self.store, "test", out or io.StringIO(), quiet)


def answer(prompt: int, text: str) -> Completion:
    said = ("user", f"question {prompt}"), ("assistant", text)
    return Completion(prompt, 0, said, text, "stop", 10, len(text.split()), None, "abc", 0.5, 1)


def failure(prompt: int, detail: str) -> Completion:
    return Completion(prompt, 0, None, None, None, 0, 0, None, None, 0.5, 1, RowError("too_long", detail))


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path)


def test_an_output_that_nobody_ran_is_planned(output: Output) -> None:
    assert output.tally().status() == dict.fromkeys(FIELDS | ADDED, 0) | {
        "state": "planned",
        "rows_planned": 16,
        "spans_planned": 4,
        "errors": {},
        "tokens_per_second": 0.0,
    }


def test_status_has_exactly_the_promised_fields(output: Output) -> None:
    assert set(output.tally().status()) == FIELDS | ADDED


def test_without_progress_json_all_footers_are_read(output: Output) -> None:
    output.commit(output.spans[0], ["one two three", "four"])
    output.commit(output.spans[2], ["five"], failed=2)
    tally = output.tally()
    assert tally.counted == {output.spans[0].name, output.spans[2].name}
    assert tally.counts == Counts(ok=3, error=2, prompt_tokens=30, completion_tokens=5)
    assert tally.errors == {"too_long": 2}


def test_the_tally_is_exact_after_parts_that_progress_json_does_not_count(output: Output) -> None:
    monitor = output.monitor(quiet=True)
    monitor.receipt(output.commit(output.spans[0], ["one two three", "four"]))
    monitor.receipt(output.commit(output.spans[1], ["five"], failed=1))
    monitor.tick(1, force=True)
    output.commit(output.spans[3], ["six seven", "eight"], failed=2)
    tally = output.tally()
    assert tally.counted == {output.spans[n].name for n in (0, 1, 3)}
    assert tally.counts == Counts(ok=5, error=3, prompt_tokens=50, completion_tokens=8)
    assert tally.errors == {"too_long": 3}


def test_the_parts_that_progress_json_counts_are_not_opened(output: Output) -> None:
    monitor = output.monitor(quiet=True)
    monitor.receipt(output.commit(output.spans[0], ["one", "two"]))
    monitor.tick(1, force=True)
    (output.store.root / parts.part_name(output.spans[0].name)).write_bytes(b"not Parquet")
    assert output.tally().counts.ok == 2


def test_a_counted_part_that_vanished_makes_all_footers_be_read(output: Output) -> None:
    monitor = output.monitor(quiet=True)
    for number in (0, 1):
        monitor.receipt(output.commit(output.spans[number], ["one", "two"]))
    monitor.tick(1, force=True)
    output.store.delete(parts.part_name(output.spans[0].name))
    tally = output.tally()
    assert (tally.counted, tally.counts.ok) == ({output.spans[1].name}, 2)


@pytest.mark.parametrize("counted", [[], [0], [7], [8], [1, 6, 7, 8, 9], list(range(10))])
def test_progress_json_names_the_counted_spans(tmp_path: Path, counted: list[int]) -> None:
    output = Output(tmp_path, spans=10)
    monitor = output.monitor(quiet=True)
    for number in counted:
        monitor.receipt(output.commit(output.spans[number], ["one", "two"]))
    monitor.tick(1, force=True)
    for number in counted:
        (output.store.root / parts.part_name(output.spans[number].name)).write_bytes(b"not Parquet")
    assert output.tally().counted == {output.spans[number].name for number in counted}


def test_a_part_is_counted_once_however_often_it_is_answered_for(output: Output) -> None:
    receipt = output.commit(output.spans[0], ["one", "two"], failed=1)
    monitor = output.monitor(quiet=True)
    tally = monitor.tally
    before = tally.counts
    monitor.receipt(receipt)
    monitor.receipt(receipt)
    assert before == receipt.counts, "the footer was read when the tally was loaded"
    assert (tally.counts, tally.errors, tally.generated) == (before, {"too_long": 1}, 2)


def test_planned_rows_are_those_of_finished_spans_and_the_plan_of_the_others(output: Output) -> None:
    output.commit(output.spans[0], ["a"] * 7)
    assert output.tally().rows_planned == 7 + 3 * 2 * 2


def test_seconds_and_generated_spans_add_up_over_runs(output: Output) -> None:
    for number in (0, 1):
        monitor = output.monitor(quiet=True)
        monitor.receipt(output.commit(output.spans[number], ["one two"]))
        monitor.tick(1, force=True)
    status = output.tally().status()
    assert (status["seconds_generating"], status["spans_generated"], status["tokens_per_second"]) == (8.0, 2, 0.5)


def test_status_is_read_from_the_output_alone(output: Output) -> None:
    output.commit(output.spans[0], ["one two", "three"])
    status = progress.read_status(output.store)
    assert status is not None
    assert set(status) == FIELDS | ADDED | {"name", "output"}
    assert (status["name"], status["output"], status["rows_ok"], status["spans_done"]) == ("test", output.store.url, 2, 1)


def test_there_is_no_status_where_there_is_no_output(tmp_path: Path) -> None:
    assert progress.read_status(LocalStore(tmp_path / "nothing")) is None
    assert list(tmp_path.iterdir()) == []


def driver(output: Output, **changes: Any) -> str:
    """The state that a progress.json of a running job with `changes` in its driver is read as."""
    tally = output.tally()
    tally.state = "running"
    fields = json.loads(tally.encode())
    fields["driver"] |= changes
    output.store.put(progress.PROGRESS, json.dumps(fields).encode())
    return output.tally().state


def test_a_running_job_whose_driver_lives_is_running(output: Output) -> None:
    assert driver(output) == "running"


def test_a_running_job_whose_driver_died_on_this_host_is_interrupted(output: Output) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert driver(output, pid=process.pid) == "interrupted"


def test_a_running_job_whose_driver_is_elsewhere_is_believed(output: Output) -> None:
    assert driver(output, pid=2**22 + 1, host=socket.gethostname() + "-other") == "running"


def test_progress_json_names_its_driver(output: Output) -> None:
    fields = json.loads(output.tally().encode())
    assert fields["driver"] == {"host": socket.gethostname(), "pid": os.getpid()}


def test_error_samples_are_the_first_five(output: Output) -> None:
    monitor = output.monitor(quiet=True)
    for number in range(3):
        monitor.receipt(output.commit(output.spans[number], [], failed=2))
    assert monitor.tally.samples == ["too_long: no 0", "too_long: no 1"] * 2 + ["too_long: no 0"]
    monitor.tick(1, force=True)
    assert output.tally().samples == monitor.tally.samples


def test_a_line_is_printed_where_there_is_no_terminal(output: Output) -> None:
    out = io.StringIO()
    monitor = output.monitor(out)
    monitor.receipt(output.commit(output.spans[0], ["one two", "three"], failed=1))
    monitor.tick(2, force=True)
    assert out.getvalue() == "test: 3/15 rows, 2 ok, 1 error, 1 tokens/s, 2 replicas, 16s left\n"


def test_quiet_prints_nothing_and_still_keeps_progress_json(output: Output) -> None:
    out = io.StringIO()
    output.monitor(out, quiet=True).tick(1, force=True)
    assert out.getvalue() == ""
    assert output.store.get(progress.PROGRESS) is not None


def test_messages_are_printed_as_they_are(output: Output) -> None:
    out = io.StringIO()
    output.monitor(out).message("replica 1 died: [/INST] [bold]")
    assert out.getvalue() == "replica 1 died: [/INST] [bold]\n"


def test_the_first_answers_are_the_ok_ones_row_by_row(output: Output) -> None:
    output.commit(output.spans[0], ["one"], failed=1)
    output.commit(output.spans[1], ["two", "three"])
    found = list(progress.first_answers(output.store, output.plan, rows=2))
    assert [[answer["response"] for answer in row] for row in found] == [["one"], ["two"]]


def test_the_summary_shows_counts_answers_and_the_next_step(output: Output) -> None:
    output.commit(output.spans[0], ["hello there"], failed=1)
    out = io.StringIO()
    progress.print_summary(output.tally(), output.store, output.plan, [], out)
    assert "2 rows: 1 ok, 1 error; 2 tokens in 0.0 s of generating (0 tokens/s)" in out.getvalue()
    assert "answer to: question 0" in out.getvalue()
    assert "hello there" in out.getvalue()
    assert out.getvalue().endswith(f"Next:    batchgen verify {output.store.url}\n")


def test_the_summary_says_how_much_of_the_prompts_was_cached(output: Output) -> None:
    tally, out = output.tally(), io.StringIO()
    tally.counts = Counts(ok=1, prompt_tokens=400, completion_tokens=9, cached_tokens=100)
    progress.print_summary(tally, output.store, output.plan, [], out)
    assert "25% of the prompt tokens were cached" in " ".join(out.getvalue().split())


def test_the_summary_shows_answers_with_brackets_as_they_are(output: Output) -> None:
    output.commit(output.spans[0], ["an [/INST] answer"])
    out = io.StringIO()
    progress.print_summary(output.tally(), output.store, output.plan, [], out)
    assert "an [/INST] answer" in out.getvalue()


def test_what_rows_say_commands_no_terminal(output: Output) -> None:
    title = "\x1b]0;owned\x07\x9b31m"
    receipt = output.commit(output.spans[0], [f"an answer {title}"], failed=1)
    out = io.StringIO()
    monitor = output.monitor(out)
    monitor.receipt(replace(receipt, samples=[RowError("input", title)]))
    monitor.message(f"replica 1 died: {title}")
    progress.print_summary(monitor.tally, output.store, output.plan, [], out)
    assert out.getvalue().count("\\x1b]0;owned") == 3
    assert all(c == "\n" or c.isprintable() for c in out.getvalue())


@pytest.mark.parametrize("name", [progress.PROGRESS, "part"])
def test_a_damaged_file_is_named(output: Output, name: str) -> None:
    output.commit(output.spans[0], ["one"])
    name = parts.part_name(output.spans[0].name) if name == "part" else name
    output.store.put(name, b"{")
    with pytest.raises(BatchgenError, match=name):
        progress.read_status(output.store)


def test_the_summary_of_a_sweep_says_so_where_nothing_was_cached(output: Output) -> None:
    for varied, told in ((["verbosity"], True), ([], False)):
        tally, out = output.tally(), io.StringIO()
        tally.counts = Counts(ok=1, prompt_tokens=400, completion_tokens=9)
        progress.print_summary(tally, output.store, output.plan, varied, out)
        assert ("0% of the prompt tokens were cached" in " ".join(out.getvalue().split())) == told
