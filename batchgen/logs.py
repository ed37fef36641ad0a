"""Log records of driver and replicas: stdlib `logging`, loggers below `batchgen`; each record has `job`, `replica` and `span`.

A program that uses batchgen as a library sees the records in its own handlers. `batchgen run -v` prints them on stderr; a
replica's go to the log of its Ray worker. They hold no secret of the environment: a filter takes them out."""

import contextlib
import logging
import os
from collections.abc import Iterator, MutableMapping
from contextvars import ContextVar
from typing import Any

from batchgen.errors import RowError, safe_message, scrubbed

ROOT = "batchgen"
NOWHERE = {"job": "-", "replica": "-", "span": "-"}
FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s job=%(job)s replica=%(replica)s span=%(span)s %(message)s"

TAIL_LINES, TAIL_BYTES = 20, 16 * 2**10

_process: dict[str, str] = {}
_span: ContextVar[str] = ContextVar("span", default="-")
logging.getLogger(ROOT).addHandler(logging.NullHandler())


class _Scrub(logging.Filter):
    """Takes the secrets of the environment out of a record and its traceback, which stays as text that every file can take."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _sound(record.getMessage()), None
        if record.exc_info:
            record.exc_text, record.exc_info = _sound(logging.Formatter().formatException(record.exc_info)), None
        return True


def _sound(text: str) -> str:
    return scrubbed(text).encode(errors="backslashreplace").decode()


_SCRUB = _Scrub()


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger that knows where it speaks: `log.at(replica=3, span=name).info(...)`."""

    def at(self, **where: object) -> "Log":
        return Log(self.logger, {**(self.extra or {}), **where})

    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[object, MutableMapping[str, Any]]:
        kwargs["extra"] = {**NOWHERE, "span": _span.get(), **_process, **(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs


def logger(name: str, **where: object) -> Log:
    """The logger `batchgen.NAME`; `where`: job, replica or span of all its records."""
    named = logging.getLogger(f"{ROOT}.{name}")
    named.addFilter(_SCRUB)
    return Log(named, where)


def configure(level: int) -> None:
    """Print the records of this level (logging.DEBUG, logging.ERROR) and above on stderr. Replaces an earlier choice."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT, datefmt="%Y-%m-%dT%H:%M:%S"))
    root = logging.getLogger(ROOT)
    root.handlers = [handler]
    root.setLevel(level)


def level_of_replicas() -> int:
    """The level of the replicas' logs: INFO, or what this process logs where that is more."""
    return min(logging.INFO, logging.getLogger(ROOT).getEffectiveLevel())


def identify(**where: object) -> None:
    """Name the job and the replica of this process, for every record in which its logger names no other."""
    _process.update({name: str(value) for name, value in where.items()})


@contextlib.contextmanager
def in_span(name: str) -> Iterator[None]:
    """Name the span of the records of this task, and of the tasks that it starts."""
    token = _span.set(name)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # a task that is dropped with its loop is closed in another context
            _span.reset(token)


def internal_error(log: Log, place: str, error: BaseException) -> RowError:
    """The last resort for what a row or its answer raised and nobody foresaw; the traceback is logged."""
    what = f"{place}: {type(error).__name__}: {safe_message(error)}"
    log.error("%s", what, exc_info=error)
    return RowError("internal", what)


def own_file() -> str:
    """The file that this process and its children log to; empty where stderr is none."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/fd/2")
    return ""


def tail(path: str) -> str:
    """The last lines of a log, each on a line of its own after an empty one; empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = [line.rstrip() for line in scrubbed(file.read().decode(errors="replace")).splitlines() if line.strip()]
    except OSError:
        return ""
    return "\n  engine log: ".join(["", *lines[-TAIL_LINES:]])
