"""generate: rows of every kind in, their answers in that order out; in a script, in an event loop, in threads."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import UserDict
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import batchgen
from batchgen import InputError, JobError, Output, OutputConflict, TooManyErrors
from batchgen.generate import in_thread
from tests.support.commands import hear

ECHO: dict[str, Any] = {"engine": {"kind": "echo"}, "replicas": {"max": 1}, "quiet": True}
ROWS = [{"name": f"row {number}", "prompt": f"Question {number}?", "number": number} for number in range(100)]


VIEWS = pa.schema([("name", pa.string_view()), ("prompt", pa.string_view()), ("number", pa.int64())])
"""As polars gives them."""


class Arrow:
    """A table of somebody else's, which speaks Arrow's C stream interface alone, as those of polars and duckdb do."""

    def __init__(self, table: pa.Table) -> None:
        self._table, self.columns = table, table.column_names

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def of(rows: Any, **fields: Any) -> pa.Table:
    return batchgen.generate(rows, **ECHO, **fields)


@pytest.mark.cluster
def test_texts_become_user_messages_and_come_back_in_their_order(tmp_path: Path) -> None:
    texts = [f"Question {number}\nof many?" for number in range(200)]
    table = of(texts, sampling={"n": 2, "max_tokens": 4}, spans={"rows": 32}, output=tmp_path / "out")
    assert table["prompt"].to_pylist() == [text for text in texts for _ in range(2)]
    assert table["sample"].to_pylist() == [0, 1] * 200
    assert set(table["status"].to_pylist()) == {"ok"}
    output = Output.open(str(tmp_path / "out"))
    assert len(output.plan.spans) > 4
    assert output.verify().problems == []
    assert table.to_pylist() == list(output.rows())


@pytest.mark.cluster
@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        (UserDict(row) for row in ROWS),
        [{**row, "number": np.int64(row["number"])} for row in ROWS],
        pa.Table.from_pylist(ROWS),
        pd.DataFrame(ROWS),
        datasets.Dataset.from_list(ROWS[::-1]).select(range(99, -1, -1)),
        Arrow(pa.Table.from_pylist(ROWS).cast(VIEWS)),
    ],
    ids=["mappings", "generator", "numpy", "pyarrow", "pandas", "datasets", "arrow"],
)
def test_mappings_and_tables_keep_their_columns_and_their_order(rows: Any) -> None:
    table = of(rows, input={"id": "name"})
    assert [{**row, "id": None} for row in table.select(["name", "prompt", "number"]).to_pylist()] == [
        {**row, "id": None} for row in ROWS
    ]
    assert table["id"].to_pylist() == [row["name"] for row in ROWS]
    assert None not in table["response"].to_pylist()


@pytest.mark.cluster
def test_a_frame_keeps_an_index_that_has_a_name_and_drops_another() -> None:
    frame = pd.DataFrame(ROWS)
    named = of(frame.set_index("name")[lambda rows: rows.number > 90])
    assert named["name"].to_pylist() == [f"row {number}" for number in range(91, 100)]
    plain = of(frame[frame.number > 90])
    assert not [name for name in plain.column_names if "index" in name]


@pytest.mark.cluster
def test_values_that_json_has_not_come_in_a_table() -> None:
    given = {"prompt": ["one"], "price": [Decimal("0.10")], "day": [pd.Timestamp("2026-12-01").date()]}
    assert of(pa.table(given)).select([*given]).to_pydict() == given


@pytest.mark.cluster
def test_failed_rows_are_rows_unless_limits_say_otherwise(tmp_path: Path) -> None:
    rows = [{"prompt": "fine"}, {"prompt": None}]
    table = of(rows)
    assert table["status"].to_pylist() == ["ok", "error"]
    assert table["error_code"].to_pylist() == [None, "input"]
    assert [row["status"] for row in of(rows, limits={"hours": 1}).to_pylist()] == ["ok", "error"]
    with pytest.raises(TooManyErrors):
        of(rows, limits={"errors": 0.1}, output=tmp_path)
    assert [row["status"] for row in Output.open(str(tmp_path)).rows()] == ["ok", "error"]


@pytest.mark.cluster
def test_an_output_is_resumed_by_the_same_rows_and_refuses_others(tmp_path: Path) -> None:
    meter = tmp_path / "meter"
    engine = {"kind": "echo", "options": {"meter": str(meter)}}
    fields: dict[str, Any] = {"quiet": True, "engine": engine, "output": {"path": str(tmp_path / "out")}}
    for rows in (ROWS, pa.Table.from_pylist(ROWS)):
        fields["output"] = {"path": str(tmp_path / type(rows).__name__)}
        first = batchgen.generate(rows, **fields)
        assert batchgen.generate(rows, **fields).equals(first)
        for others in (ROWS[:50], pa.Table.from_pylist(ROWS[:50]), ["one"]):
            with pytest.raises(OutputConflict, match="has answers to other rows"):
                batchgen.generate(others, **fields)
    assert meter.stat().st_size == 2 * len(ROWS), "each row is answered once"
    with pytest.raises(OutputConflict, match=r"sampling\.temperature"):
        batchgen.generate(ROWS, sampling={"temperature": 0.5}, **{**fields, "output": tmp_path / "list"})


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        ("Tell me about tea.", "a str; give a list of texts"),
        ({"prompt": ["one"]}, "a dict; give a list"),
        (None, "a NoneType; give a list"),
        ([], "rows: there are none"),
        (pa.table({"prompt": pa.array([], pa.string())}), "rows: there are none"),
        (["one", 2], r"rows\[1\]: a int; a row is a text"),
        ([{"prompt": "one", "day": pd.Timestamp("2026-12-01")}], r"rows\[0\]: a value of type Timestamp has no JSON; dates"),
        (["one", "\ud800"], r"rows\[1\]: .*surrogates"),
        (pd.DataFrame({"prompt": ["one", 2]}), "a DataFrame that Arrow cannot take"),
    ],
)
def test_rows_that_are_none_are_refused_by_name(rows: Any, cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        of(rows)


def test_mistakes_in_fields_are_those_of_a_job(tmp_path: Path) -> None:
    for fields, cause in (
        ({"samplng": {}}, "unknown field 'samplng', did you mean 'sampling'"),
        ({"sampling": {"temprature": 1}}, "did you mean 'temperature'"),
        ({"input": {"path": "x"}}, "input.path: the rows are the input"),
        ({"limits": 3}, "limits: expected a mapping"),
    ):
        with pytest.raises(JobError, match=cause):
            of(["one"], output=tmp_path / "out", **fields)
    with pytest.raises(JobError, match="needs a model"):
        batchgen.generate(["one"])
    assert not (tmp_path / "out").exists(), "nothing is written for a job that is none"


@pytest.mark.cluster
def test_rows_whose_job_did_not_begin_may_be_given_again_otherwise(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no column 'prompt'"):
        of([{"question": "one"}], output=tmp_path, input={"prompt": "prompt"})
    assert of([{"question": "two"}], output=tmp_path)["question"].to_pylist() == ["two"]


@pytest.mark.cluster
def test_in_a_running_loop_and_in_threads() -> None:
    async def notebook() -> pa.Table:
        return of(["in a loop"])

    async def service() -> list[pa.Table]:
        return await asyncio.gather(*(asyncio.to_thread(of, [f"thread {number}"]) for number in range(2)))

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert asyncio.run(notebook())["prompt"].to_pylist() == ["in a loop"]
    assert [table["prompt"].to_pylist() for table in asyncio.run(service())] == [["thread 0"], ["thread 1"]]
    with pytest.raises(JobError, match="sampling"):
        asyncio.run(asyncio.to_thread(of, ["one"], sampling={"top": 1}))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


THREADS = """
import batchgen, threading
def call(number):
    table = batchgen.generate([f"thread {number}"], engine={"kind": "echo"}, quiet=True)
    print(table["prompt"].to_pylist(), flush=True)
threads = [threading.Thread(target=call, args=(number,)) for number in range(2)]
[one.start() for one in threads]
[one.join() for one in threads]
"""


@pytest.mark.cluster(own=True)
def test_two_threads_have_a_ray_one_after_the_other() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=False)
    assert sorted(done.stdout.splitlines()) == ["['thread 0']", "['thread 1']"], done.stderr


@pytest.mark.parametrize("in_loop", [False, True])
def test_ctrl_c_asks_a_call_in_a_thread_to_stop_and_waits_for_its_end(in_loop: bool) -> None:
    """In a loop of asyncio.run too, whose own handler of SIGINT raises nothing."""
    before, ended = signal.getsignal(signal.SIGINT), list[bool]()

    def call(stopping: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while not stopping():
            threading.Event().wait(0.01)
        ended.append(True)

    async def call_in_loop() -> None:
        in_thread(call)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(call_in_loop()) if in_loop else in_thread(call)
    assert ended == [True]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_call_in_a_thread_returns_and_raises_as_it_does_here() -> None:
    assert in_thread(lambda stopping: stopping()) is False
    with pytest.raises(ZeroDivisionError):
        in_thread(lambda stopping: 1 / 0)


LOOP = """
import asyncio, sys, batchgen
async def main():
    table = batchgen.generate([f"row {i}" for i in range(64)],
        engine={"kind": "echo", "options": dict(latency=1, max_num_seqs=4)},
        spans={"rows": 4}, output=sys.argv[1])
    print(table.num_rows)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    sys.exit("it was interrupted")
"""


@pytest.mark.cluster(own=True)
def test_ctrl_c_in_a_loop_drains_and_the_same_call_resumes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOOP, str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        hear(first, " ok, ")
        first.send_signal(signal.SIGINT)
        heard = first.communicate()[1]
    assert first.returncode == 1, heard
    assert "interrupted: finishing what is running" in heard
    assert heard.endswith("it was interrupted\n")
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.stdout == "64\n", again.stderr
    assert Output.open(str(tmp_path / "out")).verify().problems == []


SNIPPET = """
import batchgen
from batchgen import BatchgenError, Job, Output, TooManyErrors, generate, run

table = batchgen.generate(["one"], model="m", sampling={"temperature": 0}, engine={"kind": "echo"})
table = generate([{"prompt": "one", "number": 1}], quiet=True)
try:
    status = run("job.yaml")
    status = batchgen.run({"input": "in.jsonl", "output": "out"})
    status = batchgen.run(Job.load("job.yaml"), quiet=True)
except TooManyErrors as error:
    code: int = error.exit_code
except BatchgenError as error:
    print(error.exit_code)
for row in Output.open(str(status["output"])).rows():
    print(row["response"])
problems: list[str] = Output.open("out").verify().problems
run(3)
generate([3])
generate(["one"], model=3)
"""


def test_a_users_code_is_checked_by_its_types(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(SNIPPET)
    environment = {**os.environ, "MYPYPATH": str(Path(batchgen.__file__).parents[1])}
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--follow-imports", "silent", "snippet.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    wrong = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(wrong) == 3, done.stdout + done.stderr
    at = SNIPPET.splitlines().index("run(3)") + 1
    assert [int(line.split(":")[1]) for line in wrong] == [at, at + 1, at + 2]


def test_calls_of_two_threads_may_read_their_rows_at_once() -> None:
    with ThreadPoolExecutor(2) as pool, pytest.raises(InputError):
        [*pool.map(of, [[], []])]
