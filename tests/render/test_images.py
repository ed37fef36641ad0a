"""Images by path and by URL, from the row to the engine and the output."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.engines.base import Request
from batchgen.engines.restarting import RestartingEngine
from batchgen.engines.vllm import read_picture
from batchgen.errors import BadRow, JobError
from batchgen.job.input import Input
from batchgen.records import Answer
from batchgen.render.images.images import Images
from batchgen.render.messages import images, with_images
from tests.support.images import DOT, PNG, image, serving
from tests.support.replicas import Backwards, blocks, part_bytes, prepared, ran, replica


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def said(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*parts]}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, and what is none, below a folder and beside it."""
    inside = tmp_path / "pictures"
    (inside / "cats").mkdir(parents=True)
    (inside / "cats/1.png").write_bytes(PNG)
    (inside / "note.png").write_text("no image")
    (inside / "empty.png").write_bytes(b"")
    (tmp_path / "secret.png").write_bytes(PNG)
    (inside / "within.png").symlink_to(inside / "cats/1.png")
    (inside / "out.png").symlink_to(tmp_path / "secret.png")
    (inside / "outside").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe.png")
    return inside


def of(folder: Path, **fields: Any) -> Images:
    return Images(Input.model_validate({"path": "in", "messages": "m", "image_folder": str(folder), **fields}))


def refusal(made: Images, url: str) -> str:
    with pytest.raises(BadRow) as caught:
        made.check(2, url)
    assert caught.value.code == "input"
    return str(caught.value)


def test_an_image_is_read_below_the_folder(folder: Path) -> None:
    names = ["cats/1.png", "./cats/../cats/1.png", str(folder / "cats/1.png"), "within.png", DOT]
    assert of(folder).load(names) == [DOT] * 5


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("../secret.png", "'../secret.png' leads out of input.image_folder"),
        ("/etc/passwd", "'/etc/passwd' leads out of input.image_folder"),
        ("out.png", "'out.png' leads out of input.image_folder"),
        ("outside/secret.png", "'outside/secret.png' leads out of input.image_folder"),
        ("cats/2.png", "'cats/2.png': No such file or directory"),
        ("cats/1.png/x", "'cats/1.png/x': Not a directory"),
        ("cats", "'cats': Is a directory"),
        ("", "'': Is a directory"),
        ("pipe.png", "'pipe.png' is not a regular file"),
        ("note.png", "it is no image (PNG, JPEG, WebP, GIF or BMP)"),
        ("empty.png", "it is no image (PNG, JPEG, WebP, GIF or BMP)"),
        ("a\0b", "embedded null byte"),
        ("x" * 5000, f"'{'x' * 5000}': File name too long"),
        ("file:///etc/passwd", "only images in the row itself are read (data:image/...;base64,...); the job allows no hosts"),
        ("//evil.example/cat.png", "only images in the row itself are read (data:image/...;base64,...); the job allows no hosts"),
    ],
)
def test_anything_else_is_an_error_that_names_the_image(folder: Path, name: str, cause: str) -> None:
    assert refusal(of(folder), name).startswith(f"image 2: {cause}")


def test_a_file_over_the_cap_is_not_read(folder: Path) -> None:
    (folder / "large.png").write_bytes(PNG + bytes(100))
    made = of(folder, max_row_bytes=100)
    assert made.load(["cats/1.png"]) == [DOT]
    cause = f"image 2: 'large.png' has {len(PNG) + 100} bytes, over input.max_row_bytes (100)"
    assert refusal(made, "large.png") == cause


@given(st.text(max_size=40).filter(lambda name: "\0" not in name))
def test_no_name_leads_out_of_the_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.getbasetemp() / "closed"
    root.mkdir(exist_ok=True)
    with pytest.raises(BadRow):
        of(root).check(1, name)


def test_an_image_that_is_gone_since_it_was_checked_is_an_error(folder: Path) -> None:
    made = of(folder)
    made.check(1, "cats/1.png")
    (folder / "cats/1.png").unlink()
    with pytest.raises(BadRow, match=r"^image 1: 'cats/1\.png': No such file or directory$"):
        made.load(["cats/1.png"])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_the_formats_that_vllm_reads_are_known(folder: Path, form: str) -> None:
    pillow = pytest.importorskip("PIL.Image")
    pillow.new("RGB", (3, 2)).save(folder / "made", form)
    [url] = of(folder).load(["made"])
    assert url.startswith(f"data:image/{form.lower()};base64,")
    assert read_picture(url).size == (3, 2)


def test_a_folder_that_is_not_there_is_a_mistake_of_the_job(tmp_path: Path) -> None:
    source = {"path": str(tmp_path / "in.jsonl"), "prompt": "prompt", "image_folder": str(tmp_path / "pictures")}
    with pytest.raises(
        JobError, match=r"^input\.image_folder .*pictures: no such folder; name a local folder that every node has"
    ):
        prepared(tmp_path, [{"prompt": "a"}], input=source)


class Eyes(Backwards):
    """Answers with the images that it is shown."""

    async def generate(self, request: Request) -> list[Answer]:
        return [Answer(" ".join(request.images), 1, "stop")]


def shown(folder: Path, tmp_path: Path, rows: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    """The rows of the output."""
    source = {"path": str(tmp_path / "in.jsonl"), "messages": "messages", "image_folder": str(folder), **fields}
    made = prepared(tmp_path, rows, input=source)
    receipt = ran(replica(made, RestartingEngine(lambda: Eyes(1), 60, None)), blocks(made)[0])
    found: list[dict[str, Any]] = pq.read_table(io.BytesIO(part_bytes(made, receipt))).to_pylist()
    return found


def test_the_engine_is_given_the_image_and_the_output_its_name(folder: Path, tmp_path: Path) -> None:
    with serving(cat=PNG, note=b"no image", missing=404) as server:
        names = [
            "cats/1.png",
            server.url("/cat"),
            server.url("/note"),
            server.url("/missing"),
            "cats/9.png",
            "http://evil.example/",
        ]
        rows = [{"messages": said(text("Look."), image(name))} for name in names]
        found = shown(folder, tmp_path, rows, image_hosts=["localhost"])
    assert [row["response"] for row in found] == [DOT, DOT, None, None, None, None]
    for row, name in zip(found[:4], names, strict=False):
        assert json.loads(row["messages"][0]["content"])[1] == image(name)
    causes = [row["error_detail"].partition(":")[2].partition(": ")[2] for row in found[2:]]
    assert causes == [
        "image 1: it is no image (PNG, JPEG, WebP, GIF or BMP)",
        "image 1: host localhost: HTTP 404",
        "image 1: 'cats/9.png': No such file or directory",
        "image 1: host evil.example is not in input.image_hosts",
    ]
    assert {row["error_code"] for row in found[2:]} == {"input"}
    assert found[0]["prompt_hash"] == found[1]["prompt_hash"], "it is of what the model sees"


def test_another_image_of_the_same_name_is_another_prompt(folder: Path, tmp_path: Path) -> None:
    rows = [{"messages": said(text("Look."), image("cats/1.png"))}]
    [one] = shown(folder, tmp_path / "pictures", rows)
    (folder / "cats/1.png").write_bytes(PNG + b"more")
    (folder / "out").rename(folder / "before")
    [other] = shown(folder, tmp_path / "pictures", rows)
    assert one["prompt_hash"] != other["prompt_hash"]


@given(st.lists(st.lists(st.sampled_from(["a", "b", None]), max_size=4), max_size=4))
def test_images_are_put_where_they_stand(content: list[list[str | None]]) -> None:
    messages = [one for parts in content for one in said(*(text("t") if url is None else image(url) for url in parts))]
    given = [f"data:{number}" for number, _ in enumerate(images(messages))]
    made = with_images(messages, given)
    assert images(made) == given
    back = with_images(made, images(messages))
    assert back == messages
