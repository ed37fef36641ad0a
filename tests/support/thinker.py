"""A model that can think and call tools: the tiny model with four more tokens, whose text means nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.support.rendering import TINY

MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
TEMPLATE = """\
{%- if tools %}tools: {{ tools | tojson }}
{% endif %}
{%- for message in messages %}
{{- message['role'] }}: {% if message.reasoning_content and loop.last %}<think>{{ message.reasoning_content }}</think>{% endif %}
{{- message['content'] or '' }}{% if message.tool_calls %} {{ message.tool_calls | tojson }}{% endif %}
{% endfor -%}
{%- if add_generation_prompt %}assistant: <think>{% endif %}
{%- if add_generation_prompt and enable_thinking is defined and not enable_thinking %}</think>{% endif %}
"""


def make_thinker(folder: Path) -> Path:
    """The model in a folder. Its prompts end in the mark of reasoning, unless `enable_thinking` is false."""
    shutil.copytree(TINY, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    first = config["vocab_size"]
    for number, mark in enumerate(MARKS):
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        tokenizer["added_tokens"].append({"id": first + number, "content": mark, **plain})
    config["vocab_size"] = first + len(MARKS)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    weights = load_file(folder / "model.safetensors")
    rows = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = torch.cat([rows, rows[: len(MARKS)]])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
