"""OpenAI's batch files: every request under its own custom_id, errors in OpenAI's own shape, no path in an id."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchgen.engines import echo
from batchgen.errors import VerifyError
from batchgen.export import files, openai
from batchgen.export.files import EXPORTS
from batchgen.output.output import Output
from tests.support.finished import Finished


def exported(output: Finished, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    files.export(output.output, EXPORTS.named("openai"), folder)
    answers, errors = ((folder / name).read_text().splitlines() for name in ("output.jsonl", "errors.jsonl"))
    return [json.loads(line) for line in answers], [json.loads(line) for line in errors]


def made(folder: Path, lines: list[dict[str, Any]], **fields: Any) -> Finished:
    spec = {"path": str(folder / "in.jsonl"), "prompt": "prompt", "id": "id"}
    texts = [json.dumps(line) for line in lines]
    return Finished(folder, texts, **{"input": spec, "sampling": {}, "limits": {"errors": 1}, **fields})


def test_every_line_has_its_own_custom_id_and_one_without_has_none_of_the_others(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "prompt": "forbidden"},
        {"id": None, "prompt": "forbidden"},
        {"prompt": "forbidden"},
        {"id": "0", "prompt": "x"},
    ]
    answers, errors = exported(made(tmp_path, rows), tmp_path / "to")
    assert [line["custom_id"] for line in answers] == ["0"]
    first, *nameless = [line["custom_id"] for line in errors]
    assert first == "1"
    assert [name.startswith("no-custom-id-") for name in nameless] == [True, True]
    assert len({first, *nameless, "0", "1", "2", "3"}) == 6


def test_a_line_cannot_take_the_name_of_one_without(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    rows = [{"prompt": "x"}, {"id": "later", "prompt": "y"}]
    answers, _ = exported(made(tmp_path / "a", rows), tmp_path / "a/to")
    [name] = [line["custom_id"] for line in answers if line["custom_id"] != "later"]
    answers, _ = exported(made(tmp_path / "b", [rows[0], {"id": name, "prompt": "y"}]), tmp_path / "b/to")
    assert len({line["custom_id"] for line in answers}) == 2


def test_variants_of_a_row_and_other_rows_are_never_called_the_same(tmp_path: Path) -> None:
    rows = [{"id": name, "prompt": "x"} for name in ("a", "a-0", "a-1")]
    sweep = {"schema": "karakuri", "sweep": {"verbosity": [0, 4]}}
    answers, _ = exported(made(tmp_path, rows, attributes=sweep), tmp_path / "to")
    assert sorted(line["custom_id"] for line in answers) == ["a-0", "a-0-0", "a-0-1", "a-1", "a-1-0", "a-1-1"]


def test_rows_of_a_job_without_ids_are_called_by_file_and_row(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for shard in range(2):
        (tmp_path / f"in/{shard}.jsonl").write_text('{"prompt": "x"}\n{"prompt": "y"}\n')
    output = Finished(tmp_path, input={"path": str(tmp_path / "in"), "prompt": "prompt"}, sampling={})
    answers, _ = exported(output, tmp_path / "to")
    assert [line["custom_id"] for line in answers] == ["0", "1", "1-0", "1-1"]


def test_no_path_is_in_any_id(tmp_path: Path) -> None:
    rows = [{"id": "1", "prompt": "x"}, {"id": "2", "prompt": "forbidden"}]
    answers, errors = exported(made(tmp_path, rows), tmp_path / "to")
    ids = [value for line in (*answers, *errors) for value in (line["id"], line["custom_id"], line["response"]["request_id"])]
    ids += [line["response"]["body"]["id"] for line in answers]
    assert not [one for one in ids if "/" in one]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("code", "refused"), [("engine_rejected", True), ("timeout", False), ("engine_crash", False), ("internal", False)]
)
def test_errors_are_in_openais_own_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, refused: bool) -> None:
    from batchgen.errors import BadRow

    async def fail(*_: object) -> None:
        if code == "internal":
            raise ZeroDivisionError("no")
        raise BadRow(code, "no")  # type: ignore[arg-type]

    monkeypatch.setattr(echo.EchoEngine, "generate", fail)
    _, [error] = exported(made(tmp_path, [{"id": "1", "prompt": "x"}]), tmp_path / "to")
    assert error["custom_id"] == "1"
    if not refused:
        assert error["response"] is None
        assert set(error["error"]) == {"code", "message"}
        assert error["error"]["code"] == {"timeout": "request_timeout"}.get(code, code)
        return
    assert (error["error"], error["response"]["status_code"]) == (None, 400)
    inner = error["response"]["body"]["error"]
    assert (inner["type"], inner["code"], inner["param"]) == ("invalid_request_error", code, None)
    assert inner["message"].endswith("no")


def test_a_row_of_a_shard_that_the_plan_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = made(tmp_path, [{"id": "1", "prompt": "x"}])
    kept: Callable[[Output], Any] = Output.tables
    monkeypatch.setattr(Output, "tables", lambda self: (t.set_column(1, "shard", [["other"] * len(t)]) for t in kept(self)))
    with pytest.raises(VerifyError, match="row 0 is of shard other, which the plan does not have; run batchgen verify"):
        files.export(output.output, EXPORTS.named("openai"), tmp_path / "to")


def request(name: str, text: str = "x", **body: Any) -> dict[str, Any]:
    return {"custom_id": name, "body": {"model": "m", "messages": [{"role": "user", "content": text}], **body}}


def batch(folder: Path, lines: list[dict[str, Any]], **fields: Any) -> Finished:
    return made(folder, lines, **{"input": {"path": str(folder / "in.jsonl"), "format": "openai-batch"}, **fields})


@pytest.mark.parametrize("wanted", [True, False])
def test_the_logprobs_that_a_request_asks_for_are_in_its_result(tmp_path: Path, wanted: bool) -> None:
    lines = [request("1", logprobs=True, top_logprobs=2, max_tokens=3), request("2", logprobs=True), request("3")]
    output = batch(tmp_path, lines, output={"path": str(tmp_path / "out"), "token_logprobs": wanted})
    answers, _ = exported(output, tmp_path / "to")
    choices = [answer["response"]["body"]["choices"][0] for answer in answers]
    if not wanted:
        assert [choice["logprobs"] for choice in choices] == [None] * 3
        return
    assert [choice["logprobs"] is None for choice in choices] == [False, False, True]
    for choice, most in zip(choices, (2, 0), strict=False):
        content = choice["logprobs"]["content"]
        assert set(choice["logprobs"]) == {"content", "refusal"}
        assert "".join(token["token"] for token in content) == choice["message"]["content"]
        assert {len(token["top_logprobs"]) for token in content} == {most}
        for one in (*content, *(other for token in content for other in token["top_logprobs"])):
            assert bytes(one["bytes"]).decode() == one["token"]
            assert one["logprob"] == pytest.approx(-math.log(2))  # the words are the role and "x"
        assert set(content[0]) == {"token", "logprob", "bytes", "top_logprobs"}


def test_a_result_line_is_openais_and_n_answers_are_its_choices(tmp_path: Path) -> None:
    output = batch(tmp_path, [request("1", n=3, max_tokens=2, logit_bias={"9": 5})])
    [line], errors = exported(output, tmp_path / "to")
    assert errors == []
    rows = output.rows()
    number = "000000-000000000000-0000"
    answer = line["response"]
    said, asked = sum(row["completion_tokens"] for row in rows), rows[0]["prompt_tokens"]
    assert {**line, "response": None} == {"id": f"batch_req_{number}", "custom_id": "1", "response": None, "error": None}
    assert {**answer, "body": None} == {"status_code": 200, "request_id": f"req_{number}", "body": None}
    assert {**answer["body"], "created": None} == {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": None,
        "model": "echo",
        "choices": [
            {
                "index": row["sample"],
                "message": {"role": "assistant", "content": row["response"], "refusal": None},
                "logprobs": None,
                "finish_reason": row["finish_reason"],
            }
            for row in rows
        ],
        "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
    }
    assert [row["sample"] for row in rows] == [0, 1, 2]
    assert {row["sampling"]["logit_bias"] for row in rows} == {'{"9":5.0}'}


def test_of_a_request_that_failed_in_part_the_answered_choices_keep_their_numbers(tmp_path: Path) -> None:
    rows = [
        {"sample": 0, "status": "error", "error_code": "parse", "error_detail": "no", "completion_tokens": 2},
        {"sample": 1, "status": "ok", "response": "a", "finish_reason": "stop", "completion_tokens": 1},
    ]
    line = openai.response("1", "0", [{"prompt_tokens": 4, "model": "m", **row} for row in rows], 0)
    assert (line["error"], line["response"]["status_code"]) == (None, 200)
    assert [(choice["index"], choice["message"]["content"]) for choice in line["response"]["body"]["choices"]] == [(1, "a")]
    assert line["response"]["body"]["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}


def test_lines_of_one_custom_id_keep_it_in_both_files(tmp_path: Path) -> None:
    lines = [request("a"), request("a", "forbidden"), request("a", temperature=9), request("b"), request("a")]
    answers, errors = exported(batch(tmp_path, lines), tmp_path / "to")
    assert [line["custom_id"] for line in answers] == ["a", "b", "a"]
    assert [(line["custom_id"], line["response"]["status_code"], line["error"]) for line in errors] == [("a", 400, None)] * 2
    refused = errors[1]["response"]["body"]["error"]
    assert refused["message"].endswith("in.jsonl:3: body.temperature: 9 is not a number 0..2")
    assert (refused["type"], refused["code"]) == ("invalid_request_error", "input")
    assert len({line["id"] for line in (*answers, *errors)}) == 5


def test_biases_of_a_job_with_numbers_for_ids_are_stored_and_read_again(tmp_path: Path) -> None:
    retry = {"timeout": {"retry": 1, "sampling": {"logit_bias": {7: -1}}}}
    output = batch(tmp_path, [request("1")], sampling={"logit_bias": {5: 1}}, errors=retry)
    stored = output.output
    assert stored.job.meaning["sampling.logit_bias"] == '{"5":1.0}'
    assert stored.job.job.constant_sampling == {"logit_bias": {"5": 1}}
    assert [row["sampling"]["logit_bias"] for row in output.rows()] == ['{"5":1.0}']
    assert stored.verify().problems == []
    assert output.run() == 0, "the job of today means what the stored one does"
