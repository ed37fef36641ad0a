"""What can go wrong, and what the shell is told.

    BatchgenError                    exit 1: the run failed; nothing lost, run again
    ├── UsageError                   exit 2: the job or the command is wrong
    │   ├── JobError                 the job file: syntax, unknown field, bad value
    │   ├── InputError               the input: nothing there, not readable, unsafe, no such column
    │   ├── ModelError               the model: no tokenizer, ignored attributes, unsafe files
    │   └── OutputConflict           the output belongs to another job, or its input changed
    ├── StoreError                   the output store: full, no permission, down, not put-if-absent
    ├── EngineError                  the engine cannot start, or every replica died
    ├── LeaseError                   another driver works on the output
    ├── VerifyError                  verify found the output incomplete or damaged
    ├── TooManyErrors                exit 3: failed rows over `limits.errors`
    └── Interrupted                  exit 75: stopped on request, run again to resume

A row that cannot be answered is not an exception here: it ends as a `RowError`
value in the output (`status = error`) and the job goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

OK, RUN_ERROR, BAD_JOB, OVER_LIMIT, INTERRUPTED = 0, 1, 2, 3, 75


class BatchgenError(Exception):
    """A run error: message first, remedy second, shown to the user as `error: ...`."""

    exit_code: ClassVar[int] = RUN_ERROR

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message if remedy is None else f"{message}; {remedy}")


class UsageError(BatchgenError):
    exit_code = BAD_JOB


class JobError(UsageError):
    """The job file is wrong."""


class InputError(UsageError):
    """The input cannot be planned or read as the job says."""


class ModelError(UsageError):
    """The model's files do not allow what the job asks."""


class OutputConflict(UsageError):
    """The output holds rows that mean something else than this job's."""


class StoreError(BatchgenError):
    """The store did not do what was asked of it."""


class EngineError(BatchgenError):
    """No replica can generate."""


class LeaseError(BatchgenError):
    """One driver for an output."""


class VerifyError(BatchgenError):
    """The output is not what the plan promises."""


class TooManyErrors(BatchgenError):
    exit_code = OVER_LIMIT


class Interrupted(BatchgenError):
    exit_code = INTERRUPTED


ErrorCode = Literal["input", "render", "too_long", "engine_rejected", "engine_crash", "timeout"]


@dataclass(frozen=True)
class RowError:
    """Why a row has no answer. `detail` begins with shard:line for a JSONL row, shard:row for others."""

    code: ErrorCode
    detail: str


class BadRow(Exception):
    """Raised while a row is read or rendered; caught where the row becomes its error rows."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code: ErrorCode = code


def place(shard: str, ordinal: int) -> str:
    """How errors name a row: shard:line, lines (or rows) counted from 1."""
    return f"{shard}:{ordinal + 1}"
