"""Jinja's sandbox, in which everything that makes a value, or goes through one, is charged. Undefined values are stricter than in
Transformers (printing one is an error, it would lose text in silence) and laxer than StrictUndefined (testing one is allowed),
because public templates test keys that messages do not have."""

import functools
import json
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from itertools import islice
from types import BuiltinFunctionType
from typing import Any, NoReturn, cast

import jinja2
import jinja2.ext
import jinja2.runtime
import jinja2.utils
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from batchgen.render.safe.budget import (
    BITS_CAP,
    ELEMENT,
    FILTERS,
    METHODS,
    VIEWS,
    charge,
    deepest,
    formatted,
    percented,
    remember,
    settled,
    sized,
    weigh,
)
from batchgen.render.safe.syntax import Generation, Generator

WIDTH_CAP = 64  # of an indent
CALL = 128  # what a call costs, which may make an object
STRFTIME = 256  # characters that C's strftime may make of one
_OF_JINJA = ("_block_vars", "_loop_vars")


class _Undefined(jinja2.Undefined):
    """May be tested, never printed or gone through."""

    __slots__ = ()
    __str__ = __iter__ = __len__ = jinja2.Undefined._fail_with_undefined_error


class Buffer(list[str]):
    """The text of a block or a macro as it grows."""

    def append(self, text: str) -> None:
        charge(ELEMENT + len(text))
        super().append(text)

    def extend(self, texts: Iterable[str]) -> None:
        texts = tuple(texts)
        charge(sum(map(len, texts), ELEMENT * len(texts)))
        super().extend(texts)


class _Namespace(jinja2.utils.Namespace):
    """Does not print what it holds, which changes."""

    def __repr__(self) -> str:
        return "namespace"


class _Formatter(SandboxedFormatter):
    """str.format, each field of which is charged."""

    def __init__(self, environment: "SafeEnvironment") -> None:
        super().__init__(environment)
        self._environment = environment

    def format_field(self, value: Any, format_spec: str) -> str:
        self._environment.refuse_missing(value)
        charge(formatted(format_spec) + STRFTIME * len(format_spec) + weigh(value))
        return str(super().format_field(value, format_spec))


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    charge(STRFTIME * len(form))
    return datetime.now().strftime(form)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if (indent if isinstance(indent, int) else len(indent or "")) > WIDTH_CAP or len("".join(separators or ())) > WIDTH_CAP:
        raise SecurityError(f"JSON with an indent or separators of more than {WIDTH_CAP} characters")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is None:
        return encoder.encode(value)
    pieces, left = list[str](), encoder.iterencode(value)
    while some := list(islice(left, 2**12)):
        charge(sum(map(len, some)))
        pieces += some
    return "".join(pieces)


def _of_numbers(test: Callable[..., Any]) -> Callable[..., Any]:
    """`even`, `odd` and `divisibleby`, which would format a text."""

    @functools.wraps(test)
    def call(*args: object) -> Any:
        if not all(isinstance(arg, int | float | Decimal) for arg in args):
            raise jinja2.TemplateError(f"is {test.__name__.removeprefix('test_')}: not a number")
        return test(*args)

    return call


class SafeEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which everything that makes a value or goes through one is charged (budget.py)."""

    code_generator_class = Generator
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)
    buffer = Buffer  # for the code that Generator writes

    def __init__(self, finalize: Callable[[object], object] | None = None) -> None:
        extensions = [jinja2.ext.loopcontrols, Generation]
        super().__init__(trim_blocks=True, lstrip_blocks=True, undefined=_Undefined, extensions=extensions, finalize=finalize)
        for name in ("batch", "center", "format", "pprint", "slice", "urlize", "wordwrap", "xmlattr"):
            del self.filters[name]  # they pad or multiply, and no chat template needs them
        self.filters |= {"tojson": _tojson}
        self.filters = {name: self.charged(name, function) for name, function in self.filters.items()}
        self.tests |= {name: _of_numbers(cast(Any, self.tests[name])) for name in ("divisibleby", "even", "odd")}
        del self.globals["lipsum"]
        self.globals |= {"namespace": _Namespace, "raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def charged(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that is charged for what it is given and makes."""
        first = 1 if hasattr(function, "jinja_pass_arg") else 0  # after the context or the environment
        units = FILTERS.get(name)

        check = self.check_filter

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = [settled(arg) for arg in args[first:]]
            check(name, given)
            charge(CALL if units is None else CALL + units(*given, **kwargs))
            return self.made(function(*args[:first], *given, **kwargs))

        return call

    def check_filter(self, name: str, given: list[Any]) -> None:
        """Refuses what a filter must not be given."""

    def refuse_missing(self, value: object) -> None:
        """Refuses a value that is no text and is about to be made one."""

    def concat(self, texts: Iterable[str]) -> str:
        texts = texts if isinstance(texts, list) else Buffer(texts)
        charge(sum(map(len, texts)))
        return "".join(texts)

    def concatenate(self, operands: tuple[object, ...]) -> str:
        operands = tuple(self.finalize(operand) for operand in operands) if self.finalize else operands
        return self.concat([str(operand) for operand in operands])

    def made(self, value: Any) -> Any:
        """A list, tuple or object that a template wrote, or the result of an operation."""
        if isinstance(value, str):
            if len(value) > ELEMENT:
                charge(len(value))
        elif value is not None and type(value) is not bool and type(value) not in VIEWS:  # a view is no larger than what it is of
            weigh(value)
        return value

    def sliced(self, value: Any, *bounds: Any) -> Any:
        made = value[slice(*bounds)]
        charge(len(made) if isinstance(made, str) else ELEMENT + 2 * len(made))
        return made

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and type(left) is str and type(right) is str:
            charge(len(left) + len(right))
            return left + right
        if operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > BITS_CAP:
            raise SecurityError(f"an integer of more than {BITS_CAP} bits")
        if operator == "%" and isinstance(left, str):
            self.refuse_missing(right)
            charge(percented(left, right))
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, (str, bytes)) and isinstance(other, int):
                    charge(len(one) * max(other, 0))
                elif isinstance(one, (list, tuple)) and isinstance(other, int):
                    charge(weigh(one) * max(other, 0))
        elif operator == "+" and isinstance(left, (list, tuple)):
            units, depth = weigh(left, right), deepest(left, right)
            charge(4 * ELEMENT + 2 * sized(left) + 2 * sized(right))
            value = super().call_binop(context, operator, left, right)
            remember(value, units, depth)
            return value
        return self.made(super().call_binop(context, operator, left, right))

    def call(self, context: jinja2.runtime.Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            return self._call_of_text(owner, obj, args, kwargs)
        charge(CALL)
        if isinstance(obj, jinja2.runtime.Macro):
            if obj.catch_varargs or obj.catch_kwargs:  # it keeps them
                weigh(*args, *(value for name, value in kwargs.items() if name not in _OF_JINJA))
            return super().call(context, obj, *args, **kwargs)
        args, name = tuple(map(settled, args)), getattr(obj, "__name__", "")
        if isinstance(owner, (int, float, bytes)) and args and name != "decode":
            raise SecurityError(f"a number's method {name}")
        if name == "strftime":
            charge(STRFTIME * sum(map(sized, args)))
        elif isinstance(obj, type) or isinstance(owner, type) or (owner is None and isinstance(obj, BuiltinFunctionType)):
            charge(weigh(*args) + ELEMENT * sum(map(sized, args)))
        return self.made(super().call(context, obj, *args, **kwargs))

    def _call_of_text(self, text: str, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = method.__name__
        if name not in METHODS:
            raise SecurityError(f"a text's method {name}")
        for unused in _OF_JINJA:
            kwargs.pop(unused, None)
        if (units := METHODS[name]) is not None:
            args = tuple(map(settled, args))
            if name == "join":
                self.refuse_missing(args)
            charge(units(text, *args, **kwargs))
        return self.made(method(*args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        form, mapped = str(value.__self__), value.__name__ == "format_map"

        def wrapped(*args: Any, **kwargs: Any) -> str:
            given = args[0] if mapped else kwargs
            return _Formatter(self).vformat(form, () if mapped else args, given)

        return wrapped
