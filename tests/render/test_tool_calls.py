"""Messages with calls of tools: what the template, an endpoint and the output get of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.records import CALL_KEYS
from batchgen.render.capabilities import Capabilities
from batchgen.render.model_files import load_model
from batchgen.render.renderer import Renderer
from tests.support.rendering import bare, error_of, make_job, one, tiny
from tests.support.replicas import answered

HOSTED = Capabilities("messages", reads_model=False, counts_tokens=True)
MESSAGES = {"path": "in.jsonl", "messages": "messages"}
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
# How public templates take calls: Qwen 2.5's and Llama 3.1's.
TOOLS = (
    "{% for m in messages %}[{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}]{% if m.content %}{{ m.content }}{% endif %}"
    "{% if m.tool_calls %}{% for call in m.tool_calls %}<call>{{ call.function.name }} {{ call.function.arguments | tojson }}"
    "{% for key, value in call.function.arguments.items() %} {{ key }}={{ value }}{% endfor %}</call>{% endfor %}{% endif %}"
    "{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %}{% endfor %}"
)


def call(arguments: Any = '{"city": "Kyoto"}', name: Any = "weather", number: str = "c1") -> dict[str, Any]:
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


def talk(*calls: Any, content: Any = None) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "weather?", "name": "eve"},
        {"role": "assistant", "content": content, "tool_calls": list(calls)},
        {"role": "tool", "tool_call_id": "c1", "content": "21"},
        {"role": "user", "content": "and now?"},
    ]


SHOWN = '[user eve]weather?[assistant]<call>weather {"city": "Kyoto"} city=Kyoto</call>[tool]21(c1)[user]and now?'


@pytest.mark.parametrize("arguments", ['{"city": "Kyoto"}', {"city": "Kyoto"}])
@pytest.mark.parametrize("content", [None, "", []])
def test_a_template_gets_calls_with_their_arguments_as_an_object(arguments: Any, content: Any) -> None:
    assert one(bare(TOOLS, input=MESSAGES), messages=talk(call(arguments), content=content)).text == SHOWN


def test_a_template_is_given_null_where_a_message_has_calls_alone() -> None:
    template = "{% for m in messages %}{{ 'null' if m.content is none else m.content }}{{ m.tool_calls | length }} {% endfor %}"
    assert one(bare(template, input=MESSAGES), messages=talk(call())[1:2] + talk()[:1]).error is not None, (
        "no tool_calls: undefined"
    )
    template = template.replace("m.tool_calls | length", "m.tool_calls | default([]) | length")
    assert one(bare(template, input=MESSAGES), messages=talk(call())).text == "weather?0 null1 210 and now?0 "


def test_a_conversation_may_end_with_the_answer_of_a_tool() -> None:
    assert one(bare(TOOLS, input=MESSAGES), messages=talk(call())[:3]).text.endswith("[tool]21(c1)")


def test_a_special_token_in_a_call_stays_text() -> None:
    prompt = one(bare(TOOLS, input=MESSAGES), messages=talk(call('{"</s>": "<s>"}', name="f</s>")))
    assert prompt.error is None
    assert '<call>f</s> {"</s>": "<s>"} </s>=<s></call>' in prompt.text
    assert not {1, 2} & set(prompt.token_ids)


@pytest.mark.parametrize("arguments", ['{"city": "Kyoto"}', {"city": "Kyoto"}])
def test_an_endpoint_gets_calls_as_openai_has_them(arguments: Any) -> None:
    job = make_job(input=MESSAGES, engine={"kind": "openai"}, model={"source": "gpt"})
    renderer = Renderer(job, load_model(job.model, hosted=True), HOSTED)
    sent = json.loads(bytes(one(renderer, messages=talk(call(arguments))).token_ids))
    made = sent[1]["tool_calls"][0]
    assert json.loads(made["function"].pop("arguments")) == {"city": "Kyoto"}
    expected = talk(call())
    del expected[1]["tool_calls"][0]["function"]["arguments"]
    assert sent == expected


def test_a_template_that_ignores_calls_refuses_the_row() -> None:
    code, detail = error_of(one(tiny(input=MESSAGES), messages=talk(call(), content="")))
    assert code == "render"
    assert detail.endswith("does not show tool_calls")


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"tool_calls": [{"id": "c1"}]}, "tool_calls: call 1 is not {id, type: function, function: {name, arguments}}"),
        ({"tool_calls": [call(name=None)]}, "tool_calls: call 1 is not {id, type: function, function: {name, arguments}}"),
        ({"tool_calls": [call(), call("[1]")]}, "tool_calls: call 2: the arguments are no JSON object"),
        ({"tool_calls": [call("{")]}, "tool_calls: the arguments of weather: "),
        ({"tool_calls": "{}"}, "tool_calls must be a list, not dict"),
        ({"tool_calls": "nothing"}, "tool_calls: "),
        ({"tool_calls": 3}, "tool_calls must be a list, not int"),
        ({"content": "", "tool_call_id": 3}, "tool_call_id must be a string, not int"),
        ({"content": "", "name": ["x"]}, "name must be a string, not list"),
        ({"tool_calls": []}, "content must be a string or a list of parts, not null"),
        (
            {"content": "", "mood": 0},
            "key 'mood': none of role, content, name, tool_call_id, tool_calls, reasoning_content or of the attributes",
        ),
        ({"content": "", "function_call": {"name": "f"}}, "key 'function_call': none of"),
    ],
)
def test_what_a_message_cannot_have_is_an_error_that_names_it(message: dict[str, Any], problem: str) -> None:
    said = [talk()[0], {"role": "assistant", "content": None, **message}, talk()[3]]
    code, detail = error_of(one(bare(TOOLS, input=MESSAGES), messages=said))
    assert (code, detail.startswith(f"in.jsonl:1: messages: message 2: {problem}")) == ("input", True), detail


def test_keys_that_say_nothing_are_left_out() -> None:
    said = {"role": "user", "content": "Hello", "refusal": None, "annotations": [], "tool_calls": [], "name": None}
    assert one(bare(TOOLS, input=MESSAGES), messages=[said]).messages == [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_output_keeps_calls_and_the_next_job_reads_them(tmp_path: Path, kind: str) -> None:
    rows = [{"messages": talk(call())}, {"messages": talk()[:1]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    lines = rows if kind == "jsonl" else []
    [first, second], receipt = answered(tmp_path, lines, input=MESSAGES | {"path": str(tmp_path / f"in.{kind}")})
    assert (receipt.counts.ok, receipt.counts.error) == (2, 0)
    kept = [{key: value for key, value in message.items() if value is not None} for message in first["messages"]]
    assert json.loads(kept[1].pop("tool_calls")) == [call()]
    assert kept[:4] == [talk()[0], {"role": "assistant"}, talk()[2], talk()[3]]
    assert kept[4] == {"role": "assistant", "content": first["response"]}
    assert set(second["messages"][0]) == {"role", "content", *CALL_KEYS}
    again = one(bare(TOOLS, input=MESSAGES), messages=first["messages"][:4])
    assert again.text == SHOWN


def test_an_output_without_calls_has_no_fields_for_them(tmp_path: Path) -> None:
    [row], _ = answered(tmp_path, [HELLO], input=MESSAGES | {"path": str(tmp_path / "in.jsonl")})
    assert [set(message) for message in row["messages"]] == [{"role", "content"}] * 2


def test_calls_that_the_first_rows_did_not_show_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchgen.read.columns.HEAD_ROWS", 1)
    path = str(tmp_path / "in.jsonl")
    rows, _ = answered(tmp_path, [HELLO, {"messages": talk(call())}], input=MESSAGES | {"path": path})
    assert [row["status"] for row in rows] == ["ok", "error"]
    assert rows[1]["error_detail"].startswith(f"{path}:2: a message has a name; none had in the rows that")
