"""Expand the job's paths to shard names, stat shards, open them. Every function raises InputError.

A shard's name is its path as the job spells it, so that a job that moves with its working directory keeps its names. Paths are
local (regular files only), s3:// gs:// az:// (obstore) or hf://datasets/... (huggingface_hub)."""

import functools
import glob
import io
import os
import re
import stat as modes
from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

import obstore
from obstore.exceptions import NotFoundError, PreconditionError
from obstore.store import ObjectStore

from batchgen.errors import InputError, safe_message
from batchgen.output.store import open_client
from batchgen.render.model.hub import of_hub

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from huggingface_hub import HfFileSystem
    from obstore import GetOptions

BUFFER = 8 * 2**20  # bytes per request to an object store
T = TypeVar("T")
_bucket = functools.cache(open_client)


def expand(path: str, endings: tuple[str, ...]) -> list[str]:
    """The shard names of a path, sorted, without `./` and `//`: the path itself, the files of a glob, or those of a directory at
    any depth with one of `endings`."""
    if path.startswith("hf://"):
        names = _ask(path, lambda: _expand_hub(path, endings))
    elif "://" in path:
        names = _expand_objects(path, endings)
    elif os.path.isdir(path):
        names = _visible(glob.glob(os.path.join(glob.escape(path), "**", "*"), recursive=True), path, endings)
    elif os.path.exists(path):
        names = [path]
    elif glob.has_magic(path):
        names = glob.glob(path, recursive=True)
    else:
        raise InputError(f"input.path {path}: no such file or directory", f"relative paths start at {os.getcwd()}")
    names = [name for name in names if "://" in name or not os.path.isdir(name)]
    if not names:
        what = "nothing matches" if glob.has_magic(path) else f"no shards in it (known endings: {' '.join(endings)})"
        raise InputError(f"input.path {path}: {what}", f"relative paths start at {os.getcwd()}")
    return sorted(map(plain, names))


_VERSION = re.compile(r"(.*?)(?:@([0-9a-f.]+)\.([0-9a-f]+))?", re.DOTALL)
"""The version of a local file: when it was written, its inode, when that was changed; the first alone in earlier plans."""


def plain(name: str) -> str:
    """A path without `./` and `//`, and without `..` where that leads to the same file: behind a link it does not."""
    if "://" in name:
        return name
    short = os.path.normpath(name)
    is_same = ".." not in name.split("/") or os.path.realpath(short) == os.path.realpath(name)
    return short if is_same else str(PurePath(name))


def stat(name: str) -> tuple[int, str]:
    """Size in bytes, and a version that changes when the shard is written again."""
    if name.startswith("hf://"):
        info = _ask(name, lambda: _hub().info(name))
        return int(info["size"]), str(info.get("blob_id") or info.get("sha256") or "")
    if "://" in name:
        client, key = _locate(name)
        meta = _ask(name, lambda: obstore.head(client, key))
        return int(meta["size"]), str(meta["e_tag"] or meta["last_modified"])
    try:
        status = os.stat(name)
    except OSError as error:
        raise InputError(f"shard {name}: {error.strerror}") from None
    if not modes.S_ISREG(status.st_mode):
        raise InputError(f"shard {name}: not a regular file")
    return status.st_size, f"{status.st_mtime_ns}@{status.st_dev}.{status.st_ino}.{status.st_ctime_ns}"


def is_same(one: tuple[int, str], other: tuple[int, str]) -> bool:
    """Whether two stats are of a shard that nobody wrote to between them. The time of a file's last change, which no program
    sets, tells of one inode alone: copies on other nodes, and plans of earlier releases, have none to compare."""
    (size, version), (other_size, other_version) = one, other
    (written, inode, change), (other_written, other_inode, other_change) = map(_parts, (version, other_version))
    is_edited = inode is not None and inode == other_inode and change != other_change
    return (size, written) == (other_size, other_written) and not is_edited


def _parts(version: str) -> tuple[str, str | None, str | None]:
    found = _VERSION.fullmatch(version)
    assert found is not None  # whatever the text
    return found[1], found[2], found[3]


def open_shard(name: str) -> BinaryIO:
    """A seekable stream of the stored bytes."""
    size, version = stat(name)  # refuses what is not a regular file
    if name.startswith("hf://"):
        return cast(BinaryIO, _ask(name, lambda: _hub().open(name, "rb")))
    if "://" in name:
        client, key = _locate(name)
        return cast(BinaryIO, io.BufferedReader(_ObjectStream(name, client, key, size, version), BUFFER))
    try:
        return open(name, "rb")
    except OSError as error:
        raise InputError(f"shard {name}: {error.strerror}") from None


class _ObjectStream(io.RawIOBase):
    """The bytes of one version of an object: another one that is put meanwhile is refused by the store."""

    def __init__(self, name: str, client: ObjectStore, key: str, size: int, version: str) -> None:
        self._name, self._client, self._key, self._size, self._at = name, client, key, size, 0
        self._match: GetOptions = {"if_match": version} if version.startswith(('"', "W/")) else {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        if (length := min(len(view), self._size - self._at)) <= 0:
            return 0
        options: GetOptions = {**self._match, "range": (self._at, self._at + length)}
        data = _ask(self._name, lambda: obstore.get(self._client, self._key, options=options).bytes())
        view[: len(data)] = memoryview(data)
        self._at += len(data)
        return len(data)


def _visible(names: Iterable[str], root: str, endings: tuple[str, ...]) -> list[str]:
    """The names with one of `endings`, without those where a file or folder below `root` starts with `_` or a dot."""
    return [name for name in names if name.lower().endswith(endings) and not re.search("(^|/)[_.]", name[len(root) :])]


def _expand_objects(path: str, endings: tuple[str, ...]) -> list[str]:
    client, key = _locate(path)
    bucket = path[: len(path) - len(key)] if key else path.rstrip("/") + "/"
    literal = re.split(r"[*?\[]", key)[0]
    folder = literal.rpartition("/")[0] if literal != key else key.rstrip("/")
    pages = _ask(path, lambda: list(obstore.list(client, folder or None)))
    found = [item["path"] for page in pages for item in page]
    if literal != key:
        pattern = re.compile(_glob_regex(key))
        return [bucket + name for name in found if pattern.fullmatch(name)]
    if not found:
        stat(path)
        return [path]
    return _visible([bucket + name for name in found], bucket + folder, endings)


def _glob_regex(pattern: str) -> str:
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)  # text and wildcards by turns
    pieces[::2] = map(re.escape, pieces[::2])
    pieces[1::2] = [wild.get(piece) or piece.replace("[!", "[^", 1) for piece in pieces[1::2]]
    return "".join(pieces)


def _expand_hub(path: str, endings: tuple[str, ...]) -> list[str]:
    files = _hub()
    if glob.has_magic(path):
        return [f"hf://{name}" for name in files.glob(path)]
    if files.isdir(path):  # type: ignore[no-untyped-call]
        return _visible([f"hf://{name}" for name in files.find(path)], path, endings)
    return [path]


def _hub() -> "HfFileSystem":
    from huggingface_hub import HfFileSystem  # takes half a second

    return HfFileSystem()


def _locate(name: str) -> tuple[ObjectStore, str]:
    scheme, _, rest = name.partition("://")
    bucket, _, key = rest.partition("/")
    return _bucket(f"{scheme}://{bucket}"), key


def _ask(name: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except (NotFoundError, FileNotFoundError):
        raise InputError(f"{name}: no such object") from None
    except PreconditionError:
        raise InputError(f"shard {name}: it changed while it was read", "run again once nothing writes it") from None
    except Exception as error:  # obstore, the Hub's client and its HTTP library each raise their own
        other = safe_message(error), "check the address and the credentials"
        cause, remedy = of_hub(error) if name.startswith("hf://") else other
        raise InputError(f"{name}: {cause}", remedy) from None
