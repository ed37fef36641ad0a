"""Conversation -> text: through the model's chat template, or the schema's layout where that does not honour the values.

The choice is made by rendering: a template that ignores an attribute makes the same text of two values.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from batchgen.errors import BadRow, ModelError
from batchgen.job.job import Job
from batchgen.job.schemas import BuiltIn, Layout, Schema
from batchgen.records import Capabilities, Message
from batchgen.render.messages import Content, check_inline, with_marks
from batchgen.render.model_files import ModelFiles
from batchgen.render.sandbox.template import ChatTemplate
from batchgen.render.steering import Steering

LayoutKind = Literal["model template", "schema template", "schema block", "none"]
SCHEMAS = Path(__file__).parent / "schemas"


@dataclass(frozen=True)
class _Form:
    """One way to make the text: a chat template, or None for plain completion; with a block, the messages carry it."""

    kind: LayoutKind
    template: ChatTemplate | None
    block: Layout | None = None


class PromptText:
    """Makes the text of a conversation. Raises ModelError where neither template nor layout honours an attribute."""

    def __init__(self, job: Job, model: ModelFiles, steering: Steering, capabilities: Capabilities) -> None:
        self._model, self._steering = model, steering
        self._hosted = capabilities.prompts == "messages"
        self._continues = job.input.continue_final_message is True
        self._arguments = dict(job.model.chat_template_kwargs) if job.model else {}
        own = ChatTemplate(model.chat_template, model.label) if model.chat_template else None
        if job.attributes is not None and job.attributes.predict is not None:
            self._arguments["label"] = job.attributes.predict
            self._form = self._choose_labeler(own, job.attributes.schema)
        elif steering.schema is not None:
            self._form = self._choose(own, steering.schema)
        else:
            self._form = _Form("none", own)

    @property
    def kind(self) -> LayoutKind:
        """The way in which attribute values get into the text."""
        return self._form.kind

    @property
    def has_template(self) -> bool:
        return self._form.template is not None

    def render(self, messages: list[Message]) -> str:
        """The text of a conversation whose messages carry their values. Raises BadRow (render)."""
        if messages[-1]["role"] == "assistant" and self._continues:
            return self._up_to_the_last_text(messages)
        return self._whole(self._form, messages)

    def check_images(self, pictures: list[str]) -> None:
        """Raises BadRow (input, render) for images that the model is not shown."""
        if self._hosted:
            return
        check_inline(pictures)
        if not self._takes_images:
            raise BadRow("render", f"the chat template of {self._model.label} takes no images")

    @functools.cached_property
    def _takes_images(self) -> bool:
        """Whether the template shows an image: one for texts alone fails, or prints the list of parts."""
        values = self._steering.schema.default_values if self._steering.schema else {}
        parts = [{"type": "text", "text": "Hello"}, {"type": "image_url", "image_url": {"url": ""}}]
        try:
            bare, full = (self._whole(self._form, [{"role": "user", "content": parts[:number], **values}]) for number in (1, 2))
        except BadRow:
            return False
        return bare != full and "'text'" not in full

    def _up_to_the_last_text(self, messages: list[Message]) -> str:
        """The conversation up to the end of its last message's text, which the model continues; as with Transformers'
        continue_final_message, white space that the template strips is lost."""
        text, last = self._whole(self._form, messages, answering=False), messages[-1]["content"]
        for beginning in (last, last.strip()):
            if beginning and (found := text.rfind(beginning)) >= 0:
                return text[: found + len(beginning)]
        raise BadRow("render", "the last message, which is to be continued, is not in the chat template's text")

    def _whole(self, form: _Form, messages: list[Message], answering: bool = True) -> str:
        if form.block is not None:
            messages = self._with_block(form.block, messages)
        if form.template is None:
            return "\n\n".join(message["content"] for message in messages)
        if not self._hosted:
            messages = with_marks(messages)
        variables: dict[str, object] = dict(self._model.special)
        if self._steering.names:
            # Some templates read the values from their arguments instead of the message.
            values = {name: messages[-1].get(name) for name in self._steering.names}
            variables = {**values, "attribute_names": list(self._steering.names), **variables}
        return form.template.render(messages, {**self._arguments, **variables}, answering)

    def _with_block(self, block: Layout, messages: list[Message]) -> list[Message]:
        last = max(index for index, message in enumerate(messages) if message["role"] == "user")

        def carries(index: int, message: Message) -> bool:
            return message["role"] == "user" and (block.turns == "all" or index == last)

        return [
            {**message, "content": with_block(message["content"], block, self._steering.of(message))}
            if carries(index, message)
            else message
            for index, message in enumerate(messages)
        ]

    def _choose(self, own: ChatTemplate | None, schema: Schema) -> _Form:
        """The first form whose text changes with every attribute."""
        ignored: list[str] = list(schema.names)
        for form in self._forms(own, schema):
            ignored = self._ignored(form, schema)
            if not ignored:
                return form
        raise ModelError(
            f"the chat template of {self._model.label} ignores {', '.join(ignored)}: the prompt stays the "
            "same whatever the value",
            "use a template that reads them from the message or its arguments (model.chat_template), or give "
            "attributes.schema a layout",
        )

    def _forms(self, own: ChatTemplate | None, schema: Schema) -> Iterator[_Form]:
        if own is not None:
            yield _Form("model template", own)
        if schema.layout is not None and schema.layout.block is not None:
            yield _Form("schema block", own, schema.layout)
        elif (template := _template_of(schema)) and not self._hosted:  # an endpoint has a template of its own
            yield _Form("schema template", ChatTemplate(template, self._model.label))

    def _choose_labeler(self, own: ChatTemplate | None, schema: Schema) -> _Form:
        """The model's own template where it asks for the labels that its argument names; else the schema's."""
        talk: list[Message] = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]

        def probe(template: ChatTemplate, label: str) -> str | None:
            try:
                return template.render(talk, {**self._arguments, **self._model.special, "label": label})
            except BadRow:
                return None

        if own is not None:
            texts = {probe(own, label) for label in schema.labels}
            if None not in texts and len(texts) == len(schema.labels):
                return _Form("model template", own)
        template = _template_of(schema)
        assert template is not None
        return _Form("schema template", ChatTemplate(template, self._model.label))

    def _ignored(self, form: _Form, schema: Schema) -> list[str]:
        """The attributes that do not change the text."""

        def probe(values: dict[str, int]) -> str:
            try:
                return self._whole(form, [{"role": "user", "content": "Hello", **values}])
            except BadRow as error:
                raise ModelError(f"{self._model.label}: {error}", "give another model.chat_template") from None

        defaults = schema.default_values
        base = probe(defaults)
        ignored = []
        for name, default in defaults.items():
            low, high = schema.limits(name)
            if low != high and probe({**defaults, name: high if default == low else low}) == base:
                ignored.append(name)
        return ignored


def with_block(content: Content, block: Layout, values: dict[str, int]) -> Content:
    """A message's content with the block of `values` beside it."""
    text = block.block_of(values)
    if isinstance(content, str):
        return content + text if block.where == "suffix" else text + content
    part = {"type": "text", "text": text}
    return [*content, part] if block.where == "suffix" else [part, *content]


def _template_of(schema: Schema) -> str | None:
    """The chat template that a schema brings: its layout's, or the one in schemas/ of a built-in one."""
    if isinstance(schema, BuiltIn):
        return (SCHEMAS / f"{schema.name}.jinja").read_text(encoding="utf-8").rstrip("\n")
    return schema.layout.template if schema.layout else None
