"""parse.py: typed columns from answers, and what happens to answers that have none."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from batchgen.engines.base import Request
from batchgen.errors import BadRow
from batchgen.job.fields import explain
from batchgen.job.input import Parse
from batchgen.records import Answer
from batchgen.tasks.parse import Parser
from tests.support.replicas import answered, blocks, part_bytes, prepared, ran, replica

COLUMNS: Any = {"score": "integer", "weight": "number", "fine": "boolean", "why": "string", "more": "json"}
WHOLE = {"score": 3, "weight": 0.5, "fine": True, "why": "ja", "more": {"b": [1, None], "a": 2}}
SCORE = r"\[\[(?P<score>[^\]]+)\]\]( for (?P<why>\w+))?"


def parsed(answer: str, **fields: Any) -> dict[str, Any]:
    return Parser(Parse(**fields)).parse(answer, 60.0)


def refusal(answer: str, **fields: Any) -> str:
    with pytest.raises(BadRow) as bad:
        parsed(answer, **fields)
    assert bad.value.code == "parse"
    return str(bad.value)


@pytest.mark.parametrize("shape", ["{}", "  {}\n", "```json\n{}\n```", "\n```\n{}\n```\n", "``` JSON\n{}\n```"])
def test_a_json_object_is_read_alone_or_in_a_code_block(shape: str) -> None:
    if "``` JSON" in shape:
        assert "no JSON" in refusal(shape.replace("{}", json.dumps(WHOLE)), columns=COLUMNS)
        return
    found = parsed(shape.replace("{}", json.dumps(WHOLE)), columns=COLUMNS)
    assert found == {**WHOLE, "more": '{"a":2,"b":[1,null]}'}


def test_the_type_is_a_struct_in_the_order_of_the_columns() -> None:
    kinds = [pa.int64(), pa.float64(), pa.bool_(), pa.string(), pa.string()]
    assert Parse(columns=COLUMNS).type == pa.struct(list(zip(COLUMNS, kinds, strict=True)))
    assert Parse(regex=SCORE, columns={"score": "number"}).type == pa.struct([("score", pa.float64()), ("why", pa.string())])


def test_nulls_stay_null_and_more_keys_are_left_out() -> None:
    assert parsed('{"score": null, "else": 1}', columns={"score": "integer"}) == {"score": None}


@pytest.mark.parametrize(
    ("kind", "value", "column"),
    [
        ("integer", 2.0, 2),
        ("number", 2, 2.0),
        ("integer", 2**63 - 1, 2**63 - 1),
        ("json", "x", '"x"'),
        ("integer", 2.5, None),
        ("integer", True, None),
        ("integer", "2", None),
        ("integer", 2**63, None),
        ("integer", 1e300, None),
        ("number", "2", None),
        ("number", False, None),
        ("boolean", 1, None),
        ("boolean", "true", None),
        ("string", 2, None),
    ],
)
def test_a_json_value_has_its_columns_type(kind: Any, value: object, column: object) -> None:
    answer = json.dumps({"x": value})
    if column is None:
        assert refusal(answer, columns={"x": kind}).endswith(f"is no {kind}")
    else:
        assert parsed(answer, columns={"x": kind}) == {"x": column}


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ("so: {", "the answer is no JSON: "),
        ("", "the answer is no JSON: "),
        ("[1]", "the answer is no JSON object but [1]"),
        ('{"other": 1}', "the answer's JSON has no score"),
        ('{"score": NaN}', "the answer is no JSON: "),
        ('{"score": "' + "x" * 99 + '"}', "score: 'xxx"),
    ],
)
def test_an_answer_without_the_object_says_why(answer: str, cause: str) -> None:
    found = refusal(answer, columns={"score": "integer"})
    assert found.startswith(cause)
    assert len(found) < 150


@pytest.mark.parametrize(
    ("kind", "text", "column"),
    [
        ("string", " 8 ", " 8 "),
        ("integer", "8", 8),
        ("integer", "+8.0", 8),
        ("integer", "８", 8),  # a full-width digit, as Japanese models write it
        ("number", "7.5", 7.5),
        ("number", ".5e1", 5.0),
        ("boolean", "True", True),
        ("json", '{"b": 1, "a": 2}', '{"a":2,"b":1}'),
        ("integer", "1e999", None),
        ("integer", "7.5", None),
        ("integer", "8/10", None),
        ("number", "nan", None),
        ("number", "1_0", None),
        ("number", "1e999", None),
        ("boolean", "yes", None),
    ],
)
def test_a_groups_text_is_read_as_its_columns_type(kind: Any, text: str, column: object) -> None:
    fields: Any = {"regex": SCORE, "columns": {"score": kind}}
    if column is None:
        assert refusal(f"so [[{text}]]", **fields) == f"score: {text!r} is no {kind}"
    else:
        assert parsed(f"so [[{text}]] and [[1]]", **fields) == {"score": column, "why": None}


def test_an_answer_in_which_the_regex_matches_nowhere() -> None:
    assert refusal("8 of 10", regex=SCORE) == "the regex matches nowhere in the answer"


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    for spec in (Parse(columns=COLUMNS), Parse(regex=r"(?P<x>\S+)", columns={"x": "number"})):
        with suppress(BadRow):
            found = Parser(spec).parse(text, 60.0)
            assert pa.array([found], spec.type).to_pylist() == [found]


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({}, "name the columns"),
        ({"regex": "("}, "regex: "),
        ({"regex": "(a)"}, "regex: it has no named groups"),
        ({"regex": "(?P<a>b)", "columns": {"b": "string"}}, "columns.b: no group of that name"),
        ({"columns": {"a": "int"}}, "columns.a: "),
    ],
)
def test_a_wrong_parse_is_a_mistake_in_the_job(fields: Any, cause: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        Parse(**fields)
    assert explain(wrong.value, Parse)[0].startswith(cause)


# In a job


class Judge:
    """Answers a prompt with what stands after its bar; a new seed has the answer after the next one."""

    capacity, workers = 8, 1

    def __init__(self) -> None:
        self.seeds: list[int | None] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def probe(self) -> None: ...

    async def generate(self, request: Request) -> list[Answer]:
        self.seeds.append(request.sampling.seed)
        answers = bytes(request.token_ids).decode().split("\n")[0].split("|")[1:]
        turn = min(len(set(self.seeds)), len(answers)) - 1
        return [Answer(answers[turn], 1, "stop") for _ in range(request.sampling.n)]


def judged(folder: Path, prompt: str, **fields: Any) -> tuple[dict[str, Any], Judge]:
    made = prepared(folder, [{"prompt": prompt}], parse={"regex": SCORE, "columns": {"score": "integer"}}, **fields)
    engine = Judge()
    receipt = ran(replica(made, engine), blocks(made)[0])
    [row] = pa.parquet.read_table(pa.BufferReader(part_bytes(made, receipt))).to_pylist()
    return row, engine


def test_the_columns_of_an_answer_are_in_the_output(tmp_path: Path) -> None:
    row, _ = judged(tmp_path, "one|[[8]] for style")
    assert (row["status"], row["parsed"]) == ("ok", {"score": 8, "why": "style"})


def test_an_answer_that_does_not_parse_is_an_error_that_keeps_the_answer(tmp_path: Path) -> None:
    row, _ = judged(tmp_path, "one|eight")
    assert (row["status"], row["error_code"], row["parsed"]) == ("error", "parse", None)
    assert row["error_detail"] == f"{tmp_path}/in.jsonl:1: the regex matches nowhere in the answer"
    assert (row["response"], row["messages"][-1]) == ("eight", {"role": "assistant", "content": "eight"})


def test_an_answer_that_does_not_parse_is_asked_for_again_with_a_new_seed(tmp_path: Path) -> None:
    row, engine = judged(tmp_path, "one|eight|[[8]]", errors={"parse": {"retry": 2}})
    assert (row["status"], row["parsed"]["score"], row["attempt"]) == ("ok", 8, 2)
    assert len(set(engine.seeds)) == 2
    assert row["sampling"]["seed"] == engine.seeds[1]


def test_an_answer_that_was_cut_and_does_not_parse_follows_the_policy_for_cut_ones_first(tmp_path: Path) -> None:
    rows, _ = answered(
        tmp_path,
        [{"prompt": "a b c"}],
        parse={"regex": r"(?P<a>zzz)"},
        sampling={"max_tokens": 1, "ignore_eos": True},
        errors={"truncated": {"retry": 1, "sampling": {"max_tokens": 7}}, "parse": "keep"},
    )
    assert (rows[0]["error_code"], rows[0]["attempt"], rows[0]["completion_tokens"]) == ("parse", 2, 7)


def test_choices_and_parse_make_a_label_job(tmp_path: Path) -> None:
    constraint = {"choice": ["label: good", "label: bad"]}
    rows, receipt = answered(
        tmp_path,
        [{"prompt": f"text {n}"} for n in range(40)],
        sampling={"structured_outputs": constraint},
        spans={"rows": 100},
        parse={"regex": "label: (?P<label>good|bad)"},
    )
    assert {row["parsed"]["label"] for row in rows} == {"good", "bad"}
    assert {row["sampling"]["structured_outputs"] for row in rows} == {json.dumps(constraint, separators=(",", ":"))}
    assert receipt.errors == {}


def test_a_search_that_does_not_end_is_its_rows_error_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchgen.tasks.generate.MOST_SECONDS", 1.0)
    endless = "a" * 60 + "!"
    rows = [{"prompt": "x", "sampling": {"structured_outputs": {"choice": [endless if n == 7 else "aaaa"]}}} for n in range(40)]
    found, _ = answered(tmp_path, rows, parse={"regex": r"^(?P<run>(a|aa|a?)+)$"}, spans={"rows": 100})
    assert [row["row"] for row in found if row["status"] == "error"] == [7]
    assert found[7]["error_code"] == "parse"
    assert found[7]["error_detail"] == f"{tmp_path}/in.jsonl:8: the regex is not done with the answer after 1 s"
    assert found[7]["response"] == endless


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("[" * 300 + "]" * 300, None),
        (f"{2**64 + 1}", f"{2**64 + 1}"),
        ('"\\ud83d"', None),
        ("NaN", None),
        ("[1]", "[1]"),
    ],
)
def test_an_answers_json_is_exact_or_its_rows_error(tmp_path: Path, value: str, kept: str | None) -> None:
    rows = [
        {"prompt": "x", "sampling": {"structured_outputs": {"choice": ['{"a":%s}' % (value if n == 1 else 0)]}}} for n in range(3)
    ]
    found, _ = answered(tmp_path, rows, parse={"columns": {"a": "json"}})
    assert [row["status"] for row in found] == ["ok", "ok" if kept else "error", "ok"]
    assert (found[1]["parsed"] or {}).get("a") == kept
    assert kept is not None or found[1]["error_code"] == "parse"
