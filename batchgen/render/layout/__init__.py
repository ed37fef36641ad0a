"""Conversation -> text: through the model's chat template, or the schema's layout where that does not honour the values. The
choice is made by rendering: a template that ignores an attribute makes the same text of two values."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from batchgen.errors import BadRow, ModelError
from batchgen.job.job import Job
from batchgen.job.schemas import BuiltIn, Layout, Schema
from batchgen.records import REASONING, Message
from batchgen.render.capabilities import Capabilities
from batchgen.render.images.images import Images
from batchgen.render.messages import Content, for_template
from batchgen.render.model_files import ModelFiles
from batchgen.render.sandbox import ChatTemplate
from batchgen.render.steering import Steering

NO_VARIABLES: Mapping[str, object] = {}
_CHANGED = ("tool_calls", REASONING)  # keys of a message that a template gets in another form
LayoutKind = Literal["model template", "schema template", "schema block", "none"]
SCHEMAS = Path(__file__).parents[1] / "schemas"


@dataclass(frozen=True)
class Form:
    """One way to make the text: a chat template, or None for plain completion; with a block, the messages carry it. `kind` is how
    the attribute values get into the text."""

    kind: LayoutKind
    template: ChatTemplate | None
    block: Layout | None = None


class PromptText:
    """Makes the text of a conversation, in the `form` that fits the job. Raises ModelError where none honours an attribute."""

    def __init__(self, job: Job, model: ModelFiles, steering: Steering, capabilities: Capabilities) -> None:
        self._model, self._steering = model, steering
        self._hosted = capabilities.prompts == "messages"
        self._images = Images(job.input)
        self._continues = job.input.continue_final_message is True
        self._arguments = dict(job.model.chat_template_kwargs) if job.model else {}
        own = ChatTemplate(model.chat_template, model.label) if model.chat_template else None
        self._own, self._calling = own, ChatTemplate(model.tools_template, model.label) if model.tools_template else None
        if job.attributes is not None and job.attributes.predict is not None:
            self._arguments["label"] = job.attributes.predict
            self.form = self._choose_labeler(own, job.attributes.schema)
        elif steering.schema is not None:
            self.form = self._choose(own, steering.schema)
        else:
            self.form = Form("none", own)

    def render(self, messages: list[Message], variables: Mapping[str, object] = NO_VARIABLES) -> str:
        """The text of a conversation whose messages carry their values; up to its last message where the model continues that.
        The row's own `variables` of the template win. As with Transformers' continue_final_message, white space that the template
        strips is lost. Raises BadRow (render)."""
        if variables.get("tools"):
            self._refuse_unseen_tools()
        if not self._continues or messages[-1]["role"] != "assistant":
            return self._whole(self.form, messages, variables)
        text, last = self._whole(self.form, messages, variables, answering=False), messages[-1]["content"]
        for beginning in (last, last.strip()):
            if beginning and (found := text.rfind(beginning)) >= 0:
                return text[: found + len(beginning)]
        raise BadRow("render", "the last message, which is to be continued, is not in the chat template's text")

    def render_whole(self, messages: list[Message]) -> str:
        """The text of a conversation that nothing follows. Raises BadRow (render)."""
        return self._whole(self.form, messages, answering=False)

    def check_images(self, urls: list[str]) -> None:
        """Raises BadRow (input, render) for images that the model is not shown, or that the job does not allow."""
        for number, url in enumerate(urls, 1):
            self._images.check(number, url)
        if not self._hosted and not self._takes_images:
            raise BadRow("render", f"the chat template of {self._model.label} takes no images")

    @functools.cached_property
    def _takes_images(self) -> bool:
        """Whether the template shows an image: one for texts alone fails, or prints the list of parts."""
        values = self._steering.schema.default_values if self._steering.schema else {}
        parts = [{"type": "text", "text": "Hello"}, {"type": "image_url", "image_url": {"url": ""}}]
        try:
            bare, full = (self._whole(self.form, [{"role": "user", "content": parts[:number], **values}]) for number in (1, 2))
        except BadRow:
            return False
        return bare != full and "'text'" not in full

    def _refuse_unseen_tools(self) -> None:
        if not self._hosted and not self._shows_tools:
            raise BadRow("render", f"the chat template of {self._model.label} does not show tools")

    @functools.cached_property
    def _shows_tools(self) -> bool:
        """Whether the template's text changes with the tools."""
        values = self._steering.schema.default_values if self._steering.schema else {}
        hello: list[Message] = [{"role": "user", "content": "Hello", **values}]
        parameters = {
            "type": "object",
            "properties": {"name": {"type": "string", "description": "A name."}},
            "required": ["name"],
        }
        function = {"name": "greet", "description": "Greets somebody.", "parameters": parameters}
        try:
            shown = self._whole(self.form, hello, {"tools": [{"type": "function", "function": function}]})
            return shown != self._whole(self.form, hello)
        except BadRow:
            return False

    def _whole(
        self, form: Form, messages: list[Message], variables: Mapping[str, object] = NO_VARIABLES, answering: bool = True
    ) -> str:
        if form.block is not None:
            users = [index for index, message in enumerate(messages) if message["role"] == "user"]
            messages = list(messages)
            for index in users if form.block.turns == "all" else users[-1:]:
                message = messages[index]
                content = with_block(message["content"], form.block, self._steering.of(message))
                messages[index] = {**message, "content": content}
        template = self._calling if variables.get("tools") and self._calling and form.template is self._own else form.template
        if template is None:
            return "\n\n".join(message["content"] for message in messages if message["content"] is not None)
        if any("tool_calls" in message for message in messages) and not template.shows_calls:
            raise BadRow("render", f"the chat template of {self._model.label} does not show tool_calls")
        if not all(isinstance(message["content"], str) and message.keys().isdisjoint(_CHANGED) for message in messages):
            messages = [for_template(message, self._hosted) for message in messages]
        values: dict[str, object] = {}
        if self._steering.names:  # some templates read the values from their arguments instead of the message
            values = {name: messages[-1].get(name) for name in self._steering.names}
            values["attribute_names"] = list(self._steering.names)
        return template.render(messages, {**self._model.special, **self._arguments, **variables, **values}, answering)

    def _choose(self, own: ChatTemplate | None, schema: Schema) -> Form:
        """The first form whose text changes with every attribute."""
        ignored = list(schema.names)
        for form in self._forms(own, schema):
            if not (ignored := self._ignored(form, schema)):
                return form
        raise ModelError(
            f"the chat template of {self._model.label} ignores {', '.join(ignored)}: the prompt stays the "
            "same whatever the value",
            "use a template that reads them from the message or its arguments (model.chat_template), or give "
            "attributes.schema a layout",
        )

    def _forms(self, own: ChatTemplate | None, schema: Schema) -> Iterator[Form]:
        if own is not None:
            yield Form("model template", own)
        if schema.layout is not None and schema.layout.block is not None:
            yield Form("schema block", own, schema.layout)
        elif (template := _template_of(schema)) and not self._hosted:  # an endpoint has a template of its own
            yield Form("schema template", ChatTemplate(template, self._model.label))
        elif self._model.is_stand_in:
            yield Form("schema block", own, Layout(block=" ({pairs})"))

    def _choose_labeler(self, own: ChatTemplate | None, schema: Schema) -> Form:
        """The model's own template where it asks for the labels that its argument names; else the schema's."""
        talk: list[Message] = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
        if own is not None:
            try:
                texts = {own.render(talk, {**self._model.special, **self._arguments, "label": label}) for label in schema.labels}
            except BadRow:
                texts = set()
            if len(texts) == len(schema.labels):
                return Form("model template", own)
        template = _template_of(schema)
        assert template is not None
        return Form("schema template", ChatTemplate(template, self._model.label))

    def _ignored(self, form: Form, schema: Schema) -> list[str]:
        """The attributes that do not change the text."""
        hello = {"role": "user", "content": "Hello", **schema.default_values}
        ignored = []
        try:
            base = self._whole(form, [hello])
            for name, default in schema.default_values.items():
                low, high = schema.limits(name)
                if low != high and self._whole(form, [{**hello, name: high if default == low else low}]) == base:
                    ignored.append(name)
        except BadRow as error:
            raise ModelError(f"{self._model.label}: {error}", "give another model.chat_template") from None
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
