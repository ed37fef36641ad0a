"""Datasets of the `datasets` library: directories made by save_to_disk, and datasets of the Hub."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import xxhash

from batchgen.errors import InputError, safe_message
from batchgen.job.input import Input
from batchgen.read.formats import Found
from batchgen.read.formats.table import BATCH_ROWS, EXTENSION, METADATA_CAP, Contents, TableFormat, check_types, not_planned
from batchgen.records import Shard
from batchgen.render.model.hub import of_hub

PIECE = 2**22  # bytes that are digested at a time


class DatasetFormat(TableFormat):
    """A shard is a whole dataset; its digest is the fingerprint that `datasets` computes, which stays where somebody edits the
    files of a saved directory. Its content is theirs."""

    name = "dataset"
    takes_folders = True

    def claim(self, path: str) -> list[Found] | None:
        """A directory of save_to_disk."""
        is_one = any(
            all(os.path.isfile(os.path.join(path, name)) for name in names)
            for names in (("dataset_dict.json",), ("state.json", "dataset_info.json"))
        )
        return [Found(path, self.name)] if is_one else None

    def find(self, path: str) -> list[Found]:
        return [Found(path, self.name)]

    def version(self, spec: Input, name: str) -> tuple[int, str]:
        found = load_dataset(spec, name)
        digest = str(found._fingerprint)  # it has no public name
        if not (files := _files(found, name)):
            return 0, digest
        status = [os.stat(path) for path in files]
        written, inodes, changed = (
            xxhash.xxh3_64_hexdigest("".join(f" {one}" for one in each).encode())
            for each in zip(*((one.st_mtime_ns, (one.st_dev, one.st_ino), one.st_ctime_ns) for one in status), strict=True)
        )
        return sum(one.st_size for one in status), f"{digest} {written}@{inodes}.{changed}"

    def head(self, spec: Input, name: str, rows: int = 0) -> pa.Schema:
        return load_dataset(spec, name).features.arrow_schema

    def contents(self, spec: Input, name: str) -> Contents:
        found = load_dataset(spec, name)
        return Contents(str(found._fingerprint), len(found))

    def content(self, spec: Input, name: str, columns: list[str] | None) -> str:
        files = _files(load_dataset(spec, name), name)
        return _content(_times(files)) if files else ""

    def batches(self, spec: Input, shard: Shard, start: int, end: int, columns: list[str] | None) -> Iterator[pa.Table]:
        found = load_dataset(spec, shard.name)
        view = found.select_columns([name for name in found.column_names if columns is None or name in columns]).with_format(
            "arrow"
        )
        files = _files(found, shard.name)
        times = _times(files)
        for low in range(start, end, BATCH_ROWS):
            piece = view[low : min(low + BATCH_ROWS, end)]
            if (now := _times(files)) != times:
                if _content(now) != shard.content:
                    raise not_planned(shard)
                times = now
            yield piece

    def is_sequential(self, shard: Shard) -> bool:
        return False


def _files(found: Any, name: str) -> list[str]:
    """The data files of a saved directory; none of a dataset of the Hub, whose revision has a hash of its own."""
    return [file["filename"] for file in found.cache_files] if os.path.isdir(name) else []


def _times(files: list[str]) -> tuple[tuple[str, int, int], ...]:
    """When files were written, and when their inodes were changed."""
    return tuple((path, (status := os.stat(path)).st_mtime_ns, status.st_ctime_ns) for path in files)


@functools.lru_cache(maxsize=64)
def _content(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = xxhash.xxh3_128()
    for path, _, _ in files:
        with open(path, "rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
    return digest.hexdigest()


def load_dataset(spec: Input, name: str) -> Any:
    """The split `input.split` of a saved directory or a Hub dataset, as datasets.Dataset. Raises InputError."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    datasets.disable_progress_bars()
    try:
        if os.path.isdir(name):
            _refuse_extensions(Path(name))
            found = datasets.load_from_disk(name)
            if isinstance(found, datasets.DatasetDict):
                if spec.split not in found:
                    cause = f"dataset {name}: no split {spec.split!r}, its splits are {', '.join(found)}"
                    raise InputError(cause, "set input.split")
                found = found[spec.split]
        else:
            found = datasets.load_dataset(name, spec.subset, split=spec.split)
    except InputError:
        raise
    except Exception as error:  # datasets, the Hub client and fsspec each raise their own
        cause, remedy = (
            f"{type(error).__name__}: {safe_message(error, 300)}",
            "name a Hub dataset or a directory made by save_to_disk",
        )
        if isinstance(error, ConnectionError | HfHubHTTPError | OfflineModeIsEnabled):
            cause, remedy = of_hub(error)
        raise InputError(f"dataset {name}: {cause}", remedy) from None
    check_types(name, found.features.arrow_schema)
    return found


def _refuse_extensions(folder: Path) -> None:
    """Raises InputError for an extension type in the schema message of an Arrow stream that a state file names."""
    for state in folder.rglob("state.json"):
        for entry in orjson.loads(state.read_bytes()).get("_data_files") or []:
            path = state.parent / entry["filename"]
            if path.resolve().parent != state.parent.resolve():
                raise InputError(f"{state}: it names a file outside its directory: {path.name}")
            with open(path, "rb") as file:
                # The stream format begins with a continuation mark and the length of the schema message.
                mark, length = file.read(4), int.from_bytes(file.read(4), "little")
                if mark != b"\xff\xff\xff\xff" or length > METADATA_CAP:
                    raise InputError(f"{path}: not an Arrow stream", "save the dataset with save_to_disk")
                if EXTENSION in file.read(length):
                    raise InputError(f"{path}: it has an Arrow extension type", "save the column with a plain type")


DATASET = DatasetFormat()
