"""`token_logprobs`: the tokens of an answer with their log-probabilities, from an engine into the output and out of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen import logprobs
from batchgen.export.files import EXPORTS, export
from batchgen.job.job import Job
from batchgen.output.output import Output
from tests.support.finished import Finished
from tests.support.jobs import fields, refusal
from tests.support.replicas import answered, blocks, part_bytes, prepared, ran, replica

ANSWER = logprobs.of_answer([(7, "a", -0.5, [(7, "a", -0.5), (8, "b", -1.0)]), (9, None, -2.0, [])])
FIRST = {"token_id": 7, "token": "a", "logprob": -0.5}
SECOND = {"token_id": 8, "token": "b", "logprob": -1.0}
LISTED: list[dict[str, Any]] = [
    {**FIRST, "top": [FIRST, SECOND]},
    {"token_id": 9, "token": None, "logprob": -2.0, "top": []},
]


def wanted(folder: Path) -> dict[str, Any]:
    return {"path": str(folder / "out"), "token_logprobs": True}


def joined(row: dict[str, Any]) -> str:
    return "".join(token["token"] for token in row["token_logprobs"])


def test_a_column_has_a_list_for_each_answer_and_null_where_there_is_none() -> None:
    made = logprobs.column([None, ANSWER, ANSWER.slice(1), logprobs.of_answer([])])
    assert made.type == logprobs.TYPE
    assert made.to_pylist() == [None, LISTED, LISTED[1:], []]
    assert logprobs.column([]).type == logprobs.column([None]).type == logprobs.TYPE


def test_the_type_is_a_list_of_tokens_with_their_alternatives() -> None:
    token = [("token_id", pa.int32()), ("token", pa.string()), ("logprob", pa.float32())]
    assert pa.list_(pa.struct([*token, ("top", pa.list_(pa.struct(token)))])) == logprobs.TYPE


@pytest.mark.parametrize("sampling", [{}, {"logprobs": None}])
def test_a_job_that_wants_them_without_logprobs_is_refused(sampling: dict[str, Any]) -> None:
    message = refusal(fields(output={"token_logprobs": True}, sampling=sampling))
    assert message == "job: output.token_logprobs: set sampling.logprobs, to 0 or to how many alternatives each token has"


@pytest.mark.parametrize("entry", [0, 20, {"column": "n"}])
def test_logprobs_of_any_number_or_from_a_column_are_enough(entry: Any) -> None:
    assert Job.parse(fields(output={"token_logprobs": True}, sampling={"logprobs": entry})).output.token_logprobs


def test_each_word_of_echo_has_its_logprob_and_other_words_beside_it(tmp_path: Path) -> None:
    sampling = {"logprobs": 3, "max_tokens": 9, "ignore_eos": True}
    rows, _ = answered(tmp_path, [{"prompt": "one two three"}], output=wanted(tmp_path), sampling=sampling)
    [row] = rows
    tokens, each = row["token_logprobs"], float(np.float32(-math.log(4)))  # one of them is the role
    assert list(row)[list(row).index("cumulative_logprob") + 1] == "token_logprobs"
    assert len(tokens) == row["completion_tokens"] == 9
    assert joined(row) == row["response"]
    assert {(token["token_id"], token["logprob"]) for token in tokens} == {(None, each)}
    assert sum(token["logprob"] for token in tokens) == pytest.approx(row["cumulative_logprob"])
    for token in tokens:
        assert token["top"][0] == {key: token[key] for key in ("token_id", "token", "logprob")}
        assert len({other["token"] for other in token["top"]}) == 3
        assert {other["token"].strip() for other in token["top"]} <= {"user", "one", "two", "three"}


def test_white_space_that_a_stop_string_leaves_belongs_to_the_last_word(tmp_path: Path) -> None:
    sampling = {"logprobs": 0, "stop": ["b"], "max_tokens": 50, "ignore_eos": True, "temperature": 0}
    rows, _ = answered(tmp_path, [{"prompt": f"a {n} b"} for n in range(9)], output=wanted(tmp_path), sampling=sampling)
    assert {row["response"][-1:] for row in rows} == {"", " "}
    for row in rows:
        assert joined(row) == row["response"]
        assert len(row["token_logprobs"]) == row["completion_tokens"]


def test_a_choice_of_echo_has_logprobs_too(tmp_path: Path) -> None:
    sampling = {"structured_outputs": {"choice": ["very good", "bad"]}, "logprobs": 1}
    rows, _ = answered(tmp_path, [{"prompt": "a"}], output=wanted(tmp_path), sampling=sampling)
    [row] = rows
    assert row["cumulative_logprob"] == -math.log(3) * row["completion_tokens"]
    assert joined(row) == row["response"]


def test_a_row_without_logprobs_and_a_failed_one_have_null(tmp_path: Path) -> None:
    prompts = [{"prompt": "a", "n": 0}, {"prompt": "a", "n": None}, {"prompt": "a", "n": 99}, {"prompt": "a", "n": 2}]
    rows, _ = answered(tmp_path, prompts, output=wanted(tmp_path), sampling={"logprobs": {"column": "n"}}, limits={"errors": 1})
    assert [row["status"] for row in rows] == ["ok", "ok", "error", "ok"]
    assert [row["token_logprobs"] is None for row in rows] == [False, True, True, False]
    assert [{len(token["top"]) for token in row["token_logprobs"]} for row in rows[::3]] == [{0}, {2}]


def test_without_the_field_there_is_no_column_and_no_list(tmp_path: Path) -> None:
    made = prepared(tmp_path, [{"prompt": "a"}], sampling={"logprobs": 2})
    worker = replica(made)
    receipt = ran(worker, blocks(made)[0])
    table = pq.read_table(pa.BufferReader(part_bytes(made, receipt)))
    assert "token_logprobs" not in table.schema.names
    assert table["cumulative_logprob"][0].as_py() < 0


def test_of_several_turns_the_tokens_are_those_of_the_last_answer(tmp_path: Path) -> None:
    source = {"path": str(tmp_path / "in.jsonl"), "turns": "t"}
    rows, _ = answered(
        tmp_path, [{"t": ["a b c", "d e"]}], input=source, output=wanted(tmp_path), sampling={"logprobs": 0, "n": 2}
    )
    for row in rows:
        assert joined(row) == row["response"] == row["messages"][-1]["content"]
        assert len(row["token_logprobs"]) < row["completion_tokens"]


@pytest.fixture
def output(tmp_path: Path) -> Finished:
    prompts = [{"prompt": f"row {n}" + (" forbidden" if n % 5 == 0 else "")} for n in range(10)]
    return Finished(tmp_path, [json.dumps(row) for row in prompts], output=wanted(tmp_path), sampling={"n": 2, "logprobs": 1})


def test_a_retried_row_has_its_tokens_and_the_output_is_proven(output: Finished) -> None:
    assert {row["token_logprobs"] is None for row in output.rows(status="error")} == {True}
    output.mend()
    assert (output.retry(), output.run()) == (4, 4)
    rows = output.rows(status="ok")
    assert len(rows) == 20
    assert [joined(row) for row in rows] == [row["response"] for row in rows]
    assert Output.open(output.store).verify().problems == []


def test_a_part_without_the_column_is_not_this_jobs(output: Finished) -> None:
    name = next(iter(output.store.list("data")))
    table = pq.read_table(pa.BufferReader(output.store.get(name))).drop_columns(["token_logprobs"])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    output.store.put(name, sink.getvalue().to_pybytes())
    assert {problem.partition(": ")[0] for problem in Output.open(output.store).verify().problems} == {name}


def test_the_column_is_exported_as_it_is_and_in_openais_format(output: Finished, tmp_path: Path) -> None:
    export(Output.open(output.store), EXPORTS.named("jsonl"), tmp_path / "to")
    rows = [json.loads(line) for line in (tmp_path / "to/rows.jsonl").read_text().splitlines()]
    answers = {(row["row"], row["sample"]): row for row in rows if row["status"] == "ok"}
    stored = output.rows(status="ok")
    for row in stored:
        exported = answers[row["row"], row["sample"]]["token_logprobs"]
        assert [token["token"] for token in exported] == [token["token"] for token in row["token_logprobs"]]
    export(Output.open(output.store), EXPORTS.named("openai"), tmp_path / "to")
    lines = [json.loads(line) for line in (tmp_path / "to/output.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    for line in lines:
        for choice in line["response"]["body"]["choices"]:
            row = answers[int(line["custom_id"]), choice["index"]]
            first = row["token_logprobs"][0]
            told = {"token": first["token"], "logprob": first["logprob"], "bytes": list(first["token"].encode())}
            assert choice["logprobs"]["content"][0] == {**told, "top_logprobs": [told]}
            assert len(choice["logprobs"]["content"]) == row["completion_tokens"]
            assert choice["logprobs"]["refusal"] is None
