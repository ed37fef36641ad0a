"""Parquet files, read by row range once their footer has been checked (table.py); some are the output of another job."""

import functools
import glob
import itertools
import os
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from batchgen.errors import InputError, safe_message
from batchgen.job.input import Input
from batchgen.output import job_file
from batchgen.output.parts import DATA
from batchgen.output.plan_file import SUCCESS
from batchgen.output.store import open_store
from batchgen.read import location
from batchgen.read.formats import Found
from batchgen.read.formats.table import BATCH_ROWS, Contents, TableFormat, not_planned
from batchgen.read.formats.tables.cells import decoded, row_bytes
from batchgen.read.formats.tables.parquet_batches import finer, side_by_side, sources_of
from batchgen.read.formats.tables.parquet_file import chunks_of, groups_of, mean_row_bytes, open_parquet
from batchgen.read.partitions import folders_of
from batchgen.records import Shard

BATCH_BYTES = 2**26  # of a batch that is read at once
PIECE = 2**22  # bytes that are digested at a time


class Parquet(TableFormat):
    """A shard's digest is of its footer, which does not cover the pages; its content is of the pages that are read."""

    name = "parquet"
    endings: tuple[str, ...] = (".parquet",)

    def folders(self, spec: Input, name: str) -> Mapping[str, object]:
        return folders_of(spec, name)

    def head(self, spec: Input, name: str, rows: int = 0) -> pa.Schema:
        return open_parquet(name)[0].schema_arrow

    def contents(self, spec: Input, name: str) -> Contents:
        file, footer = open_parquet(name)
        return Contents(xxhash.xxh3_128_hexdigest(footer), file.metadata.num_rows, None, mean_row_bytes(file))

    def content(self, spec: Input, name: str, columns: list[str] | None) -> str:
        return _content(name, None if columns is None else tuple(columns), location.stat(name))

    def batches(self, spec: Input, shard: Shard, start: int, end: int, columns: list[str] | None) -> Iterator[pa.Table]:
        version = location.stat(shard.name)
        file, footer = open_parquet(shard.name, with_dictionaries=True)
        if shard.digest not in ("", xxhash.xxh3_128_hexdigest(footer)):
            raise not_planned(shard)
        rows = [group.num_rows for group in groups_of(file)]
        ends = [0, *itertools.accumulate(rows)]
        groups = [index for index in range(len(rows)) if ends[index + 1] > start and ends[index] < end]
        skip = start - ends[groups[0]] if groups else 0
        try:
            size = max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(1.0, mean_row_bytes(file)))))
            wanted = columns and [name for name in columns if name in file.schema_arrow.names]
            sources = sources_of(file, shard.name, wanted)
            tables = (side_by_side(sources, size, group) for group in groups)  # each group has its dictionaries
            for table in itertools.chain.from_iterable(tables):
                if "://" not in shard.name and (now := location.stat(shard.name)) != version:  # stores compare it at each request
                    if self.content(spec, shard.name, columns) != shard.content:
                        raise not_planned(shard)
                    version = now
                table = finer(table)
                if row_bytes(table).sum() <= BATCH_BYTES:  # cheaper now than by spans
                    table = pa.table(list(map(decoded, table.columns)), names=table.column_names)
                if skip < table.num_rows:
                    yield table.slice(skip)
                skip = max(0, skip - table.num_rows)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"shard {shard.name}: damaged Parquet: {safe_message(error)}") from None


@functools.lru_cache(maxsize=64)
def _content(name: str, columns: tuple[str, ...] | None, version: tuple[int, str]) -> str:
    """xxh3-128 over the stored bytes of these columns (None: all) of a file. Raises InputError."""
    file, _ = open_parquet(name)
    digest = xxhash.xxh3_128()
    with location.open_shard(name) as stream:
        for group in groups_of(file):
            for column in chunks_of(group):
                path = column.path_in_schema + "."
                if columns is None or any(path.startswith(f"{name}.") for name in columns):
                    offsets = [column.data_page_offset, column.dictionary_page_offset or column.data_page_offset]
                    stream.seek(max(0, min(offsets)))
                    left = column.total_compressed_size
                    while left > 0 and (piece := stream.read(min(left, PIECE))):
                        digest.update(piece)
                        left -= len(piece)
    return digest.hexdigest()


class Parts(Parquet):
    """The `ok` rows of another job's output, each once. A retry of that job adds a part with the rows that it answers, and so a
    shard to this input. That job's fingerprint is part of the meaning of this job's rows."""

    name = "output"
    endings = ()
    takes_folders = True
    settings = frozenset({"sampling"})  # the other job's, not this one's
    always = frozenset({"status"})

    def folders(self, spec: Input, name: str) -> Mapping[str, object]:
        return {}

    def claim(self, path: str) -> list[Found] | None:
        """Raises OutputConflict for an output whose job file is damaged, InputError for a job that is not done."""
        is_store = "://" in path and not path.startswith("hf://")
        if glob.has_magic(path) or not (is_store or os.path.isdir(path)):
            return None
        store = open_store(path)
        if (frozen := job_file.load(store)) is None:
            return None
        if store.get(SUCCESS) is None:
            raise InputError(f"input.path {path}: unfinished: the job of this output is not done", "run it to its end first")
        names = sorted(location.plain(f"{path.rstrip('/')}/{name}") for name in store.list(DATA) if name.endswith(".parquet"))
        if link := next((name for name in names if os.path.islink(name)), None):
            raise InputError(f"shard {link}: a symbolic link, which no part is", "run batchgen verify on the output")
        return [Found(name, self.name, upstream=(path, frozen.fingerprint)) for name in names]

    def find(self, path: str) -> list[Found]:
        if (claimed := self.claim(path)) is None:
            raise InputError(f"input.path {path}: no output of a job", "leave input.format out")
        return claimed

    def contents(self, spec: Input, name: str) -> Contents:
        file, footer = open_parquet(name)
        try:
            ok = pc.equal(file.read(columns=["status"]).column("status"), "ok")
        except (OSError, KeyError, pa.ArrowException) as error:
            raise InputError(f"shard {name}: damaged part of an output: {error}") from None
        return Contents(xxhash.xxh3_128_hexdigest(footer), pc.sum(ok).as_py() or 0, ok, mean_row_bytes(file))

    def wanted(self, table: pa.Table) -> pa.Table:
        return table.filter(pc.equal(table.column("status"), "ok"))


PARQUET, PARTS = Parquet(), Parts()
