"""Jinja's sandbox, in which everything that makes a value, or goes through one, is charged. Undefined values are stricter than in
Transformers (printing one is an error, it would lose text in silence) and laxer than StrictUndefined (testing one is allowed),
because public templates test keys that messages do not have."""

import functools
import json
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from types import BuiltinFunctionType
from typing import Any, NoReturn

import jinja2
import jinja2.compiler
import jinja2.ext
import jinja2.nodes
import jinja2.parser
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

WIDTH_CAP = 64  # of an indent
STRFTIME = 256  # characters that C's strftime may make of one
_CONSTANT = (jinja2.nodes.Const, jinja2.nodes.TemplateData)
_OF_JINJA = ("_block_vars", "_loop_vars")


class _Undefined(jinja2.Undefined):
    """May be tested, never printed or gone through."""

    __slots__ = ()
    __str__ = __iter__ = __len__ = jinja2.Undefined._fail_with_undefined_error


class _Generation(jinja2.ext.Extension):
    """Transformers' {% generation %} block, which marks the assistant's text for training: its body is kept."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Generator(jinja2.compiler.CodeGenerator):
    """Writes what makes a value as a call of the environment."""

    def buffer(self, frame: jinja2.compiler.Frame) -> None:
        frame.buffer = self.temporary_identifier()
        self.writeline(f"{frame.buffer} = environment.buffer()")

    def visit_List(self, node: jinja2.nodes.List, frame: jinja2.compiler.Frame) -> None:
        self._made(super().visit_List, node, frame)

    def visit_Tuple(self, node: jinja2.nodes.Tuple, frame: jinja2.compiler.Frame) -> None:
        if node.ctx == "load":
            self._made(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Dict(self, node: jinja2.nodes.Dict, frame: jinja2.compiler.Frame) -> None:
        self._made(super().visit_Dict, node, frame)

    def _made(self, visit: Callable[..., None], node: jinja2.nodes.Expr, frame: jinja2.compiler.Frame) -> None:
        constant = all(isinstance(part, _CONSTANT) for part in node.iter_child_nodes())
        self.write("(" if constant else "environment.made(")
        visit(node, frame)
        self.write(")")

    def visit_Getitem(self, node: jinja2.nodes.Getitem, frame: jinja2.compiler.Frame) -> None:
        if not isinstance(node.arg, jinja2.nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.sliced(")
        self.visit(node.node, frame)
        for bound in (node.arg.start, node.arg.stop, node.arg.step):
            self.write(", ")
            self.visit(bound or jinja2.nodes.Const(None), frame)
        self.write(")")

    def visit_Concat(self, node: jinja2.nodes.Concat, frame: jinja2.compiler.Frame) -> None:
        """`a ~ b` through the environment, which caps it."""
        self.write("environment.concatenate((")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write("))")


class Buffer(list[str]):
    """The text of a block or a macro as it grows."""

    def append(self, text: str) -> None:
        charge(ELEMENT + len(text))
        super().append(text)

    def extend(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.append(text)


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
    pieces = Buffer()
    for piece in encoder.iterencode(value):
        pieces.append(piece)
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

    code_generator_class = _Generator
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)
    buffer = Buffer  # for the code that _Generator writes

    def __init__(self, finalize: Callable[[object], object] | None = None) -> None:
        extensions = [jinja2.ext.loopcontrols, _Generation]
        super().__init__(trim_blocks=True, lstrip_blocks=True, undefined=_Undefined, extensions=extensions, finalize=finalize)
        for name in ("batch", "center", "format", "pprint", "slice", "urlize", "wordwrap", "xmlattr"):
            del self.filters[name]  # they pad or multiply, and no chat template needs them
        self.filters |= {"tojson": _tojson}
        self.filters = {name: self.charged(name, function) for name, function in self.filters.items()}
        self.tests |= {name: _of_numbers(self.tests[name]) for name in ("divisibleby", "even", "odd")}
        del self.globals["lipsum"]
        self.globals |= {"namespace": _Namespace, "raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def charged(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that is charged for what it is given and makes."""
        first = 1 if hasattr(function, "jinja_pass_arg") else 0  # after the context or the environment
        units = FILTERS.get(name)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = [settled(arg) for arg in args[first:]]
            weigh(*given, *kwargs.values())
            self.check_filter(name, given)
            if units is not None:
                charge(units(*given, **kwargs))
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
        weigh(*operands)
        return self.concat([str(operand) for operand in operands])

    def made(self, value: Any) -> Any:
        """A list, tuple or object that a template wrote, or the result of a call."""
        if isinstance(value, str):
            charge(len(value))
        elif not isinstance(value, VIEWS):  # a view is no larger than what it is of
            weigh(value)
        return value

    def sliced(self, value: Any, *bounds: Any) -> Any:
        made = value[slice(*bounds)]
        charge(len(made) * (1 if isinstance(made, str) else 2))
        return made

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        units = weigh(left, right)
        if operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > BITS_CAP:
            raise SecurityError(f"an integer of more than {BITS_CAP} bits")
        if operator == "%" and isinstance(left, str):
            self.refuse_missing(right)
            charge(percented(left, right))
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, str | bytes | list | tuple) and isinstance(other, int):
                    charge(units := weigh(one) * max(other, 0))
        value = super().call_binop(context, operator, left, right)
        if isinstance(value, list | tuple):
            charge(2 * len(value) + 4 * ELEMENT)
            remember(value, units, deepest(left, right))
            return value
        return self.made(value)

    def call(self, context: jinja2.runtime.Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        args = tuple(map(settled, args))
        named = {name: settled(value) for name, value in kwargs.items() if name not in _OF_JINJA}
        weigh(*args, *named.values())
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str):
            if name not in METHODS:
                raise SecurityError(f"a text's method {name}")
            if name == "join":
                self.refuse_missing(args)
            charge(METHODS[name](owner, *args, **named))
        elif isinstance(owner, int | float | bytes) and (args or named) and name != "decode":
            raise SecurityError(f"a number's method {name}")
        elif name == "strftime":
            charge(STRFTIME * sum(map(sized, (*args, *named.values()))))
        elif isinstance(obj, type) or isinstance(owner, type) or (owner is None and isinstance(obj, BuiltinFunctionType)):
            charge(ELEMENT * sum(map(sized, args)))
        return self.made(super().call(context, obj, *args, **{**kwargs, **named}))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        form, mapped = str(value.__self__), value.__name__ == "format_map"

        def wrapped(*args: Any, **kwargs: Any) -> str:
            given = args[0] if mapped else kwargs
            return _Formatter(self).vformat(form, () if mapped else args, given)

        return wrapped
