"""What a person is shown: progress, messages, the summary of a run."""

from __future__ import annotations

import io
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from batchgen import terminal
from batchgen.errors import RowError
from batchgen.output.progress import PROGRESS, Ended
from batchgen.records import Counts
from tests.support.committed import Committed


@pytest.fixture
def output(tmp_path: Path) -> Committed:
    return Committed(tmp_path)


def timed(out: io.StringIO) -> list[str]:
    """The lines without the times that they begin with."""
    lines = out.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    return [line[9:] for line in lines]


def test_a_line_is_printed_where_there_is_no_terminal(output: Committed) -> None:
    out = io.StringIO()
    monitor = output.monitor(out)
    monitor.receipt(output.commit(output.spans[0], ["one two", "three"], failed=1))
    monitor.tick(2, force=True)
    assert timed(out) == ["test: 3/15 rows, 2 ok, 1 error, 1 tokens/s, 2 replicas, 16s left"]


def test_a_line_says_what_the_run_waits_for_how_much_is_not_committed_and_how_old_that_is(
    output: Committed, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monitor = output.monitor(out)
    monitor.tally.waits_for = "the model to load (3 s, node ab (1.2.3.4))"
    monitor.tick(0, force=True)
    monitor.tally.waits_for, monitor.uncommitted = None, 4
    monitor.tick(1, force=True)
    later = time.monotonic() + 70
    monkeypatch.setattr(time, "monotonic", lambda: later)
    monitor.tick(1, force=True)
    assert timed(out) == [
        "test: 0/16 rows, 0 ok, 0 error, 0 replicas, waiting for the model to load (3 s, node ab (1.2.3.4))",
        "test: 0/16 rows, 0 ok, 0 error, 4 not committed, 0 tokens/s, 1 replicas, generating",
        "test: 0/16 rows, 0 ok, 0 error, 4 not committed, 0 tokens/s, 1 replicas, generating, last row 1m10s ago",
    ]


def test_a_line_is_printed_at_least_every_few_seconds_while_a_run_waits(
    output: Committed, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, now = io.StringIO(), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monitor = output.monitor(out)
    for second in range(31):
        monitor.tally.waits_for = f"something for {second} s" if second <= 20 else None
        now[0] = 1000.0 + second
        monitor.tick(0)
    shown = [line.partition("waiting for something for ")[2] or "generating" for line in timed(out)]
    assert shown == ["0 s", "5 s", "10 s", "15 s", "20 s", "generating"]


def test_what_takes_long_before_there_is_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "WAIT_SECONDS", 0.01)
    out = io.StringIO()
    with terminal.doing("planning", out, quiet=False):
        while not out.getvalue():
            time.sleep(0.01)
    with terminal.doing("planning", out, quiet=True):
        time.sleep(0.05)
    assert out.getvalue() == "planning ...\n"


def test_quiet_prints_nothing_and_still_keeps_progress_json(output: Committed) -> None:
    out = io.StringIO()
    output.monitor(out, quiet=True).tick(1, force=True)
    assert out.getvalue() == ""
    assert output.store.get(PROGRESS) is not None


def test_messages_are_printed_as_they_are(output: Committed) -> None:
    out = io.StringIO()
    output.monitor(out).message("replica 1 died: [/INST] [bold]")
    assert timed(out) == ["replica 1 died: [/INST] [bold]"]


@pytest.mark.parametrize("quiet", [False, True])
def test_each_line_of_a_message_begins_with_the_time_of_day(output: Committed, quiet: bool) -> None:
    out = io.StringIO()
    output.monitor(out, quiet).message("replica 1 died\n  engine log: out of memory")
    assert timed(out) == ["replica 1 died", "  engine log: out of memory"]


def test_status_says_what_a_run_waits_for_and_why_it_ended(output: Committed, capsys: pytest.CaptureFixture[str]) -> None:
    tally = output.tally()
    for words, lines in (
        ({"waits_for": "a GPU"}, ["waits:  for a GPU"]),
        ({"ended": Ended(reason="no replica can start", exit_code=1)}, ["ended:  no replica can start (exit code 1)"]),
        ({"ended": Ended(reason="the driver is gone")}, ["ended:  the driver is gone"]),
        ({}, []),
    ):
        terminal.print_status({"name": "test", **replace(tally, **words).status()})
        assert capsys.readouterr().out.splitlines()[5:] == lines


def test_the_summary_shows_the_ok_answers_of_the_first_three_rows(output: Committed) -> None:
    output.commit(output.spans[0], ["one"], failed=1)
    output.commit(output.spans[2], ["two", "three", "four"])
    out = io.StringIO()
    terminal.print_summary(output.tally(), output.store, output.plan, [], out)
    assert [text for text in ("one", "two", "three", "four") if f" {text} " in out.getvalue()] == ["one", "two", "three"]


def test_the_summary_shows_counts_answers_and_the_next_step(output: Committed) -> None:
    output.commit(output.spans[0], ["hello there"], failed=1)
    out = io.StringIO()
    terminal.print_summary(output.tally(), output.store, output.plan, [], out)
    assert "2 rows: 1 ok, 1 error; 2 tokens in 0.0 s of generating (0 tokens/s)" in out.getvalue()
    assert "answer to: question 0" in out.getvalue()
    assert "hello there" in out.getvalue()
    assert out.getvalue().endswith(f"Next:    batchgen verify {output.store.url}\n")


def test_the_summary_says_how_much_of_the_prompts_was_cached(output: Committed) -> None:
    tally, out = output.tally(), io.StringIO()
    tally.counts = Counts(ok=1, prompt_tokens=400, completion_tokens=9, cached_tokens=100)
    terminal.print_summary(tally, output.store, output.plan, [], out)
    assert "25% of the prompt tokens were cached" in " ".join(out.getvalue().split())


def test_the_summary_shows_answers_with_brackets_as_they_are(output: Committed) -> None:
    output.commit(output.spans[0], ["an [/INST] answer"])
    out = io.StringIO()
    terminal.print_summary(output.tally(), output.store, output.plan, [], out)
    assert "an [/INST] answer" in out.getvalue()


def test_what_rows_say_commands_no_terminal(output: Committed) -> None:
    title = "\x1b]0;owned\x07\x9b31m"
    receipt = output.commit(output.spans[0], [f"an answer {title}"], failed=1)
    out = io.StringIO()
    monitor = output.monitor(out)
    monitor.receipt(replace(receipt, samples=[(RowError("input", title), 2)]))
    monitor.message(f"replica 1 died: {title}")
    terminal.print_summary(monitor.tally, output.store, output.plan, [], out)
    assert out.getvalue().count("\\x1b]0;owned") == 3
    assert all(c == "\n" or c.isprintable() for c in out.getvalue())


def test_the_summary_of_a_sweep_says_so_where_nothing_was_cached(output: Committed) -> None:
    for varied, told in ((["verbosity"], True), ([], False)):
        tally, out = output.tally(), io.StringIO()
        tally.counts = Counts(ok=1, prompt_tokens=400, completion_tokens=9)
        terminal.print_summary(tally, output.store, output.plan, varied, out)
        assert ("0% of the prompt tokens were cached" in " ".join(out.getvalue().split())) == told
