"""Fields of chat requests about calls and JSON: tools, the choice, calls of earlier turns, the answer's form.

Each is one model, not a union: pydantic would name the branch in the place of an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from wrinklefree_inference.http.requests import Text, misused
from wrinklefree_inference.http.unknown_fields import Strict, note_ignored
from wrinklefree_inference.tool_calls.cut import is_cut_object
from wrinklefree_inference.tool_calls.schema_values import check_values, without_idle_bounds
from wrinklefree_inference.tool_calls.schemas import check_bounds, of_arguments

MAX_TOOLS = 128  # OpenAI's limit
AllowedMode = Literal["auto", "required"]
ALLOWED_MODES = get_args(AllowedMode)


def checked_schema(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that answers can be held to: without bounds that say nothing, which are noted under `name`.

    Raises:
        ValueError: They cannot.
    """
    check_bounds(schema)
    kept, idle = without_idle_bounds(schema)
    check_values(kept)
    for keyword in idle:
        note_ignored(f"{name}.{keyword}")
    return kept


def _checked_arguments_schema(schema: dict[str, Any]) -> dict[str, Any]:
    kept = checked_schema("parameters", schema)
    of_arguments(kept)
    return kept


NAME_PATTERN = "^[a-zA-Z0-9_-]{1,64}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Schema = Annotated[dict[str, Any], AfterValidator(partial(checked_schema, "schema"))]
ArgumentsSchema = Annotated[dict[str, Any], AfterValidator(_checked_arguments_schema)]


class FunctionDefinition(Strict):
    """A function of the client's; `parameters` is the JSON schema of its arguments, an object."""

    place: ClassVar[str] = "tools[].function."
    name: Name
    description: Text | None = None
    parameters: ArgumentsSchema | None = None
    strict: bool | None = None


class Tool(Strict):
    """Something that may be called."""

    place: ClassVar[str] = "tools[]."
    type: Literal["function"]
    function: FunctionDefinition

    def for_template(self) -> dict[str, Any]:
        """As chat templates know it: what the client has left out is not there."""
        function = self.function.model_dump(exclude_none=True, exclude={"strict"})
        parameters = self.function.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": {"description": "", **function, "parameters": parameters}}


def _unique(tools: list[Tool]) -> list[Tool]:
    names = [tool.function.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two functions have the name {twice!r}")
    return tools


Tools = Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS), AfterValidator(_unique)]


class NamedFunction(Strict):
    """A function by its name."""

    place: ClassVar[str] = "tool_choice.function."
    name: Name


class AllowedTool(Strict):
    """One that may be called."""

    place: ClassVar[str] = "tool_choice.allowed_tools.tools[]."
    type: Literal["function"]
    function: NamedFunction


class AllowedTools(Strict):
    """Those that may be called of the tools that the model is told, whose prompt stays the same so."""

    place: ClassVar[str] = "tool_choice.allowed_tools."
    mode: AllowedMode
    tools: Annotated[list[AllowedTool], Field(fail_fast=True, min_length=1, max_length=MAX_TOOLS)]


CHOICE_MODES = ("none", "auto", "required")


def allowed_schema(named: dict[str, Any]) -> dict[str, Any]:
    """The schema of allowed tools for the OpenAPI page, of which each is `named` so."""
    tools = {"type": "array", "items": named, "minItems": 1, "maxItems": MAX_TOOLS}
    return {
        "type": "object",
        "properties": {"mode": {"enum": [*ALLOWED_MODES]}, "tools": tools},
        "required": ["mode", "tools"],
        "additionalProperties": False,
    }


def choice_of(named: str) -> Callable[[Any], Any]:
    """What makes an object of a word, so that there is one kind; `named` is how a function is named."""

    def choice(value: Any) -> Any:
        if value is None or (isinstance(value, dict) and value.get("type") in ("function", "allowed_tools")):
            return value
        if value in CHOICE_MODES and isinstance(value, str):
            return {"type": value}
        words = ", ".join([*map(json.dumps, CHOICE_MODES), named, '{"type": "allowed_tools", ...}'])
        raise PydanticCustomError("choice", "must be one of {words}", {"words": words})

    return choice


class Choice(Strict):
    """Which tool is called."""

    place: ClassVar[str] = "tool_choice."
    type: Literal["none", "auto", "required", "function", "allowed_tools"]
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None

    @model_validator(mode="after")
    def _names_some(self) -> Choice:
        if (self.type == "function") != (self.function is not None):
            rule = "name the function to call" if self.function is None else "only with type: function"
            raise misused("function", rule)
        if (self.type == "allowed_tools") != (self.allowed_tools is not None):
            rule = "needed" if self.allowed_tools is None else "only"
            raise misused("allowed_tools", f"{rule} with type: allowed_tools")
        return self

    @property
    def names(self) -> list[str] | None:
        """Of the functions that may be called; None: any."""
        if self.allowed_tools is not None:
            return [tool.function.name for tool in self.allowed_tools.tools]
        return None if self.function is None else [self.function.name]

    @property
    def must_call(self) -> bool:
        """Whether an answer begins with a call."""
        mode = self.type if self.allowed_tools is None else self.allowed_tools.mode
        return mode in ("required", "function")


_NAMED = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": NAME_PATTERN}},
    "required": ["name"],
    "additionalProperties": False,
}
_NAMED_FUNCTION = {
    "type": "object",
    "properties": {"type": {"const": "function"}, "function": _NAMED},
    "required": ["type", "function"],
    "additionalProperties": False,
}
_ALLOWED = {
    "type": "object",
    "properties": {"type": {"const": "allowed_tools"}, "allowed_tools": allowed_schema(_NAMED_FUNCTION)},
    "required": ["type", "allowed_tools"],
    "additionalProperties": False,
}
ToolChoice = Annotated[
    Choice | None,
    BeforeValidator(choice_of('{"type": "function", "function": {"name": ...}}')),
    WithJsonSchema({"anyOf": [{"enum": [*CHOICE_MODES]}, _NAMED_FUNCTION, _ALLOWED, {"type": "null"}]}),
]


class JsonSchemaFormat(Strict):
    """A schema that the answer's JSON fits; `strict` refuses what of it cannot be held to."""

    place: ClassVar[str] = "response_format.json_schema."
    name: Name
    description: Text | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Strict):
    """Text, any object of JSON, or JSON of a schema."""

    place: ClassVar[str] = "response_format."
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            rule = "needed" if self.json_schema is None else "only"
            raise misused("json_schema", f"{rule} with type: json_schema")
        return self


class CalledFunction(Strict):
    """What was called, with arguments as a text of JSON; the client's `parsed_arguments` has no effect.

    A call that `max_tokens` has cut comes back as it was given out, with every turn that follows. So the
    beginning of an object is let through as a text, as OpenAI's API does, and refused only where the model's
    chat template takes objects alone (`tool_calls/history.py`).
    """

    place: ClassVar[str] = "messages[].tool_calls[].function."
    name: Name
    arguments: Text
    parsed_arguments: Any = None

    def parsed(self) -> dict[str, Any] | str:
        """The arguments; none may be an empty text, those of a call that was cut short are a text too.

        Raises:
            ValueError: They are no object of JSON, nor the beginning of one.
        """
        if not self.arguments.strip():
            return {}
        try:
            value = json.loads(self.arguments)
        except (ValueError, RecursionError) as error:
            if isinstance(error, ValueError) and is_cut_object(self.arguments):
                return self.arguments
            raise ValueError(f"the arguments of a call are a text of JSON: {error}") from error
        if not isinstance(value, dict):
            raise ValueError("the arguments of a call are an object of JSON")
        return value

    @model_validator(mode="after")
    def _can_be_read(self) -> CalledFunction:
        try:
            self.parsed()
        except ValueError as error:
            raise misused("arguments", str(error)) from error
        return self


class CallOfTurn(Strict):
    """A call of an earlier turn; `index` is what streams number it with, and has no effect."""

    place: ClassVar[str] = "messages[].tool_calls[]."
    id: Annotated[Text, Field(min_length=1, max_length=256)]
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None

    def for_template(self) -> dict[str, Any]:
        """As chat templates know it."""
        function = {"name": self.function.name, "arguments": self.function.parsed()}
        return {"id": self.id, "type": "function", "function": function}
