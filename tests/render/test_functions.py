"""Functions that a job names: found, refused by name, run where a row is read and where an answer is."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import batchgen
from batchgen import EngineError, JobError, Output, OutputConflict
from batchgen.errors import BadRow
from batchgen.job.job import Job
from batchgen.output.store import open_store
from batchgen.prepare import prepare
from batchgen.render.safe import functions
from batchgen.render.safe.functions import RowFunction
from tests.support.commands import in_process
from tests.support.finished import run_here

MODULE = """
import dataclasses, time

@dataclasses.dataclass
class Score:
    words: int

def clean(row):
    if row["question"] == "no":
        return None
    if row["question"] == "list":
        return [row]
    row["prompt"] = row["question"].strip().upper() + f" ({row.get('level')})"
    row["verbosity"] = row["level"]
    return row

def grade(row):
    score = Score(len(row["response"].split()))
    return {"words": score.words, "right": row["gold"] in row["messages"][0]["content"], "extra": 1}

def fail(row):
    return {"words": 1 / (row["gold"] != "THREE"), "right": True}

def leave(row):
    raise SystemExit("bye")

def slow(row):
    while True:
        time.sleep(0.01)

def odd(row):
    return {"words": "many", "right": True}

number = 3
"""
ROWS = [{"question": f" {word} ", "gold": word.upper(), "level": 2} for word in ("one", "two", "three")]
COLUMNS = {"words": "integer", "right": "boolean"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a module and rows in it. It is not on sys.path, as for the console script."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rows.py").write_text(MODULE)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.delitem(sys.modules, "my_rows", raising=False)
    return tmp_path


def fields(before: str | None = "my_rows:clean", after: str | None = None, **others: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"input": {"path": "in.jsonl", "prompt": "prompt", "before": before}, "engine": {"kind": "echo"}}
    parse = {"parse": {"after": after, "columns": COLUMNS}} if after else {}
    return {**made, **parse, "output": "out", "limits": {"errors": 1}, **others}


def answered(**given: Any) -> list[dict[str, Any]]:
    job = Job.parse(fields(**given))
    store = open_store(job.output.path)
    run_here(prepare(job, store), store)
    return list(Output.open(store).rows())


def test_a_row_is_made_by_the_function_and_the_output_carries_what_was_read(folder: Path) -> None:
    rows = answered(attributes={"schema": "karakuri"})
    assert [row["messages"][0]["content"] for row in rows] == ["ONE (2)", "TWO (2)", "THREE (2)"]
    assert [row["question"] for row in rows] == [" one ", " two ", " three "]
    assert {row["attributes"]["verbosity"] for row in rows} == {2}
    assert "prompt" not in rows[0]


def test_a_table_gives_the_function_the_columns_that_are_kept(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{**row, "other": 1} for row in ROWS]), folder / "in.parquet")
    source = {"path": "in.parquet", "prompt": "prompt", "before": "my_rows:clean", "keep": ["question", "level"]}
    rows = answered(input=source)
    assert [row["messages"][0]["content"] for row in rows] == ["ONE (2)", "TWO (2)", "THREE (2)"]


def test_an_answer_gets_typed_columns_by_the_function(folder: Path) -> None:
    rows = answered(after="my_rows:grade", sampling={"n": 2, "max_tokens": 5})
    assert [row["parsed"] for row in rows] == [{"words": len(row["response"].split()), "right": True} for row in rows]
    assert len(rows) == 6


@pytest.mark.parametrize(
    ("after", "failed", "cause"),
    [
        ("my_rows:fail", 1, "in.jsonl:3: my_rows:fail (line 22): ZeroDivisionError: division by zero"),
        ("my_rows:leave", 3, "in.jsonl:1: my_rows:leave (line 25): SystemExit: bye"),
        ("my_rows:slow", 3, "in.jsonl:1: my_rows:slow: not done after 0.1 s"),
        ("my_rows:odd", 3, "in.jsonl:1: words: 'many' is no integer"),
        ("my_rows:clean", 3, "in.jsonl:1: what my_rows:clean returned has no words"),
    ],
)
def test_what_a_function_of_answers_raises_is_the_rows_error_and_the_answer_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch, after: str, failed: int, cause: str
) -> None:
    monkeypatch.setattr(functions, "SECONDS_CAP", 0.1)
    rows = answered(after=after)
    bad = [row for row in rows if row["status"] == "error"]
    assert len(bad) == failed
    assert (bad[0]["error_code"], bad[0]["error_detail"]) == ("parse", cause)
    assert all(row["response"] for row in rows)


def test_what_a_function_of_rows_raises_is_the_rows_error(folder: Path) -> None:
    lines = ['{"question": "no"}', '{"question": "list"}', '{"question": 3}', '{"question": "fine", "level": 1}', '{"level": 1}']
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    assert [row["error_detail"] for row in answered()] == [
        "in.jsonl:1: my_rows:clean: it returned None",
        "in.jsonl:2: my_rows:clean: it returned a list, not a dict of column to value",
        "in.jsonl:3: my_rows:clean (line 13): AttributeError: 'int' object has no attribute 'strip'",
        None,
        "in.jsonl:5: my_rows:clean (line 9): KeyError: 'question'",
    ]


def test_a_failed_answer_is_tried_again_as_errors_says(folder: Path) -> None:
    rows = answered(after="my_rows:fail", errors={"parse": {"retry": 2}})
    assert [row["attempt"] for row in rows] == [1, 1, 3]


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("my_rows:cleen", "no function 'cleen' in "),
        ("my_rows:number", "no function 'number' in "),
        ("no_rows:clean", "no module 'no_rows'"),
        ("no.rows:clean", r"no module 'no\.rows'"),
        ("broken:clean", "ModuleNotFoundError: No module named 'nowhere'"),
        ("wrong:clean", "SyntaxError: "),
        ("math:floor", "has no source file"),
    ],
)
def test_a_function_that_is_none_is_refused_before_anything_is_written(folder: Path, name: str, cause: str) -> None:
    (folder / "broken.py").write_text("import nowhere\n")
    (folder / "wrong.py").write_text("def (\n")
    with pytest.raises(JobError, match=rf"input\.before {name}: .*{cause}"):
        answered(before=name)
    with pytest.raises(JobError, match=rf"parse\.after {name}: .*{cause}"):
        answered(after=name)
    assert not (folder / "out").exists()
    assert "broken" not in sys.modules


@pytest.mark.parametrize("name", ["my_rows", "my_rows.clean", "my_rows:", ":clean", "my rows:clean", "my_rows:a.b", "../x:y"])
def test_a_name_is_module_and_function(name: str) -> None:
    with pytest.raises(JobError, match=r"input\.before"):
        Job.parse(fields(before=name))


def test_a_parse_has_one_source_and_names_its_columns() -> None:
    with pytest.raises(JobError, match="regex and after both make the columns"):
        Job.parse(fields(parse={"after": "a:b", "regex": "(?P<x>.)"}))
    with pytest.raises(JobError, match="name the columns that a:b returns"):
        Job.parse(fields(parse={"after": "a:b"}))


def test_an_edited_function_under_an_output_is_refused_by_name(folder: Path) -> None:
    answered(after="my_rows:grade")
    answered(after="my_rows:grade")
    (folder / "my_rows.py").write_text(MODULE.replace("upper", "lower"))
    with pytest.raises(OutputConflict, match=r"(?s)input\.before\.source: 'my_rows\.py, sha256 .*parse\.after\.source: "):
        answered(after="my_rows:grade")
    (folder / "my_rows.py").write_text(MODULE)
    with pytest.raises(OutputConflict, match=r"parse\.after\.source: 'my_rows\.py, sha256 [0-9a-f]+' there, None"):
        answered()
    answered(after="my_rows:grade")


def test_a_function_travels_as_source_and_its_module_may_be_in_a_package(folder: Path) -> None:
    (folder / "pack/inner").mkdir(parents=True)
    (folder / "pack/__init__.py").write_text("")
    (folder / "pack/inner/__init__.py").write_text("def whole(row): return {**row, 'name': __name__}\n")
    found = RowFunction.find("input.before", "pack.inner:whole")
    code = "import pickle, sys; f = pickle.loads(sys.stdin.buffer.read()); print(f({'a': 1}, 'input'))"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(Path(batchgen.__file__).parents[1])}
    done = subprocess.run(command, input=pickle.dumps(found), cwd="/", env=environment, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "{'a': 1, 'name': 'pack.inner'}"


@pytest.mark.parametrize("field", ["before", "after"])
def test_a_node_without_what_a_module_imports_is_named_as_such(folder: Path, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    monkeypatch.syspath_prepend(str(folder))
    (folder / "beside.py").write_text("")
    (folder / "importing.py").write_text("import beside\n" + MODULE)
    names = {"before": None, "after": None, field: f"importing:{'clean' if field == 'before' else 'grade'}"}
    job = Job.parse(fields(**names, input={"path": "in.jsonl", "prompt": "question", "before": names["before"]}))
    store = open_store(job.output.path)
    prepared = prepare(job, store)
    (folder / "beside.py").unlink()
    functions._run.cache_clear()
    for name in ("beside", "importing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    with pytest.raises(EngineError, match=r"importing:\w+: ModuleNotFoundError: No module named 'beside', on this node; what"):
        run_here(prepared, store)


def test_a_call_costs_little(folder: Path) -> None:
    found, row = RowFunction.find("parse.after", "my_rows:grade"), {"response": "a", "gold": "b", "messages": [{"content": "c"}]}
    began = time.process_time()
    for _ in range(1000):
        found(row, "parse")
    assert time.process_time() - began < 1, "1 ms a row"
    with pytest.raises(BadRow, match="KeyError: 'response'"):
        found({}, "parse")


def test_a_stored_function_is_not_run_without_a_word(folder: Path) -> None:
    answered(after="my_rows:fail")
    done = in_process(folder, "retry", "out", "--where", "error_code=parse")
    assert done.returncode == 2
    assert "  input.before: 'my_rows:clean'\n  parse.after: 'my_rows:fail'\n" in done.stderr


@pytest.mark.cluster
def test_functions_run_on_workers(folder: Path) -> None:
    table = batchgen.generate(
        ROWS,
        input={"prompt": "prompt", "before": "my_rows:clean"},
        parse={"after": "my_rows:grade", "columns": COLUMNS},
        engine={"kind": "echo"},
        quiet=True,
    )
    assert [row["right"] for row in table["parsed"].to_pylist()] == [True, True, True]
