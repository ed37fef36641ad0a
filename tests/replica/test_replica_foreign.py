"""The replica's boundary: whatever an engine or a task raises or returns is the error of its row, and of no other."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from batchgen.engines.base import Request
from batchgen.engines.restarting import RestartingEngine
from batchgen.errors import BadRow
from batchgen.records import Answer, Completion, Prompt
from batchgen.tasks.generate import Generation
from tests.support.replicas import Backwards, blocks, part_bytes, prepared, ran, replica

OK = Answer("fine", 1, "stop")
Act = Callable[[], Any]


class PanicException(BaseException):
    """As pyo3 raises for a panic in Rust: no Exception."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Odd(Backwards):
    """An engine that acts on a prompt with `odd` in it, and answers the others, later."""

    def __init__(self, act: Act) -> None:
        super().__init__(8)
        self.act = act

    async def probe(self) -> None: ...

    async def generate(self, request: Request) -> list[Answer]:
        await asyncio.sleep(0)
        if "odd" in bytes(request.token_ids).decode():
            answers: list[Answer] = self.act()
            return answers
        await asyncio.sleep(0.01)
        return [OK] * request.sampling.n


def raises(error: BaseException) -> Act:
    def act() -> Any:
        raise error

    return act


def gives(answers: Any) -> Act:
    return lambda: answers


def rows_of(folder: Path, act: Act, task: bool = False, guarded: bool = False, **fields: Any) -> list[dict[str, Any]]:
    """The rows of the part of a span of three prompts, whose second one is odd; where `task`, to the task and not the engine."""
    made = prepared(folder, [{"prompt": "first"}, {"prompt": "odd"}, {"prompt": "last"}], **fields)
    engine: Any = Odd(gives([OK]) if task else act)
    worker = replica(made, RestartingEngine(lambda: engine, 60, 60) if guarded else engine)
    if task:
        worker._task = OddTask(worker.renderer, engine, act)
    receipt = ran(worker, blocks(made)[0])
    assert receipt.counts.rows == 3
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(part_bytes(made, receipt))).to_pylist()
    return rows


class OddTask(Generation):
    def __init__(self, renderer: Any, engine: Any, act: Act) -> None:
        super().__init__(renderer, engine)
        self.act = act

    async def complete(self, index: int, prompt: Prompt, priority: int) -> list[Completion]:
        made = await super().complete(index, prompt, priority)
        if "odd" not in bytes(prompt.token_ids).decode():
            return made
        acted = self.act()
        return [dataclasses.replace(made[0], **acted)] if isinstance(acted, dict) else acted


RAISED = [
    ValueError("a value"),
    KeyError("key"),
    RecursionError("too deep"),
    MemoryError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    TimeoutError("the engine's own"),
    StopAsyncIteration(),
    OSError(28, "No space left"),
    ExceptionGroup("several", [ValueError("inner")]),
    PanicException("called unwrap on None"),
    BaseExceptionGroup("several", [PanicException("inner")]),
    Unspeakable(),
    ValueError("half \ud83d of a pair"),
]


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("error", RAISED, ids=[f"{number}-{type(error).__name__}" for number, error in enumerate(RAISED)])
def test_what_an_engine_raises_is_the_error_of_its_row(
    error: BaseException, guarded: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "batchgen.replica"):
        rows = rows_of(tmp_path, raises(error), guarded=guarded)
    assert [row["error_code"] for row in rows] == [None, "internal", None]
    assert rows[1]["error_detail"].startswith(f"{tmp_path}/in.jsonl:2: {type(error).__name__}: ")
    assert "in generate" in caplog.text, "the log has the traceback"


@pytest.mark.parametrize("error", RAISED, ids=[f"{number}-{type(error).__name__}" for number, error in enumerate(RAISED)])
def test_what_a_task_raises_is_the_error_of_its_row(error: BaseException, tmp_path: Path) -> None:
    assert [row["error_code"] for row in rows_of(tmp_path, raises(error), task=True)] == [None, "internal", None]


def test_a_bad_row_that_a_task_does_not_catch_keeps_its_code(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, raises(BadRow("parse", "no number")), task=True)
    assert [row["error_code"] for row in rows] == [None, "parse", None]
    assert rows[1]["error_detail"] == f"{tmp_path}/in.jsonl:2: no number"


def answer(**changes: Any) -> list[Answer]:
    return [dataclasses.replace(OK, **changes)]


RETURNED = {
    "None": None,
    "no answer": [],
    "too many": [OK, OK],
    "a tuple": (OK,),
    "a text": "fine",
    "a list of texts": ["fine"],
    "a list of None": [None],
    "bytes": answer(text=b"fine"),
    "no text": answer(text=None),
    "a number": answer(text=7),
    "half a pair": answer(text="a \ud83d b"),
    "half a pair as reason": answer(finish_reason="\udc80"),
    "no reason": answer(finish_reason=None),
    "negative tokens": answer(tokens=-1),
    "bool tokens": answer(tokens=True),
    "huge tokens": answer(tokens=2**70),
    "tokens over 32 bits": answer(tokens=2**31),
    "NaN tokens": answer(tokens=math.nan),
    "float tokens": answer(tokens=1.0),
    "no tokens": answer(tokens=None),
    "tokens as text": answer(tokens="1"),
    "negative prompt tokens": answer(prompt_tokens=-1),
    "bool prompt tokens": answer(prompt_tokens=False),
    "negative cached tokens": answer(cached_tokens=-5),
    "huge cached tokens": answer(cached_tokens=2**70),
    "NaN logprob": answer(cumulative_logprob=math.nan),
    "infinite logprob": answer(cumulative_logprob=math.inf),
    "logprob as text": answer(cumulative_logprob="-1"),
    "huge logprob": answer(cumulative_logprob=10**400),
    "token logprobs of another shape": answer(token_logprobs=[1.0]),
}


@pytest.mark.parametrize("returned", RETURNED.values(), ids=RETURNED)
def test_what_is_no_answer_is_the_error_of_its_row(returned: Any, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, gives(returned), sampling={"logprobs": 1}, output={"path": str(tmp_path / "out")})
    assert [row["error_code"] for row in rows] == [None, "engine_rejected", None]
    assert rows[1]["error_detail"].startswith(f"{tmp_path}/in.jsonl:2: the engine")
    assert (rows[1]["response"], rows[1]["prompt_tokens"], rows[1]["completion_tokens"]) == (None, 0, 0)


def test_an_answer_without_any_likelihood_is_one(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, gives(answer(cumulative_logprob=-math.inf)))
    assert [row["error_code"] for row in rows] == [None, None, None]


MADE: dict[str, Any] = {
    "None": None,
    "nothing": [],
    "texts": ["fine"],
    "another prompt": {"prompt": 0},
    "another sample": {"sample": 1},
    "bytes": {"response": b"\xff"},
    "half a pair": {"response": "\ud83d"},
    "half a pair in messages": {"messages": ({"role": "user", "content": "\ud83d"},)},
    "negative tokens": {"completion_tokens": -1},
    "bool tokens": {"prompt_tokens": True},
    "huge tokens": {"completion_tokens": 2**70},
    "NaN tokens": {"completion_tokens": math.nan},
    "seconds as text": {"seconds": "long"},
    "token logprobs of another shape": {"token_logprobs": [1.0]},
}


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
@pytest.mark.parametrize("journaled", [False, True])
def test_what_is_no_completion_is_the_error_of_its_row(made: Any, journaled: bool, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"sampling": {"logprobs": 1}, "output": {"path": str(tmp_path / "out"), "token_logprobs": True}}
    if journaled:
        fields["spans"] = {"journal_seconds": 0.001}
    rows = rows_of(tmp_path, gives(made), task=True, **fields)
    assert [row["error_code"] for row in rows] == [None, "internal", None]


@pytest.mark.parametrize("stop", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("task", [False, True])
def test_what_stops_a_process_stops_the_replica(stop: type[BaseException], task: bool, tmp_path: Path) -> None:
    with pytest.raises(stop):
        rows_of(tmp_path, raises(stop()), task)
    assert not list(tmp_path.glob("out/data/*"))
