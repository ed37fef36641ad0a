"""jobs/presets: the prompts of the models that KARAKURI LM's card compares itself with."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchgen.job.job import Job
from tests.support.rendering import bare, conversation, one

FOLDER = Path(__file__).parents[2] / "jobs/presets"
SYSTEM = "あなたは誠実で優秀な日本人のアシスタントです。"
TASK = "以下に、あるタスクを説明する指示があります。リクエストを適切に完了するための回答を記述してください。"
LLAMA = "<s>[INST] <<SYS>>\nSystem prompt\n<</SYS>>\n\nUser prompt [/INST] Model response </s><s>[INST] User prompt [/INST]"
CARDS = {
    "llama-2-70b-chat": (LLAMA, "<s>[INST] Hello [/INST]"),
    "elyza-13b-instruct": (LLAMA, f"<s>[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\nHello [/INST]"),
    "stablelm-beta-70b": (LLAMA.replace("<</SYS>>", "<<SYS>>"), "<s>[INST] Hello [/INST]"),
    "swallow-70b-instruct": (
        "<s>System prompt\n\n### 指示:\nUser prompt\n\n### 応答:\nModel response\n\n### 指示:\nUser prompt\n\n### 応答:\n",
        f"<s>{TASK}\n\n### 指示:\nHello\n\n### 応答:\n",
    ),
    "qarasu-14b": (
        "<|im_start|>system\nSystem prompt<|im_end|>\n<|im_start|>user\nUser prompt<|im_end|>\n<|im_start|>assistant\n"
        "Model response<|im_end|>\n<|im_start|>user\nUser prompt<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    ),
}


def test_every_preset_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(CARDS)


@pytest.mark.parametrize("name", CARDS)
def test_the_prompt_is_the_cards(name: str) -> None:
    job = Job.load(FOLDER / f"{name}.yaml")
    assert job.model is not None
    assert job.model.chat_template is not None
    template = (FOLDER.parents[1] / job.model.chat_template).read_text(encoding="utf-8")
    card, hello = CARDS[name]
    assert bare(template).encode(conversation())[0] == card
    assert one(bare(template), prompt="Hello").text == hello


def test_chatml_stops_where_its_turn_ends() -> None:
    assert Job.load(FOLDER / "qarasu-14b.yaml").sampling["stop"] == "<|im_end|>"
