"""logs.py: where a record speaks, and what is printed of it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import subprocess
import sys
from collections.abc import Generator, Iterator

import pytest

from batchgen import logs


@pytest.fixture(autouse=True)
def root() -> Iterator[logging.Logger]:
    """The logger `batchgen`, as it was before afterwards."""
    root = logging.getLogger("batchgen")
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers = handlers
    root.setLevel(level)


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose job and replica are not named."""
    monkeypatch.setattr(logs, "_process", {})


def where(record: logging.LogRecord) -> tuple[object, ...]:
    return record.__dict__["job"], record.__dict__["replica"], record.__dict__["span"]


@pytest.mark.usefixtures("process")
def test_every_record_names_job_replica_and_span(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "batchgen")
    log = logs.logger("pool", job="small")
    log.info("one")
    log.at(replica=3).at(span="s1").debug("two")
    logs.identify(job="large", replica=7)
    logs.logger("engine").warning("three")
    log.error("four")
    assert [where(record) for record in caplog.records] == [
        ("small", "-", "-"),
        ("small", 3, "s1"),
        ("large", "7", "-"),
        ("small", "7", "-"),
    ]
    assert {record.name for record in caplog.records} == {"batchgen.pool", "batchgen.engine"}


@pytest.mark.usefixtures("process")
def test_the_records_of_a_spans_tasks_name_the_span(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "batchgen")
    log = logs.logger("replica")

    async def row() -> None:
        await asyncio.sleep(0)
        log.info("a row")

    async def run(span: str) -> None:
        with logs.in_span(span):
            await asyncio.gather(row(), row())

    async def both() -> None:
        await asyncio.gather(run("a"), run("b"))

    asyncio.run(both())
    log.info("no span")
    assert sorted(str(where(record)[2]) for record in caplog.records) == ["-", "a", "a", "b", "b"]


@pytest.mark.usefixtures("process")
def test_records_of_the_level_are_printed_with_their_time(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logging.DEBUG)
    log = logs.logger("driver", job="small")
    log.debug("seen")
    logs.configure(logging.ERROR)
    log.warning("not seen")
    log.error("seen too")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(" DEBUG batchgen.driver job=small replica=- span=- seen")
    assert second.endswith("seen too")
    assert first[:4].isdigit()


def test_a_library_prints_nothing_by_itself() -> None:
    script = "from batchgen import logs; logs.logger('driver').error('for the handlers of whoever uses batchgen')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_replicas_log_at_least_what_a_reader_of_their_files_needs(root: logging.Logger) -> None:
    found = []
    for level in (logging.ERROR, logging.INFO, logging.DEBUG):
        root.setLevel(level)
        found.append(logs.level_of_replicas())
    assert found == [logging.INFO, logging.INFO, logging.DEBUG]


@pytest.mark.usefixtures("process")
def test_a_task_that_is_closed_by_another_leaves_that_ones_span(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "batchgen")

    def of_span() -> Generator[None, None, None]:
        with logs.in_span("a"):
            yield

    task = of_span()
    contextvars.copy_context().run(next, task)
    with logs.in_span("b"):
        task.close()
        logs.logger("replica").info("a row")
    assert [where(record)[2] for record in caplog.records] == ["b"]


def test_half_of_a_surrogate_pair_is_written_as_its_number(caplog: pytest.LogCaptureFixture) -> None:
    error = logs.internal_error(logs.logger("test"), "in.jsonl:1", ValueError("half \ud83d of a pair"))
    assert error.code == "internal"
    text = caplog.text.encode().decode()
    assert "ValueError: half \\ud83d of a pair" in text
    assert text.count("\\ud83d") == 2, "in the message and in the traceback"
