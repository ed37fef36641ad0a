"""What one rendering of a template may use. A value is charged before it is made, wherever its size can be told: a limit on time
does not end one operation in C. No value that a template makes is over VALUE_CAP as it would print, however often it holds the
same list, so that an operation that goes through a value (printing, comparing, hashing, sorting) ends soon."""

import contextlib
import re
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from datetime import timedelta
from decimal import Decimal
from itertools import chain
from typing import cast

from jinja2.exceptions import SecurityError

ELEMENT = 16  # what an element costs; a character costs 1
VALUE_CAP = 2**24
TOTAL_CAP = 2**27
BITS_CAP = 2**12  # of an integer
DEPTH_CAP = 100
SEARCH_CAP = 2**32  # of the characters of a text times those that it is searched for, by methods that compare each with each
_PRECISION_CAP = 100
_NUMBER = re.compile(r"\d+")
VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_MAPPINGS = (dict, types.MappingProxyType)
_CONTAINERS = (list, tuple, set, frozenset, deque, *_MAPPINGS, *VIEWS)


class _Budget:
    """What is left to a rendering, and the weight and depth of the containers that it has looked at. None of them changes while
    it runs; each is kept, so that no other takes its id."""

    __slots__ = ("cap", "given", "known", "left")

    def __init__(self, given: object = None) -> None:
        self.cap, self.left, self.given = VALUE_CAP, TOTAL_CAP, given
        self.known: dict[int, tuple[object, int, int]] = {}

    def grow(self) -> None:
        """Allows more where the template was given much: the images of a conversation, say."""
        more = min(2 * _characters(self.given), 3 * VALUE_CAP)
        self.cap, self.left, self.given = self.cap + more, self.left + 8 * more, None


class _Local(threading.local):
    budget = _Budget()


_OF_THREAD = _Local()


@contextlib.contextmanager
def budget(given: object = None) -> Iterator[None]:
    """A rendering of its own, which must not nest another, of what is given."""
    _OF_THREAD.budget = _Budget(given)
    try:
        yield
    finally:
        _OF_THREAD.budget = _Budget()


def charge(units: int) -> None:
    """Raises SecurityError for a value that is too large, or one too many."""
    budget = _OF_THREAD.budget
    budget.left -= units
    if units > budget.cap or budget.left < 0:
        budget.grow()
        if units > budget.cap:
            raise SecurityError(f"a value of more than {budget.cap} characters, or {budget.cap // ELEMENT} elements")
        if budget.left < 0:
            raise SecurityError(f"more than {TOTAL_CAP} characters, or {TOTAL_CAP // ELEMENT} elements, in all")


def _characters(value: object) -> int:
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else len(value) if isinstance(value, str) else 0


def weigh(*values: object) -> int:
    """The units of what these print together. Raises SecurityError for those over VALUE_CAP."""
    total = sum(_weight(value)[0] for value in values)
    if total > VALUE_CAP:
        charge(total)
    return total


def _weight(value: object) -> tuple[int, int]:
    """The units of a value, and how deep it nests."""
    if isinstance(value, (str, bytes)):
        return ELEMENT + len(value), 0
    if isinstance(value, int):
        if value.bit_length() > BITS_CAP:
            raise SecurityError(f"an integer of more than {BITS_CAP} bits")
        return ELEMENT + value.bit_length() // 3, 0
    if (found := _OF_THREAD.budget.known.get(id(value))) is not None:
        return found[1], found[2]
    if isinstance(value, (types.MethodType, types.BuiltinMethodType)):  # it prints what it is of
        return ELEMENT + _weight(value.__self__)[0], 1
    if not isinstance(value, _CONTAINERS):
        return ELEMENT, 0
    charge(ELEMENT * (2 + sized(value)))
    total, depth = ELEMENT, 0
    parts = chain.from_iterable(value.items()) if isinstance(value, _MAPPINGS) else cast(Iterable[object], value)
    for part in parts:
        if type(part) is str:
            total += ELEMENT + len(part)
            continue
        units, deep = _weight(part)
        total, depth = total + units, max(depth, deep)
        if total > 4 * VALUE_CAP or depth >= DEPTH_CAP:
            break
    return remember(value, total, depth + 1)


def deepest(*values: object) -> int:
    return max(_weight(value)[1] for value in values)


def remember(value: object, total: int, depth: int) -> tuple[int, int]:
    """Keeps what a container weighs."""
    if depth > DEPTH_CAP:
        raise SecurityError(f"lists or objects nested more than {DEPTH_CAP} deep")
    if total > VALUE_CAP:
        charge(total)
    _OF_THREAD.budget.known[id(value)] = value, total, depth
    return total, depth


def settled(value: object) -> object:
    """An iterator as a list: no function in C goes through one, and none is wrapped in another without end."""
    if not hasattr(type(value), "__next__") or type(value).__module__ != "builtins":
        return value
    assert isinstance(value, Iterator)
    made = []
    for element in value:
        charge(ELEMENT)
        made.append(element)
    return made


def sized(value: object) -> int:
    return len(value) if isinstance(value, Sized) else 0


def formatted(form: str) -> int:
    """No less than the length of a form as it pads: each number in it may be a width."""
    return len(form) + sum(map(int, _NUMBER.findall(form)))


def percented(form: str, given: object) -> int:
    """No less than the length of `form % given`."""
    if not isinstance(given, tuple):
        return formatted(form) + form.count("%") * weigh(given)
    widths = sum(abs(each) for each in given if isinstance(each, int)) if "*" in form else 0
    return formatted(form) + weigh(given) + widths


def _searched(text: str, *others: object) -> int:
    """Nothing; but these two may not both be long."""
    if len(text) * sum(len(other) for other in others if isinstance(other, str)) > SEARCH_CAP:
        raise SecurityError("a search for a long text in a long text")
    return 0


def _split(text: str, sep: str | None = None, maxsplit: int = -1) -> int:
    pieces = text.count(sep) if sep else len(text) // 2
    return ELEMENT * (1 + (pieces if maxsplit < 0 else min(pieces, maxsplit)))


def _split_from_the_end(text: str, sep: str | None = None, maxsplit: int = -1) -> int:
    return _searched(text, sep) + _split(text, sep, maxsplit)


def _replaced(text: str, old: str, new: str, most: int = -1) -> int:
    return len(text) + text.count(old) * len(new)


def _joined(text: str, parts: object) -> int:
    return weigh(parts) + len(text) * sized(parts)


def _indented(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> int:
    charge(ELEMENT * len(text))
    return len(text) + (1 + len(text.splitlines())) * (width if isinstance(width, int) else len(width))


def _summed(values: object, attribute: object = None, start: object = 0) -> int:
    if not isinstance(start, int | float | Decimal | timedelta):
        raise SecurityError("a sum of other things than numbers")
    return 0


def _rounded(value: object, precision: int = 0, method: str = "common") -> int:
    if abs(precision) > _PRECISION_CAP:
        raise SecurityError(f"a precision of more than {_PRECISION_CAP}")
    return 0


def _elements(value: object, *args: object, **kwargs: object) -> int:
    return ELEMENT * sized(value)


def _pieces(value: object, *args: object, **kwargs: object) -> int:
    return ELEMENT * weigh(value)


def _padded(text: str, width: int, fill: str = " ") -> int:
    return max(len(text), width)


_ALIKE = (
    "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric "
    "isprintable isspace istitle isupper lower partition removeprefix removesuffix startswith swapcase title upper "
    "striptags unescape"
)
METHODS: Mapping[str, Callable[..., int] | None] = {  # of a text, with what they cost beyond their result; the rest are refused
    **dict.fromkeys(_ALIKE.split()),
    **dict.fromkeys(["lstrip", "rfind", "rindex", "rpartition", "rstrip", "strip"], _searched),
    **dict.fromkeys(["center", "ljust", "rjust", "zfill"], _padded),
    "expandtabs": lambda text, tabsize=8: len(text) + text.count("\t") * tabsize,
    "join": _joined,
    "replace": _replaced,
    "rsplit": _split_from_the_end,
    "split": _split,
    "splitlines": _elements,
}
FILTERS: Mapping[str, Callable[..., int]] = {  # those that may make more than they are given
    **dict.fromkeys(["dictsort", "groupby", "list", "sort", "unique"], _elements),
    **dict.fromkeys(["striptags", "title", "urlencode", "wordcount"], _pieces),
    "indent": _indented,
    "join": lambda value, d="", attribute=None: _joined(str(d), value),
    "replace": lambda value, old, new, count=None: _replaced(str(value), str(old), str(new)),
    "round": _rounded,
    "sum": _summed,
    "trim": lambda value, chars=None: _searched(str(value), chars),
}
