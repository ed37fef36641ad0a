"""Reasoning and tools in chat templates: whether earlier reasoning is shown is the template's choice, in two public layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import BadRow
from batchgen.job.sampling import check_sampling
from batchgen.read.layouts import JobLayout
from batchgen.records import Row
from batchgen.render.model.reasoning import KNOWN, PARSERS, marks_of, parser_of
from batchgen.render.model_files import load_model
from batchgen.render.renderer import Renderer
from tests.support.planning import make_job
from tests.support.rendering import TINY
from tests.support.thinker import make_thinker

QWEN = """\
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{%- set thought = message.reasoning_content if message.reasoning_content is string else '' %}
<|im_start|>assistant
{%- if thought and loop.last %}
<think>
{{ thought }}
</think>
{%- endif %}
{{ message.content }}<|im_end|>
{%- else %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{%- endif %}
{%- endfor %}
<|im_start|>assistant
{%- if enable_thinking is defined and enable_thinking is false %}
<think>

</think>
{%- endif %}
"""
"""As Qwen3's: an earlier turn's reasoning is left out, `enable_thinking: false` closes it before it begins."""
HARMONY = """\
{%- for message in messages %}
{%- if message.role == 'assistant' and message.thinking %}
<|start|>assistant<|channel|>analysis<|message|>{{ message.thinking }}<|end|>
{%- endif %}
<|start|>{{ message.role }}<|message|>{{ message.content }}<|end|>
{%- endfor %}
effort {{ reasoning_effort | default('medium') }}<|start|>assistant"""
"""As gpt-oss': reasoning is `thinking`, and stays."""
TALK = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1", "reasoning_content": "It is one."},
    {"role": "user", "content": "Two?"},
]


def renderer(folder: Path, template: str, **model: Any) -> Renderer:
    path = folder / "template.jinja"
    path.write_text(template)
    job = make_job("in.jsonl", model={"source": str(TINY), "chat_template": str(path), **model})
    return Renderer(job, load_model(job.model))


def test_a_template_of_qwens_kind_leaves_earlier_reasoning_out(tmp_path: Path) -> None:
    text, _ = renderer(tmp_path, QWEN).encode([*TALK])
    assert "It is one." not in text
    shown, _ = renderer(tmp_path, QWEN).encode(TALK[:2])
    assert "<think>\nIt is one.\n</think>1<|im_end|>" in shown
    closed, _ = renderer(tmp_path, QWEN).encode(TALK, check_sampling({"chat_template_kwargs": {"enable_thinking": False}}))
    assert closed.endswith("<think>\n\n</think>\n") or closed.endswith("</think>")
    of_job, _ = renderer(tmp_path, QWEN, chat_template_kwargs={"enable_thinking": False}).encode(TALK)
    assert of_job == closed
    own, _ = renderer(tmp_path, QWEN, chat_template_kwargs={"enable_thinking": False}).encode(
        TALK, check_sampling({"chat_template_kwargs": '{"enable_thinking": true}'})
    )
    assert own == text, "the row's own wins"


def test_a_template_of_gpt_oss_kind_keeps_it_under_its_own_name(tmp_path: Path) -> None:
    text, _ = renderer(tmp_path, HARMONY).encode(TALK, check_sampling({"reasoning_effort": "high"}))
    assert "analysis<|message|>It is one.<|end|>" in text
    assert "effort high" in text
    assert "effort medium" in renderer(tmp_path, HARMONY).encode(TALK)[0]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_in_messages_is_read_under_each_of_its_names(key: str) -> None:
    talk = [TALK[0], {"role": "assistant", "content": "1", key: "It is one."}, TALK[2]]
    layout = JobLayout(make_job("in.jsonl", input={"path": "in.jsonl", "messages": "m", "prompt": None}))
    row = layout.lay_out(Row(0, {"m": talk}), "in.jsonl")
    assert row.messages == TALK, row.error


def test_tools_reach_the_template_and_one_that_does_not_show_them_refuses_the_row(tmp_path: Path) -> None:
    function = {"name": "weather", "description": "Of a </s> city.", "parameters": {"type": "object"}}
    sampling = check_sampling({"tools": [{"type": "function", "function": function}]})
    folder = make_thinker(tmp_path / "thinker")
    job = make_job("in.jsonl", model={"source": str(folder), "tool_call_parser": "hermes"})
    made = Renderer(job, load_model(job.model))
    text, ids = made.encode([TALK[0]], sampling)
    assert json.loads(text.partition("tools: ")[2].partition("\n")[0])[0]["function"] == function
    assert 2 not in ids[:-1], "a special token that a tool's text spells stays text"
    with pytest.raises(BadRow, match="does not show tools"):
        renderer(tmp_path, QWEN).encode([TALK[0]], sampling)


def test_a_models_template_for_tools_is_taken_for_rows_with_tools(tmp_path: Path) -> None:
    folder = make_thinker(tmp_path / "thinker")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool_use.jinja").write_text("TOOLS {{ tools | tojson }} {{ messages[0].content }}")
    job = make_job("in.jsonl", model={"source": str(folder), "tool_call_parser": "hermes"})
    made = Renderer(job, load_model(job.model))
    assert made.encode([TALK[0]], check_sampling({"tools": [{"name": "f"}]}))[0].startswith("TOOLS [")
    assert not made.encode([TALK[0]])[0].startswith("TOOLS")


def test_a_models_parser_is_found_by_its_type_or_its_marks() -> None:
    assert parser_of("qwen3", "... </think> ...") == "qwen3"
    assert parser_of("qwen3", "no marks") is None, "a model of the family that does not think"
    assert parser_of("gpt_oss", "<|channel|>") == "openai_gptoss"
    assert parser_of("llama", "<think>{{ x }}</think>") == "deepseek_r1"
    assert parser_of("llama", "plain") is None
    assert [marks_of(f"x {marks.end} y") for marks in KNOWN] == [*KNOWN]
    assert marks_of(None) is None
    assert len(PARSERS) > 15
