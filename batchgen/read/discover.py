"""The job's paths -> shards as they are now, and the combinations in the file that `attributes.sample.from` names."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import orjson

from batchgen.errors import InputError, JobError, safe_message
from batchgen.job.attributes import WEIGHT
from batchgen.job.input import Input
from batchgen.job.job import Job
from batchgen.output.store import open_store
from batchgen.read.formats import FORMATS, Found, format_of, known_endings
from batchgen.read.formats.tables.parquet_file import open_parquet
from batchgen.read.location import expand, plain

R = TypeVar("R")
METADATA = ".metadata.json"  # of an Iceberg table


def discover(spec: Input) -> list[Found]:
    """The shards of the job's paths, in order, each once. Raises JobError for an unknown format, InputError where there are no
    shards, shards of two formats, one file under two names, or a name that cannot be shown."""
    found: dict[str, Found] = {}
    for path in spec.paths:
        for shard in _shards(spec, path):
            found.setdefault(shard.name, shard)
    if spec.format == "auto":
        found = {shard.name: shard for shard in in_threads(_looked_into, found.values())}
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
        size, version = format_of(spec, shard).version(spec, shard.name)
        return replace(shard, size=size, version=version)

    return in_threads(with_version, found.values())


def _shards(spec: Input, path: str) -> list[Found]:
    if spec.format != "auto":
        return FORMATS.named(spec.format).find(path)
    known = known_endings()
    endings = tuple(known)
    for one in FORMATS.all().values() if path.endswith(METADATA) or not path.lower().endswith(endings) else ():
        if (claimed := one.claim(path)) is not None:
            return claimed
    names = expand(path, endings)
    found = [Found(name, next((known[end] for end in endings if name.lower().endswith(end)), "")) for name in names]
    if glob.has_magic(path) or names in ([path], [plain(path)]):
        return found
    ranks = {name: FORMATS.named(name).rank for name in {shard.format for shard in found}}
    return [shard for shard in found if ranks[shard.format] == min(ranks.values())]


def _looked_into(shard: Found) -> Found:
    return replace(shard, format=FORMATS.named(shard.format).of_content(shard.name)) if shard.format else shard


def skipped(spec: Input, found: list[Found]) -> list[str]:
    """The files in the job's folders that are no shards, for their endings; those that begin with `_` or a dot do not count."""
    if any(FORMATS.named(shard.format).takes_folders for shard in found):
        return []
    names = {shard.name for shard in found}
    folders = [path for path in spec.paths if names.isdisjoint((path, plain(path))) and not glob.has_magic(path)]
    return [name for path in folders for name in expand(path, ("",)) if name not in names]


def upstream_of(found: list[Found]) -> tuple[str, ...]:
    """The fingerprints of the jobs whose outputs are the input."""
    return tuple(fingerprint for _, fingerprint in dict.fromkeys(shard.upstream for shard in found if shard.upstream))


def refuse_own_output(job: Job) -> None:
    """Raises JobError for a job that reads what it writes."""
    own = open_store(job.output.path).url.rstrip("/")
    tables = [path for named in job.input.tables.values() for path in ([named] if isinstance(named, str) else named)]
    for path in [*job.input.paths, *tables]:
        place = path if "://" in path else os.path.abspath(path)
        if place.rstrip("/") in (own, os.path.abspath(own)):
            raise JobError(f"input.path {path}: it is the job's own output", "give output.path another place")


def with_combinations(job: Job) -> Job:
    """The job with the combinations in the rows of the file `attributes.sample.from` in place of its path, since workers do not
    have the file: each once, in order of appearance, with its number of rows as weight. Raises JobError."""
    if not job.attributes or not job.attributes.sample or not isinstance(path := job.attributes.sample.from_, str):
        return job
    names = job.attributes.schema.names
    where = f"attributes.sample.from {path}"
    try:
        if path.endswith(".parquet"):
            file, _ = open_parquet(path)
            rows = file.read(columns=[name for name in file.schema_arrow.names if name in names]).to_pylist()
        else:
            with open(path, "rb") as lines:
                rows = [orjson.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, InputError) as error:
        raise JobError(f"{where}: {safe_message(error)}") from None
    counted: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, dict):
            counted[orjson.dumps({name: row[name] for name in names if row.get(name) is not None}).decode()] += 1
    counted.pop("{}", None)
    if not counted:
        raise JobError(f"{where}: no row in it has one of {', '.join(names)}")
    fields = job.model_dump(mode="json", by_alias=True)
    fields["attributes"]["sample"]["from"] = [{**orjson.loads(point), WEIGHT: times} for point, times in counted.items()]
    return Job.parse(fields, where)


def in_threads(call: Callable[..., R], *arguments: Iterable[object]) -> list[R]:
    """`map` for calls that wait for a store, eight at a time."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(call, *arguments))
