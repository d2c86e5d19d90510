"""What the answers to a chat request are held to: calls of its tools, JSON of a schema, or neither."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wrinklefree_inference.http.chat_requests import ChatRequest
from wrinklefree_inference.http.errors import invalid
from wrinklefree_inference.native.interface import AnswerGrammar
from wrinklefree_inference.tool_calls.forms import ToolForm
from wrinklefree_inference.tool_calls.grammars import Function, JsonContent, calls_grammar, json_grammar
from wrinklefree_inference.tool_calls.schemas import closed, of_arguments

_ANY_OBJECT = {"type": "object"}


@dataclass(frozen=True)
class FieldNames:
    """What a client calls the fields of a chat request that an error is to name.

    Attributes:
        parameters: Of a tool, with `{}` for its number.
    """

    messages: str = "messages"
    parameters: str = "tools[{}].function.parameters"
    response_format: str = "response_format"
    schema: str = "response_format.json_schema.schema"


@dataclass(frozen=True)
class AnswerRules:
    """Made of a request.

    Attributes:
        tools: What the chat template is told of.
        functions: What may be called, by the field that has its schema.
        content: The JSON that content is; None lets it be text.
    """

    tools: tuple[Mapping[str, Any], ...]
    functions: Mapping[str, Function]
    content: JsonContent | None
    must_call: bool
    is_parallel: bool
    names: FieldNames

    @classmethod
    def of(cls, body: ChatRequest, names: FieldNames) -> AnswerRules:
        """The rules of a body."""
        choice = body.tool_choice
        offered = () if choice is not None and choice.type == "none" else tuple(body.tools or ())
        allowed = None if choice is None else choice.names
        functions = {
            names.parameters.format(i): Function(
                tool.function.name, of_arguments(tool.function.parameters), bool(tool.function.strict)
            )
            for i, tool in enumerate(offered)
            if allowed is None or tool.function.name in allowed
        }
        return cls(
            tools=tuple(tool.for_template() for tool in offered),
            functions=functions,
            content=_content(body),
            must_call=choice is not None and choice.must_call,
            is_parallel=body.parallel_tool_calls is not False
            and (choice is None or choice.type != "function"),
            names=names,
        )

    @property
    def are_any(self) -> bool:
        """Whether an answer may be any text and nothing can be called."""
        return not self.functions and self.content is None

    def grammar(self, form: ToolForm | None) -> str:
        """For the form in which the model writes calls, which is needed if something can be called.

        Raises:
            ApiError: 400 for what cannot be told apart.
        """
        if not self.functions:
            assert self.content is not None
            return json_grammar(self.content.schema, self.content.is_strict)
        assert form is not None
        if form.leads and self.content is not None and not self.must_call:
            field = self.names.response_format
            reason = (
                f"{field}: this model's calls begin as JSON does, so the two cannot be told apart: leave out "
                "it or tools, or (on OpenAI's paths) set tool_choice to required, none or a function"
            )
            raise invalid(reason, field, "unsupported")
        return calls_grammar(
            form,
            list(self.functions.values()),
            is_required=self.must_call,
            is_parallel=self.is_parallel,
            content=self.content,
        )

    def parts(self) -> dict[str, str]:
        """The schemas one by one, as grammars, by their fields."""
        parts = {
            field: json_grammar(function.schema, function.is_strict)
            for field, function in self.functions.items()
        }
        if self.content is not None:
            parts[self.names.schema] = json_grammar(self.content.schema, self.content.is_strict)
        return parts


@dataclass(frozen=True)
class HeldTo:
    """What the answers to a chat request are held to, and how the model writes calls, if it may call."""

    grammar: AnswerGrammar | None = None
    form: ToolForm | None = None


def _content(body: ChatRequest) -> JsonContent | None:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.json_schema is None or not wanted.json_schema.schema_:
        return JsonContent(_ANY_OBJECT)
    return JsonContent(closed(wanted.json_schema.schema_), bool(wanted.json_schema.strict))
