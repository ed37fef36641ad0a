"""Hostile inputs: symbolic links that lead back, twice or nowhere; control characters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import InputError
from batchgen.job.input import Input
from batchgen.read.discover import discover
from tests.support.replicas import answered

TITLE = "\x1b]0;owned\x07\x9b31m"


def found(folder: Path) -> list[str]:
    return [os.path.relpath(shard.name, folder) for shard in discover(Input(path=str(folder), prompt="prompt"))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_text('{"prompt": "a"}\n')
    return tmp_path / "in"


def test_a_link_to_a_file_or_a_folder_is_what_it_leads_to(folder: Path) -> None:
    (folder.parent / "there").mkdir()
    (folder.parent / "there/b.jsonl").write_text('{"prompt": "b"}\n')
    (folder.parent / "c").write_text('{"prompt": "c"}\n')
    (folder / "there").symlink_to(folder.parent / "there")
    (folder / "c.jsonl").symlink_to("../c")
    assert found(folder) == ["a.jsonl", "c.jsonl", "there/b.jsonl"]


@pytest.mark.parametrize("target", ["a.jsonl", "../in/a.jsonl"])
def test_a_shard_that_two_names_lead_to_is_refused_and_not_read_twice(folder: Path, target: str) -> None:
    (folder / "b.jsonl").symlink_to(target)
    with pytest.raises(InputError, match=r"shards .*/a\.jsonl and .*/b\.jsonl are one file; leave the symbolic link out"):
        found(folder)


def test_a_link_that_leads_back_is_refused(folder: Path) -> None:
    (folder / "again").symlink_to(".")
    with pytest.raises(InputError, match=r"shards .*/a\.jsonl and .*/again/a\.jsonl are one file"):
        found(folder)


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("/dev/zero", "not a regular file"),
        ("pipe", "not a regular file"),
        ("nowhere", "No such file or directory"),
        ("b.jsonl", "Too many levels of symbolic links"),
    ],
)
def test_a_link_to_no_regular_file_is_refused(folder: Path, target: str, cause: str) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "b.jsonl").symlink_to(target)
    with pytest.raises(InputError, match=rf"shard .*/b\.jsonl: {cause}$"):
        found(folder)


def test_control_characters_are_data(tmp_path: Path) -> None:
    row = {"id": f"id {TITLE}", "prompt": f"say {TITLE}"}
    fields: dict[str, Any] = {"input": {"path": str(tmp_path / "in.jsonl"), "prompt": "prompt", "id": "id"}}
    [part], _ = answered(tmp_path, [row], **fields)
    assert part["id"] == row["id"]
    assert part["messages"][0]["content"] == row["prompt"]
