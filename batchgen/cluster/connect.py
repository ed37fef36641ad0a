"""Ray while a run lasts: the caller's connection, the cluster of RAY_ADDRESS or of this machine, else a local one of its own."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import ray
from ray.exceptions import RayError

from batchgen import logs
from batchgen.errors import EngineError, safe_message

REACH_SECONDS = 5.0
_LOG = logs.logger("connect")
_TURN = threading.RLock()
"""Held while a run has this process connected: one of another thread waits, whose Ray would end with that one's."""


@contextlib.contextmanager
def connected(before_start: Callable[[], None] = lambda: None, tell: Callable[[str], None] = lambda text: None) -> Iterator[bool]:
    """Yields whether this is a Ray of this run's own, of this machine alone, which ends here; False where it was there before.
    `before_start` is called before an own one is started, `tell` with which Ray it is. Raises EngineError when RAY_ADDRESS
    names a cluster that does not answer."""
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")  # Ray Data's statistics for its makers: an actor of its own
    if ray.is_initialized() and _TURN.acquire(blocking=False):  # nobody's turn, or this thread's
        _TURN.release()
        tell(f"uses the Ray that this process is connected to, at {ray.get_runtime_context().gcs_address}")
        yield False
        return
    with _TURN, _connected(before_start, tell) as is_own:
        yield is_own


@contextlib.contextmanager
def _connected(before_start: Callable[[], None], tell: Callable[[str], None]) -> Iterator[bool]:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    is_own = not _joined()
    if not is_own:
        tell(f"joined the Ray cluster at {ray.get_runtime_context().gcs_address}")
    else:
        before_start()
        tell("starts a Ray of its own on this machine")
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():  # Ray's own handler of SIGTERM aborts the process
            signal.signal(number, handler)
    try:
        yield is_own
    finally:
        ray.shutdown()
        _LOG.info("disconnected")


def _joined() -> bool:
    """Whether there is a cluster to join, which is joined then."""
    named = os.environ.get("RAY_ADDRESS")
    try:
        if not (address := named or _last_started()):  # ray.init("auto") would look for any Ray of any process here
            raise ConnectionError("no `ray start` on this machine")
        _refuse_silence(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        _LOG.info("joined the cluster at %s", ray.get_runtime_context().gcs_address)
        return True
    except (ConnectionError, RuntimeError, RayError) as error:
        if named:
            token = "RAY_AUTH_MODE=token and its token (~/.ray/auth_token or RAY_AUTH_TOKEN)"
            remedy = f"check RAY_ADDRESS; a cluster with token authentication needs {token}"
            raise EngineError(f"no Ray cluster at {named}: {safe_message(error)}", remedy) from None
        _LOG.info("starts a local Ray: %s", safe_message(error))
        return False


def _last_started() -> str:
    """The address that the last `ray start` on this machine wrote down, and a crash leaves there; ray.init documents the file."""
    temp = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    with contextlib.suppress(OSError):
        return Path(temp, "ray/ray_current_cluster").read_text().strip()
    return ""


def _refuse_silence(address: str) -> None:
    """Raises ConnectionError when nobody listens at host:port, where ray.init would try for minutes; an address of another form
    is left to it."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
        except OSError:
            raise ConnectionError("nothing listens there") from None
