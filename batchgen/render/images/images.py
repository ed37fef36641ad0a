"""The images that messages name: data URLs in the row, files below `input.image_folder`, URLs of `input.image_hosts`. A row is
untrusted: nothing else is opened or fetched for it, and only images of known formats reach an engine."""

import base64
import os
import re
import stat
from collections.abc import Iterable

from batchgen.errors import BadRow, JobError
from batchgen.job.input import Input
from batchgen.job.input.hosts import host_of, is_allowed
from batchgen.render.images.fetch import fetch

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|[/\\]{2}")
_MARKS = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"\xff\xd8\xff"), "jpeg"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
    (re.compile(rb"GIF8[79]a"), "gif"),
    (re.compile(rb"BM"), "bmp"),
)
"""How files of the formats begin that engines/vllm.py reads."""
HEAD_BYTES = 16


def is_data_url(url: str) -> bool:
    return _DATA_URL.match(url) is not None


def refuse_no_folder(spec: Input) -> None:
    """Raises JobError where `input.image_folder` is no folder here."""
    if spec.image_folder is not None and not os.path.isdir(spec.image_folder):
        raise JobError(f"input.image_folder {spec.image_folder}: no such folder", "name a local folder that every node has")


class Images:
    def __init__(self, spec: Input) -> None:
        self._folder, self._hosts, self._most = spec.image_folder, spec.image_hosts, spec.max_row_bytes

    def check(self, number: int, url: str) -> None:
        """Look at image `number` of a row, without fetching it. Raises BadRow (input) where it cannot be loaded."""
        if is_data_url(url):
            return
        try:
            if _URL.match(url) is None and self._folder is not None:
                _kind(self._read(url, HEAD_BYTES))
                return
            if not self._hosts:
                more = "the job allows no hosts (input.image_hosts)" + (
                    "" if self._folder else " and no folder (input.image_folder)"
                )
                raise ValueError(f"only images in the row itself are read (data:image/...;base64,...); {more}")
            if (host := host_of(url)) is None:
                raise ValueError("neither a data URL of an image nor a plain http(s) URL of a host by name")
            if not is_allowed(host, self._hosts):
                raise ValueError(f"host {host} is not in input.image_hosts")
        except ValueError as error:
            raise BadRow("input", f"image {number}: {error}") from None

    def load(self, urls: Iterable[str]) -> list[str]:
        """Images that passed `check`, as data URLs. Raises BadRow (input)."""
        made = []
        for number, url in enumerate(urls, 1):
            self.check(number, url)
            try:
                made.append(url if is_data_url(url) else self._loaded(url))
            except ValueError as error:
                raise BadRow("input", f"image {number}: {error}") from None
        return made

    def _loaded(self, url: str) -> str:
        data = fetch(url, self._hosts, self._most) if _URL.match(url) else self._read(url, self._most)
        return data_url(data)

    def _read(self, path: str, most: int) -> bytes:
        """The first `most` bytes of a file below the folder. Raises ValueError, for a file over the cap too."""
        assert self._folder is not None
        root = os.path.realpath(self._folder)
        try:
            real = os.path.realpath(os.path.join(root, path))
            if os.path.commonpath([root, real]) != root:
                raise ValueError(f"{path!r} leads out of input.image_folder")
            # Not to be blocked by a pipe, nor led elsewhere by a link that has been put there since.
            with open(os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ValueError(f"{path!r} is not a regular file")
                if status.st_size > self._most:
                    raise ValueError(f"{path!r} has {status.st_size} bytes, over input.max_row_bytes ({self._most})")
                return file.read(most)
        except OSError as error:
            raise ValueError(f"{path!r}: {error.strerror}") from None


def data_url(data: bytes) -> str:
    """Raises ValueError for what is no image."""
    return f"data:image/{_kind(data)};base64,{base64.b64encode(data).decode()}"


def _kind(data: bytes) -> str:
    """The format of an image. Raises ValueError."""
    found = next((name for mark, name in _MARKS if mark.match(data)), None)
    if found is None:
        raise ValueError("it is no image (PNG, JPEG, WebP, GIF or BMP)")
    return found
