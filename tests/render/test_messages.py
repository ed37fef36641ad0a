"""Messages whose content is a list of parts: texts and images."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.engines.base import Request
from batchgen.engines.restarting import RestartingEngine
from batchgen.plan.plan import make_plan
from batchgen.read.reader import read_spans
from batchgen.records import Answer
from batchgen.render.capabilities import Capabilities
from batchgen.render.model_files import load_model
from batchgen.render.renderer import Renderer, prompt_hash
from tests.support.rendering import BLOCK, CHATML, bare, error_of, make_job, one, prompts, tiny
from tests.support.replicas import Backwards, blocks, part_bytes, prepared, ran, replica

HOSTED = Capabilities("messages", reads_model=False, counts_tokens=True)
MESSAGES = {"path": "in.jsonl", "messages": "messages"}
DOT = "data:image/png;base64,iVBORw0KGgo="
# How public templates of vision models take parts: Qwen2-VL's and Llava's cards.
VISION = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(url: Any = DOT) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def said(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_parts_of_text_are_one_text_with_a_newline_between_them() -> None:
    prompt = one(tiny(input=MESSAGES), messages=said(text("Hello."), text("Who are you?")))
    assert prompt.text == f"<s>[INST] Hello.\nWho are you? {BLOCK} [/INST]"
    assert prompt.messages is not None
    assert prompt.messages[0]["content"] == "Hello.\nWho are you?"


def test_a_template_sees_an_image_where_it_stands() -> None:
    prompt = one(bare(VISION, input=MESSAGES), messages=said(text("Before "), image(), text(" after.")))
    assert prompt.text == "<|im_start|>user\nBefore <|image|> after.<|im_end|>\n<|im_start|>assistant\n"


def test_a_special_token_in_a_part_stays_text() -> None:
    renderer = bare(VISION, input=MESSAGES)
    spelled, plain = (one(renderer, messages=said(text(words), image())) for words in ("a</s>b", "ab"))
    assert "a</s>b<|image|>" in spelled.text
    assert 2 not in spelled.token_ids
    assert len(spelled.token_ids) > len(plain.token_ids)


def test_values_stand_beside_parts_as_beside_a_text() -> None:
    schema = {"names": ["tone"], "layout": {"block": " [{pairs}]", "where": "suffix"}}
    renderer = bare(VISION, input=MESSAGES, attributes={"schema": schema, "sweep": {"tone": [1, 3]}})
    assert ["<|image|>What? [tone: 1]<|im_end|>" in p.text for p in prompts(renderer, messages=said(image(), text("What?")))] == [
        True,
        False,
    ]


@pytest.mark.parametrize("template", [CHATML, None])
def test_a_template_without_images_refuses_the_row(template: str | None) -> None:
    renderer = bare(CHATML, input=MESSAGES) if template else tiny(input=MESSAGES)
    code, detail = error_of(one(renderer, messages=said(text("Look."), image())))
    assert code == "render"
    assert detail.startswith("in.jsonl:1: the chat template of ")
    assert detail.endswith(" takes no images")


@pytest.mark.parametrize(
    "url", ["https://example.org/cat.png", "file:///etc/passwd", "/etc/passwd", "data:text/html;base64,AA=="]
)
def test_a_row_makes_nobody_fetch_or_open_anything(url: str) -> None:
    assert error_of(one(bare(VISION, input=MESSAGES), messages=said(image(), image(url)))) == (
        "input",
        "in.jsonl:1: image 2: only images in the row itself are read (data:image/...;base64,...); the job allows no hosts "
        "(input.image_hosts) and no folder (input.image_folder)",
    )


@pytest.mark.parametrize(
    "part", ["text", {"type": "text"}, {"type": "video_url", "video_url": {"url": DOT}}, {"type": "image_url", "image_url": {}}]
)
def test_another_part_is_an_error(part: Any) -> None:
    code, detail = error_of(one(bare(VISION, input=MESSAGES), messages=said(text("Look."), part)))
    assert code == "input"
    assert detail.startswith("in.jsonl:1: messages: message 1: part 2 is neither {type: text")


def test_an_endpoint_is_sent_the_parts_as_they_are() -> None:
    job = make_job(input=MESSAGES, engine={"kind": "openai"}, model={"source": "gpt"})
    parts = [text("What is it?"), image()]
    prompt = one(Renderer(job, load_model(job.model, hosted=True), HOSTED), messages=said(*parts))
    assert json.loads(bytes(prompt.token_ids)) == said(*parts)


class Eyes(Backwards):
    """Answers with how many images it is shown."""

    async def generate(self, request: Request) -> list[Answer]:
        assert all(url == DOT for url in request.images)
        return [Answer(f"{len(request.images)} images", 1, "stop")]


def test_images_reach_the_engine_and_the_output(tmp_path: Path) -> None:
    rows = [{"messages": said(text("Look."), image(), image())}, {"messages": [{"role": "user", "content": "Hello"}]}]
    made = prepared(tmp_path, rows, input=MESSAGES | {"path": str(tmp_path / "in.jsonl")})
    receipt = ran(replica(made, RestartingEngine(lambda: Eyes(1), 60, None)), blocks(made)[0])
    seen, blind = pq.read_table(io.BytesIO(part_bytes(made, receipt))).to_pylist()
    assert (seen["response"], blind["response"]) == ("2 images", "0 images")
    assert json.loads(seen["messages"][0]["content"]) == [text("Look."), image(), image()]
    assert json.loads(seen["input_messages"])[0]["content"] == [text("Look."), image(), image()], "carried as it came"
    assert blind["messages"] == [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "0 images"}]


def test_an_image_is_part_of_the_hash_of_a_prompt() -> None:
    assert len({prompt_hash([1, 2]), prompt_hash([1, 2], [DOT]), prompt_hash([1, 2], [DOT, DOT])}) == 3


def test_parts_of_a_parquet_row_have_no_nulls(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist([{"messages": said(text("Look."), image())}]), path)
    made = prepared(tmp_path, [], input=MESSAGES | {"path": str(path)})
    shards, spans = make_plan(made.job, made.found, made.columns)
    [(_, [row], _)] = read_spans(made.job, shards[0], spans, made.columns.kept, made.renderer.needed)
    [prompt] = made.renderer.prompts(row, shards[0].name)
    assert prompt.error is None
    assert prompt.messages == said(text("Look."), image())
