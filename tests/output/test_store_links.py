"""Below a local output's root no link is followed; and what swap and deletion in bulk do, in every store."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError, NotSupportedError

from batchgen.errors import StoreError
from batchgen.output.store import LocalStore, Store, delete_all, open_store


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return open_store(f"{request.getfixturevalue('s3').url}/{uuid.uuid4().hex}")
    return open_store(str(tmp_path / "out") if request.param == "local" else f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with a file, to which `data` and `_batchgen/tmp` of an output lead."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "precious").write_bytes(b"kept")
    return folder


ACTS: dict[str, Callable[[LocalStore], object]] = {
    "put_new": lambda store: store.put_new("data/a", b"x"),
    "put": lambda store: store.put("data/precious", b"x"),
    "swap": lambda store: store.swap("data/precious", b"kept", b"x"),
    "get": lambda store: store.get("data/precious"),
    "delete": lambda store: store.delete("data/precious"),
    "delete_all": lambda store: store.delete_all(["data/precious"]),
    "list": lambda store: list(store.list("data")),
    "list deeper": lambda store: list(store.list("data/deep")),
}


@pytest.mark.parametrize("act", ACTS)
def test_a_folder_that_is_a_link_is_refused_by_name(tmp_path: Path, elsewhere: Path, act: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/data").symlink_to(elsewhere)
    with pytest.raises(StoreError, match=r"out/data is a symbolic link, which is not followed; mend it"):
        ACTS[act](LocalStore(tmp_path / "out"))
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == {"precious": b"kept"}


def test_no_scratch_goes_through_a_link(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "out/_batchgen").mkdir(parents=True)
    (tmp_path / "out/_batchgen/tmp").symlink_to(elsewhere)
    with pytest.raises(StoreError, match="symbolic link"):
        LocalStore(tmp_path / "out").put_new("data/a", b"x")
    assert os.listdir(elsewhere) == ["precious"]


def test_a_name_that_is_a_link_is_not_read_and_is_itself_what_is_replaced_and_deleted(tmp_path: Path, elsewhere: Path) -> None:
    store = LocalStore(tmp_path / "out")
    store.put("a", b"x")
    (tmp_path / "out/link").symlink_to(elsewhere / "precious")
    with pytest.raises(StoreError, match="out/link is a symbolic link"):
        store.get("link")
    assert store.put_new("link", b"y") is False
    store.put("link", b"y")
    assert store.get("link") == b"y"
    (tmp_path / "out/other").symlink_to(elsewhere / "precious")
    store.delete("other")
    assert not (tmp_path / "out/other").is_symlink()
    assert (elsewhere / "precious").read_bytes() == b"kept"


def test_a_list_names_links_and_does_not_go_into_them(tmp_path: Path, elsewhere: Path) -> None:
    store = LocalStore(tmp_path / "out")
    store.put("data/a", b"x")
    (tmp_path / "out/data/link").symlink_to(elsewhere)
    (tmp_path / "out/data/lost").symlink_to(tmp_path / "nowhere")
    assert sorted(store.list("data")) == ["data/a", "data/link", "data/lost"]


def test_the_root_itself_may_be_a_link(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "out").symlink_to(elsewhere)
    store = LocalStore(tmp_path / "out")
    assert store.put_new("data/a", b"x")
    assert (store.get("data/a"), (elsewhere / "data/a").read_bytes()) == (b"x", b"x")
    assert sorted(store.list("")) == ["data/a", "precious"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / "data").mkdir()
    make(tmp_path / "data/a")
    with pytest.raises(StoreError, match=r"data/a: (not a regular file|Is a directory)"):
        LocalStore(tmp_path).get("data/a")


def test_swap_replaces_what_is_still_the_same_and_nothing_else(store: Store) -> None:
    assert store.swap("a", b"", b"1") is False
    assert store.get("a") is None
    store.put("a", b"1")
    assert store.swap("a", b"1", b"2") is True
    assert store.swap("a", b"1", b"3") is False
    assert store.get("a") == b"2"


def test_of_many_swaps_of_the_same_one_succeeds(store: Store) -> None:
    store.put("a", b"before")
    done: list[bytes] = []

    def swap(data: bytes) -> None:
        if store.swap("a", b"before", data):
            done.append(data)

    threads = [threading.Thread(target=swap, args=[b"%d" % number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.get("a")] == done


def test_a_swap_waits_no_longer_than_it_says_for_a_process_that_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchgen.output.store import local

    monkeypatch.setattr(local, "LOCK_SECONDS", 0.05)
    store = LocalStore(tmp_path)
    store.put("a", b"1")
    folder = os.open(tmp_path, os.O_RDONLY)
    with local._locked(folder), pytest.raises(StoreError, match="another process that stands still holds its lock"):
        store.swap("a", b"1", b"2")
    os.close(folder)
    assert store.get("a") == b"1"
    assert store.swap("a", b"1", b"2")


def test_an_object_store_is_asked_once_for_a_thousand_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from batchgen.output.store import objects

    asked: list[int] = []
    monkeypatch.setattr(objects.obstore, "delete", lambda client, names: asked.append(len(names)))
    delete_all(open_store(f"memory://{uuid.uuid4().hex}"), (f"journal/{number}" for number in range(2_100)))
    assert asked == [1_000, 1_000, 100]


@pytest.mark.parametrize(
    "error", [GenericError("501: <Code>NotImplemented</Code>"), NotSupportedError("no"), NotImplementedError()]
)
def test_a_store_without_conditional_writes_is_written_where_it_is_the_same(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from batchgen.output.store import objects

    kept = objects.obstore.put

    def put(client: Any, name: str, data: bytes, mode: Any = None, **options: Any) -> None:
        if isinstance(mode, dict):
            raise error
        kept(client, name, data, mode=mode, **options)

    monkeypatch.setattr(objects.obstore, "put", put)
    store = open_store(f"memory://{uuid.uuid4().hex}")
    store.put("a", b"1")
    assert (store.swap("a", b"1", b"2"), store.swap("a", b"1", b"3"), store.get("a")) == (True, False, b"2")


def test_many_names_are_deleted_at_once(store: Store) -> None:
    names = [f"journal/{number}" for number in range(1_050 if isinstance(store, LocalStore) else 1_003)]
    for name in names:
        store.put(name, b"")
    store.put("data/a", b"kept")
    delete_all(store, iter([*names, "journal/nowhere"]))
    assert list(store.list("")) == ["data/a"]
