"""Chat templates: Jinja in a sandbox, compatible with Transformers'. Templates are untrusted: they run in Jinja's
ImmutableSandboxedEnvironment, and their time and their output are capped. Undefined values are stricter than in Transformers
(printing one is an error, it would lose text in silence) and laxer than StrictUndefined (testing one is allowed), because public
templates test keys that messages do not have."""

import contextlib
import ctypes
import functools
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any, NoReturn

import jinja2
import jinja2.compiler
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batchgen.errors import BadRow, ModelError
from batchgen.records import Message

TEXT_CAP = 2**26
SECONDS_CAP = 10.0
LOOK_SECONDS = 0.25
_WIDE = re.compile(r"\d{7,}")


class ChatTemplate:
    """A compiled template; `label` names its model in errors. Raises ModelError for one that does not compile."""

    def __init__(self, source: str, label: str) -> None:
        try:
            self._template = _ENVIRONMENT.from_string(source)
        except jinja2.TemplateError as error:
            raise ModelError(f"chat template of {label}: {error}") from None
        self.shows_calls = "tool_calls" in source

    def render(self, messages: list[Message], variables: Mapping[str, object], answering: bool = True) -> str:
        """The conversation as text, with `answering` ready for the model to answer. Raises BadRow (render)."""
        known = {"tools": None, "documents": None, "bos_token": "", "eos_token": "", **variables}
        return _render(self._template, {"messages": messages, "add_generation_prompt": answering, **known}, "chat template")


class RowTemplate:
    """A text with a row's columns in it (`input.template`). Raises ValueError for one that does not compile."""

    def __init__(self, source: str) -> None:
        try:
            self._template = _ROW_ENVIRONMENT.from_string(source)
            names = jinja2.meta.find_undeclared_variables(_NO_NAMES.parse(source))
        except jinja2.TemplateError as error:
            raise ValueError(str(error)) from None
        self.columns = names - _ROW_ENVIRONMENT.globals.keys()
        self.optional = frozenset(names - self.columns)  # a row's column of such a name wins over Jinja's own

    def render(self, row: Mapping[str, object]) -> str:
        """The text of a row. Raises BadRow (render)."""
        variables = {name: row[name] for name in self.columns | self.optional if name in row}
        return _render(self._template, variables, "input.template")


def _render(template: jinja2.Template, variables: Mapping[str, object], what: str) -> str:
    pieces, size = [], 0
    try:
        with time_limit(SECONDS_CAP):
            for piece in template.generate(**variables):
                pieces.append(piece)
                size += len(piece)
                if size > TEXT_CAP:
                    raise BadRow("render", f"the rendered prompt is over {TEXT_CAP} characters")
    except BadRow:
        raise
    except TimeoutError:
        raise BadRow("render", f"{what}: not done after {SECONDS_CAP:g} s") from None
    except Exception as error:  # a template can raise anything
        raise BadRow("render", f"{what}: {error}") from None
    return "".join(pieces)


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
    def visit_Concat(self, node: jinja2.nodes.Concat, frame: jinja2.compiler.Frame) -> None:
        """`a ~ b` through the environment, which caps it."""
        self.write("environment.concatenate((")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write("))")


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which no single operation makes a text or list over TEXT_CAP: a cap on time cannot end one."""

    code_generator_class = _Generator
    intercepted_binops = frozenset("*+%") | {"**"}

    def concatenate(self, operands: tuple[object, ...]) -> str:
        texts = [str(self.finalize(operand) if self.finalize else operand) for operand in operands]
        _refuse_over_cap(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        for one, other in ((left, right), (right, left)):
            if operator == "*" and isinstance(one, str | list | tuple) and isinstance(other, int):
                _refuse_over_cap(len(one) * other)
            if operator == "+" and isinstance(one, str | list | tuple) and isinstance(other, str | list | tuple):
                _refuse_over_cap(len(one) + len(other))
        if operator == "%" and isinstance(left, str) and ("*" in left or _WIDE.search(left)):
            raise SecurityError("a format that pads")
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            _refuse_over_cap(abs(left).bit_length() * (max(right, 0) if operator == "**" else 1))
        return super().call_binop(context, operator, left, right)

    def call(self, context: jinja2.runtime.Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, int):
                _refuse_over_cap(abs(value))
        of, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(of, str) and name in ("join", "replace"):
            _refuse_over_cap(_grown(of, *args))
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and _WIDE.search(value.__self__):
            raise SecurityError("a format that pads")
        return wrapped


def _capped(function: Callable[..., str]) -> Callable[..., str]:
    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> str:
        _refuse_over_cap(_grown(*args, *kwargs.values()))
        return function(*args, **kwargs)

    return call


def _grown(*args: object) -> int:
    """No less than the length of what `join`, `replace` or `indent` make of these: each piece of one beside all of another."""
    sizes = [len(arg) for arg in args if isinstance(arg, str)] + [arg for arg in args if isinstance(arg, int)]
    sizes += [sum(len(str(one)) + 1 for one in arg) for arg in args if isinstance(arg, list | tuple)]
    largest, second, *_ = sorted([*sizes, 0, 0], reverse=True)
    return (largest + 1) * (second + 1)


def _refuse_over_cap(size: int) -> None:
    if size > TEXT_CAP:
        raise SecurityError(f"a value of more than {TEXT_CAP} characters, elements or bits")


class _TimeUp(BaseException):
    """Not an Exception, so that the template does not catch it."""


@dataclass(eq=False)
class _Call:
    thread: int
    deadline: float
    fired: bool = False


class _Watcher:
    """A thread that looks at the running calls now and then and raises _TimeUp inside one that is over its time. That ends loops
    of Python; one long operation in C ends first. The thread starts with the first call, and waits while there are none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[_Call] = set()
        self._thread: threading.Thread | None = None
        self._not_empty = threading.Event()

    def add(self, call: _Call) -> None:
        with self._lock:
            self._calls.add(call)
            if self._thread is None or not self._thread.is_alive():  # a forked process has no thread of its parent
                self._thread = threading.Thread(target=self._watch, name="time-limit", daemon=True)
                self._thread.start()
        self._not_empty.set()

    def remove(self, call: _Call) -> None:
        """After this the call is not fired any more."""
        with self._lock:
            self._calls.discard(call)

    def _watch(self) -> None:
        while True:
            self._not_empty.wait()
            time.sleep(LOOK_SECONDS)
            with self._lock:
                now = time.monotonic()
                for call in [call for call in self._calls if now > call.deadline]:
                    self._calls.remove(call)
                    call.fired = True
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(call.thread), ctypes.py_object(_TimeUp))
                if not self._calls:
                    self._not_empty.clear()


_WATCHER = _Watcher()


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError when the body, which must not nest another limit, takes longer than this (by LOOK_SECONDS)."""
    call = _Call(threading.get_ident(), time.monotonic() + seconds)
    raised = False
    _WATCHER.add(call)
    try:
        try:
            yield
        except _TimeUp:
            raised = True
            raise
        finally:
            _WATCHER.remove(call)
            while call.fired and not raised:  # _TimeUp is under way: it comes at one of the next instructions
                time.sleep(LOOK_SECONDS)
    except _TimeUp:
        raise TimeoutError from None


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _text_of(value: object) -> object:
    """A value of a row that a template prints. Raises TemplateError for one that is no text, which Python would print as code."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise jinja2.TemplateError(f"it prints {'null' if value is None else 'NaN'}: give it a default, or leave such rows out")
    if isinstance(value, str | int | float | datetime | date | time_of_day | timedelta | Decimal | jinja2.Undefined):
        return value
    if isinstance(value, dict | list | tuple):
        raise jinja2.TemplateError("it prints an object or a list: use the filter tojson or join")
    raise jinja2.TemplateError(f"it prints a value of type {type(value).__name__}, which is no text")


def _environment(finalize: Callable[[object], object] | None = None) -> _Environment:
    extensions = [jinja2.ext.loopcontrols, _Generation]
    made = _Environment(trim_blocks=True, lstrip_blocks=True, undefined=_Undefined, extensions=extensions, finalize=finalize)
    for name in ("batch", "center", "format", "pprint", "slice", "urlize", "wordwrap", "xmlattr"):
        del made.filters[name]  # they pad or multiply, and no chat template needs them
    for name in ("indent", "join", "replace"):
        made.filters[name] = _capped(made.filters[name])
    made.filters["tojson"] = _tojson
    del made.globals["lipsum"]
    made.globals |= {"raise_exception": _raise_exception, "strftime_now": lambda form: datetime.now().strftime(form)}
    return made


_ENVIRONMENT, _ROW_ENVIRONMENT, _NO_NAMES = _environment(), _environment(_text_of), _environment()
_NO_NAMES.globals.clear()
