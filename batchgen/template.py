"""Chat templates: Jinja in a sandbox, compatible with Transformers', strict about what is undefined.

Templates are untrusted: they run in Jinja's ImmutableSandboxedEnvironment, and their output is capped. Undefined values are
stricter than in Transformers (printing one is an error, it would lose text in silence) and laxer than StrictUndefined
(testing one is allowed), because public templates test keys that messages do not have.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batchgen.errors import BadRow, ModelError

TEXT_CAP = 2**26


class ChatTemplate:
    """A compiled template; `label` names its model in errors. Raises ModelError for one that does not compile."""

    def __init__(self, source: str, label: str) -> None:
        try:
            self._template = _ENVIRONMENT.from_string(source)
        except jinja2.TemplateError as error:
            raise ModelError(f"chat template of {label}: {error}") from None

    def render(self, messages: list[dict[str, Any]], variables: dict[str, Any]) -> str:
        """The conversation as text, ready for the model to answer. Raises BadRow (render)."""
        pieces, size = [], 0
        known = {"tools": None, "documents": None, "bos_token": "", "eos_token": "", **variables}
        try:
            for piece in self._template.generate(messages=messages, add_generation_prompt=True, **known):
                pieces.append(piece)
                size += len(piece)
                if size > TEXT_CAP:
                    raise BadRow("render", f"the rendered prompt is over {TEXT_CAP} characters")
        except BadRow:
            raise
        except Exception as error:  # a template can raise anything
            raise BadRow("render", f"chat template: {error}") from None
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


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=_Undefined,
        extensions=[jinja2.ext.loopcontrols, _Generation],
    )

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


_ENVIRONMENT = _environment()
