"""Rules for answers: what each accepts, what is said of an answer that fails one, and which rules are refused."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import JobError
from batchgen.job.accept import Accept
from batchgen.job.job import Job
from batchgen.tasks import json_schema as schema
from batchgen.tasks.accept import fit
from batchgen.tasks.accept.fit import FitRule
from tests.support.replicas import Scripted, prepared, rows_of


def verdicts(folder: Path, accept: dict[str, Any], *answers: str, **fields: Any) -> list[str | None]:
    """The error of each answer, without its place; None of those that are accepted."""
    engine = Scripted({f"q{number}": [text] for number, text in enumerate(answers)})
    rows = rows_of(folder, engine, accept=accept, **fields)
    assert [row["response"] for row in rows] == list(answers)
    assert {row["error_code"] for row in rows} <= {None, "rejected"}
    assert all((row["error_code"] is None) == (row["status"] == "ok") for row in rows)
    return [row["error_detail"] and row["error_detail"].partition(": ")[2] for row in rows]


def test_a_regex_has_to_match_somewhere(tmp_path: Path) -> None:
    assert verdicts(tmp_path, {"regex": r"\[\[\d\]\]"}, "so [[3]]", "three") == [
        None,
        "accept.regex matches nowhere in the answer",
    ]


def test_a_schema_is_of_the_answer_or_of_its_code_block(tmp_path: Path) -> None:
    wanted = {
        "type": "object",
        "properties": {"score": {"type": "integer", "maximum": 5}, "name": {"pattern": "^a"}},
        "patternProperties": {"^x": {"type": "null"}},
        "additionalProperties": False,
        "required": ["score"],
    }
    said = ['{"score": 3}', '```json\n{"score": 4, "name": "ab", "xy": null}\n```', '{"score": 7}', '{"name": "a"}', "3", "no"]
    more = ['{"score": 1, "name": "b"}', '{"score": 1, "x": 1}', '{"score": 1, "other": 1}']
    assert verdicts(tmp_path, {"schema": wanted}, *said, *more) == [
        None,
        None,
        "accept.schema: score: 7 is greater than the maximum of 5",
        "accept.schema: 'score' is a required property",
        "accept.schema: 3 is not of type 'object'",
        "accept.schema: the answer is no JSON: invalid literal, expected 'null': line 1 column 1 (char 0)",
        "accept.schema: name: 'b' does not match '^a'",
        "accept.schema: x: 1 is not of type 'null'",
        "accept.schema: additional properties are not allowed: 'other'",
    ]


def test_sql_is_over_the_columns_of_the_output(tmp_path: Path) -> None:
    rule = "length(response) > 3 and parsed.score >= least and finish_reason = 'stop' and len(messages) = 2"
    engine = Scripted({"q0": ["so 4"], "q1": ["so 2"], "q2": ["1"], "q3": ["so 4..."], "q4": ["so 9"]})
    rows = [{"prompt": f"q{number}", "least": None if number == 4 else 3} for number in range(5)]
    parse = {"regex": r"(?P<score>\d)", "columns": {"score": "integer"}}
    found = rows_of(tmp_path, engine, rows, accept={"sql": rule}, parse=parse)
    assert [row["error_detail"] and row["error_detail"].partition(": ")[2] for row in found] == [
        None,
        *[f"accept.sql: {rule} is false"] * 3,
        f"accept.sql: {rule} is null: coalesce(..., false) says what a missing value means",
    ]
    assert [row["parsed"]["score"] for row in found] == [4, 2, 1, 4, 9]


def test_sql_that_does_not_fit_a_value_is_the_rows_error(tmp_path: Path) -> None:
    accepted, failed = verdicts(tmp_path, {"sql": "response::int > 2"}, "3", "x")
    assert accepted is None
    assert failed is not None
    assert failed.startswith("accept.sql: Conversion Error: Could not convert string 'x'")
    assert failed.endswith("TRY_CAST and TRY make null of what does not fit")


def test_sql_that_does_not_end_is_the_rows_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchgen.tasks.accept.RULE_SECONDS", 0.3)
    endless = "response = 'a' or (select sum(a.range * b.range) from range(1000000) a, range(1000000) b) > 0"
    began = time.monotonic()
    assert verdicts(tmp_path, {"sql": f"({endless})"}, "b") == ["accept.sql: not done after 0.3 s: ask for less of a row"]
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("accept", "cause"),
    [
        ({"sql": "length(answer) > 2"}, 'accept.sql: Binder Error: Referenced column "answer" not found'),
        ({"sql": "length(response)"}, "accept.sql: it is a BIGINT, not a BOOLEAN; the columns are id, "),
        ({"sql": "true; select true"}, "accept.sql: Parser Error"),
        ({"sql": "true) , (true"}, "accept.sql: it is not one expression"),
        ({"sql": "true) from (select 1), (select 2); drop table x; select (true"}, "accept.sql: "),
        ({"sql": "(select count(*) from read_text('/etc/passwd')) > 0"}, "accept.sql: Permission Error"),
        ({"sql": "(select count(*) from '/etc/passwd') > 0"}, "accept.sql: "),
        ({"sql": "(select count(*) from 'https://example.org/a.parquet') > 0"}, "accept.sql: "),
        ({"sql": "parsed.score > 1"}, "accept.sql: Binder Error"),
        ({"sql": "error_code is null"}, "accept.sql: Binder Error"),
        ({"regex": "("}, "accept.regex: missing"),
        ({"schema": {"type": "text"}}, "accept.schema: it is no JSON Schema: type: 'text' is not valid"),
        ({"schema": {"pattern": "("}}, "accept.schema: it is no JSON Schema: pattern: "),
        ({"schema": {"$ref": "http://127.0.0.1:1/x"}}, "accept.schema: .ref 'http://127.0.0.1:1/x' is not in the schema"),
        ({"schema": {"$ref": "#/$defs/a"}}, "accept.schema: .ref '#/.defs/a' is not in the schema"),
        ({"schema": [1]}, "accept.schema: expected a JSON Schema"),
        ({"schema": {"patternProperties": {"a": {}}, "unevaluatedProperties": False}}, "use additionalProperties"),
        ({"function": "nowhere:at_all"}, "accept.function nowhere:at_all: no module 'nowhere'"),
        ({"judge": {"template": "{{ response", "regex": "yes"}}, "accept.judge.template: "),
        (
            {"judge": {"template": "{{ gold }}", "regex": "yes"}},
            "accept.judge.template: no column 'gold'; a row with its answer has",
        ),
        ({"judge": {"template": "x"}}, "accept.judge: give a regex or a schema"),
        ({"judge": {"template": "x", "regex": "y", "sampling": {"n": 2}}}, "accept.judge.sampling: n: a judge answers once"),
        ({"judge": {"template": "x", "regex": "y", "sampling": {"temperatur": 2}}}, "did you mean 'temperature'"),
        ({"judge": {"template": "x", "regex": "y", "sampling": {"adapter": "a"}}}, "accept.judge.sampling.adapter: no 'a'"),
        ({}, "accept: give at least one of regex, schema, sql, function, judge"),
        ({"regx": "a"}, "did you mean 'regex'"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_before_anything_starts(tmp_path: Path, accept: Any, cause: str) -> None:
    with pytest.raises(JobError, match=cause):
        prepared(tmp_path, [{"prompt": "a"}], accept=accept)
    assert not (tmp_path / "out").exists()


def test_a_judge_of_prompts_that_are_continued_is_refused(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    source = {"path": str(tmp_path / "in.jsonl"), "messages": "m", "continue_final_message": True}
    with pytest.raises(JobError, match=r"accept.judge: prompts of input.continue_final_message"):
        prepared(tmp_path, [{"m": talk}], accept={"judge": {"template": "x", "regex": "y"}}, input=source)


MODULE = """
import time

def check(row):
    said = row["response"]
    if said == "raise":
        raise ValueError("no such thing")
    if said == "none":
        return None
    if said == "loop":
        while True:
            pass
    if said == "why":
        return f"not like {row['gold']}"
    return row["gold"] in said and row["parsed"] is None and row["finish_reason"] == "stop"
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rules", raising=False)
    (tmp_path / "my_rules.py").write_text(MODULE)
    return tmp_path / "my_rules.py"


def test_a_function_says_yes_no_or_why_not(tmp_path: Path, module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchgen.render.safe.functions.SECONDS_CAP", 0.1)
    said = ["a gold b", "iron", "why", "raise", "none", "loop"]
    rows = [{"prompt": f"q{number}", "gold": "gold"} for number in range(6)]
    found = rows_of(
        tmp_path, Scripted({f"q{n}": [text] for n, text in enumerate(said)}), rows, accept={"function": "my_rules:check"}
    )
    assert [row["error_detail"] and row["error_detail"].partition(": ")[2] for row in found] == [
        None,
        "accept.function: my_rules:check returned False",
        "accept.function: my_rules:check: not like gold",
        "accept.function: my_rules:check (line 7): ValueError: no such thing",
        "accept.function: my_rules:check: it returned a NoneType, not True, False or a text that says why not",
        "accept.function: my_rules:check: not done after 0.1 s",
    ]


def test_the_source_of_the_function_is_part_of_the_meaning(tmp_path: Path, module: Path) -> None:
    def version() -> str:
        made = prepared(tmp_path, [{"prompt": "a", "gold": "b"}], accept={"function": "my_rules:check"})
        return made.renderer.functions.versions["accept.function.source"]

    before = version()
    module.write_text(f"{MODULE}\n# changed\n")
    assert before.startswith("my_rules.py, sha256 ")
    assert version() != before


def test_a_rule_that_takes_its_time_holds_up_no_other_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns of the job's that never end, in a regex and in a schema: the loop goes on, and both end."""
    monkeypatch.setattr(fit, "RULE_SECONDS", 0.5)
    monkeypatch.setattr(schema, "PATTERN_SECONDS", 0.5)
    hard, text = r"^(?P<run>(a|aa|a?)+)$", "a" * 60 + "!"
    turns = 0

    async def scenario() -> list[str | None]:
        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.01)
                turns += 1

        turning = asyncio.create_task(turn())
        rules = [FitRule(Accept(regex=hard), "accept"), FitRule(Accept(schema={"pattern": hard}), "accept")]
        found = [await asyncio.to_thread(rule.mistake, said) for rule, said in zip(rules, (text, f'"{text}"'), strict=True)]
        turning.cancel()
        return found

    found = asyncio.run(scenario())
    assert found[0] == "accept.regex is not done with the answer after 0.5 s: write it without nested repetition"
    assert found[1] == "accept.schema: not done with the answer after 0.5 s: simplify its patterns, or leave out uniqueItems"
    assert turns > 20


def test_a_schema_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "RULE_SECONDS", 0.3)
    rule = FitRule(Accept(schema={"uniqueItems": True}), "accept")
    began = time.monotonic()
    assert "not done" in str(rule.mistake(json.dumps([{"a": n} for n in range(20_000)])))
    assert time.monotonic() - began < 5


def test_the_rules_are_part_of_the_meaning_and_the_order_of_a_schemas_keys_is_not() -> None:
    def meaning(**accept: Any) -> Any:
        fields = {"input": {"path": "x", "prompt": "p"}, "engine": {"kind": "echo"}, "output": "o"}
        return Job.parse({**fields, "accept": accept} if accept else fields).meaning()

    one, two = {"type": "object", "required": ["a"]}, {"required": ["a"], "type": "object"}
    assert meaning(schema=one) == meaning(schema=two)
    assert meaning(schema=one) == meaning(schema=json.dumps(two))
    assert meaning()["accept"] is None
    assert meaning(regex="a") != meaning(regex="b")
    whole = Job.parse(
        {"input": {"path": "x", "prompt": "p"}, "engine": {"kind": "echo"}, "output": "o", "accept": {"schema": one}}
    )
    assert Job.model_validate(whole.model_dump(mode="json", by_alias=True)) == whole
