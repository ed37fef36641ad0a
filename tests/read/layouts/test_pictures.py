"""`input.images`: images in a column beside the conversation, with and without marks, as public files have them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import BadRow
from batchgen.job.job import Job
from batchgen.read.layouts import JobLayout
from batchgen.read.layouts.pictures import with_pictures
from batchgen.records import Row
from tests.support.endpoint import Endpoint, Reply, said, serving
from tests.support.images import DOT, PNG
from tests.support.replicas import answered


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    ("value", "content", "wanted"),
    [
        ("a.png", "<image>\nWhat is it?", [picture("a.png"), text("\nWhat is it?")]),
        (["a.png"], "What is it?", [picture("a.png"), text("What is it?")]),
        (["a", "b"], "<image> or <image>?", [picture("a"), text(" or "), picture("b"), text("?")]),
        (["a", "b"], "Which?", [picture("a"), picture("b"), text("Which?")]),
        (["a", "b"], "<image><image>", [picture("a"), picture("b")]),
        ("a", "", [picture("a")]),
        ({"bytes": PNG, "path": "x.png"}, "?", [picture(DOT), text("?")]),
        ({"bytes": None, "path": "x.png"}, "?", [picture("x.png"), text("?")]),
        ([PNG, {"url": "https://e.org/x"}], "?", [picture(DOT), picture("https://e.org/x"), text("?")]),
        ("a", [text("see <image>"), picture("b"), text("!")], [text("see "), picture("a"), picture("b"), text("!")]),
        ([], "plain", "plain"),
        (None, "plain", "plain"),
    ],
)
def test_images_take_their_places(value: Any, content: Any, wanted: Any) -> None:
    assert with_pictures([user(content)], "image", value) == [user(wanted)]


def test_marks_are_those_of_the_users_messages_in_order() -> None:
    talk = [
        {"role": "system", "content": "An <image> is shown."},
        user("one <image>"),
        {"role": "assistant", "content": "I see <image>"},
        user("two <image>"),
    ]
    made = with_pictures(talk, "images", ["a", "b"])
    assert [made[0], made[2]] == [talk[0], talk[2]]
    assert [made[1]["content"], made[3]["content"]] == [[text("one "), picture("a")], [text("two "), picture("b")]]
    assert talk[1]["content"] == "one <image>", "what was given stays"


@pytest.mark.parametrize(
    ("value", "content", "cause"),
    [
        (["a", "b"], "<image>", "images has 2 images, and the user's messages have 1 times <image>"),
        (None, "<image>", "images has 0 images, and the user's messages have 1 times <image>"),
        ("a", "<image> <image>", "images has 1 images, and the user's messages have 2 times <image>"),
        ([3], "?", "images: image 1 is neither a path, a URL nor {bytes, path}"),
        (["a", {"path": None}], "?", "images: image 2 is neither a path, a URL nor {bytes, path}"),
        ([b"GIF"], "?", "images: image 1: it is no image (PNG, JPEG, WebP, GIF or BMP)"),
    ],
)
def test_what_does_not_fit_is_an_error_of_the_row(value: Any, content: str, cause: str) -> None:
    with pytest.raises(BadRow) as refused:
        with_pictures([user(content)], "images", value)
    assert (refused.value.code, str(refused.value)) == ("input", cause)


def test_every_layout_has_them() -> None:
    def laid_out(data: dict[str, Any], **source: Any) -> Any:
        job = Job.parse({"input": {"path": "x", "images": "image", **source}, "engine": {"kind": "echo"}, "output": "o"})
        layout = JobLayout(job)
        assert "image" in layout.needed
        row = layout.lay_out(Row(0, {"image": "a", **data}), "in.jsonl")
        assert row.error is None
        assert row.messages is not None
        return row.messages[-1]["content"]

    llava = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    seen = [picture("a"), text("\nWhat?")]
    assert laid_out({"c": llava}, conversations="c", drop_last_answer=True) == seen
    assert laid_out({"p": "<image>\nWhat?"}, prompt="p") == seen
    assert laid_out({"q": "What?"}, template="<image>\n{{ q }}") == seen
    assert laid_out({"i": "<image>", "x": "What?"}, instruction="i", context="x") == seen
    assert laid_out({"m": [user("<image>\nWhat?")]}, messages="m") == seen
    assert laid_out({"t": ["<image>\nWhat?", "And now?"]}, turns="t") == seen


class Seeing(Endpoint):
    def __init__(self) -> None:
        self.asked: list[Any] = []
        super().__init__()

    def reply(self, path: str, body: dict[str, Any], headers: Message) -> Reply:
        self.asked.append(body["messages"][-1]["content"])
        return said("a cat")


@pytest.fixture
def seeing() -> Iterator[Seeing]:
    with serving(Seeing()) as made:
        yield made


def test_the_images_of_a_table_and_of_a_folder_reach_the_endpoint(tmp_path: Path, seeing: Seeing) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/cat.png").write_bytes(PNG)
    engine = {"kind": "openai", "options": {"base_url": seeing.url, "max_retries": 0}}
    job = {"engine": engine, "model": "m"}
    table = pa.table({"q": ["What?", "None?"], "image": [{"bytes": PNG, "path": "1.png"}, None]})
    pq.write_table(table, tmp_path / "in.parquet")
    found, _ = answered(tmp_path, [], input={"path": str(tmp_path / "in.parquet"), "prompt": "q", "images": "image"}, **job)
    assert [row["status"] for row in found] == ["ok", "ok"]
    assert sorted(map(str, seeing.asked)) == sorted(map(str, [[picture(DOT), text("What?")], "None?"]))
    assert json.loads(found[0]["messages"][0]["content"]) == [picture(DOT), text("What?")]
    assert base64.b64decode(DOT.partition(",")[2]) == found[0]["image"]["bytes"]

    seeing.asked.clear()
    (tmp_path / "again").mkdir()
    source = {"path": str(tmp_path / "again/in.jsonl"), "prompt": "q", "images": "image"}
    rows = [{"q": "<image>What?", "image": "cat.png"}, {"q": "<image>What?", "image": "../in.parquet"}]
    found, _ = answered(tmp_path / "again", rows, input={**source, "image_folder": str(tmp_path / "pictures")}, **job)
    assert [row["error_code"] for row in found] == [None, "input"]
    assert seeing.asked == [[picture(DOT), text("What?")]]
    assert json.loads(found[0]["messages"][0]["content"])[0] == picture("cat.png")
