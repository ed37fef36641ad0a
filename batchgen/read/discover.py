"""The job's paths -> shards as they are now."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from batchgen.errors import InputError, JobError
from batchgen.job.input import Input
from batchgen.job.job import Job
from batchgen.output.store import open_store
from batchgen.read.formats import FORMATS, Found, format_of, known_endings
from batchgen.read.location import expand

R = TypeVar("R")


def discover(spec: Input) -> list[Found]:
    """The shards of the job's paths, in order, each once.

    Raises JobError for an unknown format, InputError where there are no shards, shards of two formats, one file under two names,
    or a name that cannot be shown.
    """
    found: dict[str, Found] = {}
    for path in spec.paths:
        for shard in _shards(spec, path):
            found.setdefault(shard.name, shard)
    by_file: dict[str, str] = {}
    for name, shard in found.items():
        if not name.isprintable():
            raise InputError(f"shard {name!r}: control characters or bytes that are no UTF-8 in its name", "rename it")
        if "://" not in name and (other := by_file.setdefault(os.path.realpath(name), name)) != name:
            raise InputError(f"shards {other} and {name} are one file", "leave the symbolic link out")
        if not shard.format:
            endings = " ".join(known_endings())
            raise InputError(f"shard {name}: unknown format", f"set input.format, or use an ending of {endings}")
    kinds = sorted({shard.format for shard in found.values()})
    if len(kinds) > 1:
        raise InputError(f"input.path leads to both {' and '.join(kinds)} shards", "give each its own job")

    def with_version(shard: Found) -> Found:
        size, stamp = format_of(spec, shard).version(spec, shard.name)
        return replace(shard, size=size, stamp=stamp)

    return in_threads(with_version, found.values())


def _shards(spec: Input, path: str) -> list[Found]:
    if spec.format != "auto":
        return FORMATS.named(spec.format).find(path)
    known = known_endings()
    endings = tuple(known)
    for one in FORMATS.all().values() if not path.endswith(endings) else ():
        if (claimed := one.claim(path)) is not None:
            return claimed
    return [Found(name, next((known[end] for end in endings if name.endswith(end)), "")) for name in expand(path, endings)]


def refuse_own_output(job: Job) -> None:
    """Raises JobError for a job that reads what it writes."""
    own = open_store(job.output.path).url.rstrip("/")
    for path in job.input.paths:
        place = path if "://" in path else os.path.abspath(path)
        if place.rstrip("/") in (own, os.path.abspath(own)):
            raise JobError(f"input.path {path}: it is the job's own output", "give output.path another place")


def in_threads(call: Callable[..., R], *arguments: Iterable[object]) -> list[R]:
    """`map` for calls that wait for a store, eight at a time."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(call, *arguments))
