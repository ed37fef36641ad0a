"""What can go wrong, and what the shell is told.

    BatchgenError                    exit 1: the run failed; nothing lost, run again
    ├── UsageError                   exit 2: the job or the command is wrong
    │   ├── JobError                 the job file: syntax, unknown field, bad value
    │   ├── InputError               the input: nothing there, not readable, unsafe, no such column
    │   ├── ModelError               the model: no tokenizer, ignored attributes, unsafe files
    │   └── OutputConflict           the output belongs to another job, or its input changed
    │       └── NewerFormat          the output was written by a later release
    ├── StoreError                   the output store: full, no permission, down, not put-if-absent
    ├── EngineError                  the engine cannot start, or every replica died
    ├── LeaseError                   another driver works on the output
    ├── VerifyError                  verify found the output incomplete or damaged (exit 4: only unfinished)
    ├── TooManyErrors                exit 3: failed rows over `limits.errors`
    └── Interrupted                  exit 75: stopped on request, run again to resume

A row that cannot be answered is not an exception here: it ends as a `RowError`
value in the output (`status = error`) and the job goes on.
"""

import difflib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal
from urllib.parse import quote

__all__ = [
    "BatchgenError",
    "EngineError",
    "InputError",
    "Interrupted",
    "JobError",
    "LeaseError",
    "ModelError",
    "NewerFormat",
    "OutputConflict",
    "StoreError",
    "TooManyErrors",
    "UsageError",
    "VerifyError",
]
RUN_ERROR, BAD_JOB, OVER_LIMIT, UNFINISHED, INTERRUPTED = 1, 2, 3, 4, 75


class BatchgenError(Exception):
    """Message first, remedy second, shown to the user as `error: ...`."""

    exit_code: ClassVar[int] = RUN_ERROR

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(scrubbed(message if remedy is None else f"{message}; {remedy}"))


class UsageError(BatchgenError):
    exit_code = BAD_JOB


class JobError(UsageError): ...


class InputError(UsageError): ...


class ModelError(UsageError): ...


class OutputConflict(UsageError): ...


class NewerFormat(OutputConflict): ...


class StoreError(BatchgenError): ...


class EngineError(BatchgenError): ...


class LeaseError(BatchgenError): ...


class VerifyError(BatchgenError): ...


class TooManyErrors(BatchgenError):
    exit_code = OVER_LIMIT


class Interrupted(BatchgenError):
    exit_code = INTERRUPTED


ErrorCode = Literal["input", "render", "too_long", "engine_rejected", "engine_crash", "timeout", "parse", "rejected", "internal"]


@dataclass(frozen=True)
class RowError:
    """Why a row has no answer. `detail` begins with shard:line for a JSONL row, shard:row for others."""

    code: ErrorCode
    detail: str

    @property
    def cause(self) -> str:
        return cause_of(self.detail)

    def __post_init__(self) -> None:
        detail = scrubbed(self.detail).encode(errors="backslashreplace")  # halves of surrogate pairs are in no file
        object.__setattr__(self, "detail", detail.decode())


def cause_of(detail: str) -> str:
    """The detail of an error without the row: the same for all rows with one mistake."""
    return re.sub(r"^.*?:\d+: ", "", detail, count=1, flags=re.DOTALL)


class BadRow(Exception):
    """Raised while a row is read or rendered; caught where the row becomes its error rows."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code: ErrorCode = code


_ADDRESS = re.compile(r"(\w+://)(?:[^/@\s]+@)?([^\s?,]*)(\?[^\s,]*)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
SECRET_NAMES: set[str] = set()
"""Variables that are secrets whatever their names say: those that a job names (`api_key_env`)."""
SHORTEST_SECRET = 8  # characters; a shorter value is a word of any text


def scrubbed(text: str) -> str:
    """The text with `[NAME]` in place of each secret of the environment: the value of a variable whose name says that it is one,
    as it is, in JSON, in an address, or with its white space collapsed."""
    known = ((name, value) for name, value in os.environ.items() if name in SECRET_NAMES or _SECRET.search(name))
    secrets = {value: name for name, value in known if len(value) >= SHORTEST_SECRET}
    for value in sorted(secrets, key=len, reverse=True):
        for form in (value, json.dumps(value)[1:-1], quote(value, safe=""), " ".join(value.split())):
            if len(form) >= SHORTEST_SECRET:
                text = text.replace(form, f"[{secrets[value]}]")
    return text


def safe_message(error: BaseException, most: int = 400) -> str:
    """Another library's error on one line of at most `most` characters, without secrets; addresses lose user:password@ and
    signed queries."""
    try:
        said = str(error)
    except Exception:  # whatever its own __str__ raises
        said = ""
    text, _, _ = " ".join(scrubbed(said).split()).partition(" Debug source:")  # obstore's repetition of it
    return _ADDRESS.sub(lambda found: f"{found[1]}{found[2]}{'?...' if found[3] else ''}", text)[:most]


def printable(text: str) -> str:
    """Text of a row, a file or another library for a terminal: what is no text of its own (control characters except newline and
    tab, marks of direction, halves of surrogate pairs) is escaped, as in Python or, from U+0100, in JSON."""
    return _CONTROL.sub(lambda found: f"\\x{code:02x}" if (code := ord(found[0])) < 256 else f"\\u{code:04x}", text)


def printable_json(text: str) -> str:
    """As printable, of JSON text, which means the same afterwards."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def place(shard: str, ordinal: int) -> str:
    """How errors name a row: shard:line, lines (or rows) counted from 1."""
    return f"{shard}:{ordinal + 1}"


def did_you_mean(key: str, known: Iterable[str], shown: Callable[[str], str] = str) -> str:
    """`, did you mean KEY?` with the nearest of the known keys; empty where none is near."""
    near = difflib.get_close_matches(key.lower(), list(known), n=1)
    return f", did you mean {shown(near[0])}?" if near else ""
