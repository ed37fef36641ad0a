"""Hosts by name (`input.image_hosts`), and whether a URL names one of them.

An endpoint fetches the URL with a parser of its own. So a URL is allowed only in the one form that all parsers read alike:
anything else in it (user names, backslashes, white space, escapes in the host, addresses in digits) refuses it."""

import re
from collections.abc import Iterable

_URL = re.compile(r"https?://([^/?#@:%\\\s\[\]]+)(?::[0-9]{1,5})?(?:[/?#][^\\\s\x00-\x1f\x7f-\x9f]*)?", re.IGNORECASE)
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?:{_LABEL}\.)*(?=[a-z]){_LABEL}")  # a last label that begins with a digit is a number's, of an address


def host_name(text: str) -> str | None:
    """The name of a host in lower case and ASCII (IDNA), without the dot at its end; None for what is no name or an address."""
    name = text.lower().removesuffix(".")
    if len(text) > 254:
        return None
    if not name.isascii():
        try:
            ascii_ = name.encode("idna").decode("ascii")
            if ascii_.encode("ascii").decode("idna") != name:  # ß and others that IDNA's versions take for different names
                return None
        except UnicodeError:
            return None
        name = ascii_
    return name if _NAME.fullmatch(name) else None


def host_pattern(text: str) -> str:
    """A host as a job names it, `example.org` or `*.example.org` (any name below it). Raises ValueError."""
    star, rest = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    if (name := host_name(rest)) is None:
        raise ValueError(f"{text!r} is no host by name, such as example.org or *.example.org")
    return star + name


def host_of(url: str) -> str | None:
    """The host of an http(s) URL; None for every other text."""
    found = _URL.fullmatch(url)
    return host_name(found[1]) if found else None


def is_allowed(host: str, patterns: Iterable[str]) -> bool:
    return any(host.endswith(each[1:]) if each.startswith("*.") else host == each for each in patterns)
