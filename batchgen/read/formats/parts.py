"""An output as the input of another job: the `ok` rows of its parts, each once.

Failed rows are left out. A retry of the other job adds a part with the rows that it answers, and so a shard to the input of this
one. The other job's fingerprint is part of the meaning of this one's rows.
"""

import glob
import os

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from batchgen.errors import InputError
from batchgen.job.input import Input
from batchgen.output import job_file
from batchgen.output.parts import DATA
from batchgen.output.plan_file import SUCCESS
from batchgen.output.store import open_store
from batchgen.read import location
from batchgen.read.formats import Found, known_endings
from batchgen.read.formats.parquet import Parquet, open_parquet
from batchgen.read.formats.table import Contents


class Parts(Parquet):
    name = "output"
    endings = ()
    settings = frozenset({"sampling"})
    """The other job's sampling is not this one's."""

    def claim(self, path: str) -> list[Found] | None:
        """Raises OutputConflict for an output whose job file is damaged, InputError for a job that is not done."""
        is_store = "://" in path and not path.startswith("hf://")
        if glob.has_magic(path) or not (is_store or os.path.isdir(path)):
            return None
        store = open_store(path)
        if (frozen := job_file.load(store)) is None:
            return None
        if store.get(SUCCESS) is None:
            raise InputError(f"input.path {path}: the job of this output is not done", "run it to its end first")
        upstream = (path, frozen.fingerprint)
        names = location.expand(f"{path.rstrip('/')}/{DATA}", tuple(known_endings()))
        return [Found(name, self.name, upstream=upstream) for name in names]

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
        return Contents(xxhash.xxh3_128_hexdigest(footer), pc.sum(ok).as_py() or 0, ok)

    def wanted(self, table: pa.Table) -> pa.Table:
        return table.filter(pc.equal(table.column("status"), "ok"))


PARTS = Parts()
