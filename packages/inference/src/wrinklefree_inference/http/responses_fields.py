"""Fields of /v1/responses about calls and JSON; they are those of a chat, one level less deep."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from wrinklefree_inference.http.requests import Text, Unsupported, misused
from wrinklefree_inference.http.tool_fields import (
    CHOICE_MODES,
    MAX_TOOLS,
    NAME_PATTERN,
    AllowedMode,
    ArgumentsSchema,
    FunctionDefinition,
    Name,
    Schema,
    Tool,
    allowed_schema,
    choice_of,
)
from wrinklefree_inference.http.unknown_fields import Strict


class ResponseTool(Strict):
    """A function of the client's; `parameters` is the JSON schema of its arguments, an object."""

    place: ClassVar[str] = "tools[]."
    type: Literal["function"]
    name: Name
    description: Text | None = None
    parameters: ArgumentsSchema | None = None
    strict: bool | None = None

    def for_chat(self) -> Tool:
        """As chats have it; what was checked here is not checked again."""
        function = FunctionDefinition.model_construct(
            name=self.name, description=self.description, parameters=self.parameters, strict=self.strict
        )
        return Tool.model_construct(type="function", function=function)

    def told(self) -> dict[str, Any]:
        """As a response repeats it: strict or not, as it was held to."""
        return self.model_dump() | {"strict": bool(self.strict)}


ResponseTools = Annotated[list[ResponseTool], Field(fail_fast=True, max_length=MAX_TOOLS)]


class ResponseAllowedTool(Strict):
    """One that may be called."""

    place: ClassVar[str] = "tool_choice.tools[]."
    type: Literal["function"]
    name: Name


class ResponseChoice(Strict):
    """Which tool is called; `mode` and `tools` say which may be, of those that the model is told."""

    place: ClassVar[str] = "tool_choice."
    type: Literal["none", "auto", "required", "function", "allowed_tools"]
    name: Name | None = None
    mode: AllowedMode | None = None
    tools: (
        Annotated[list[ResponseAllowedTool], Field(fail_fast=True, min_length=1, max_length=MAX_TOOLS)] | None
    ) = None

    @model_validator(mode="after")
    def _names_some(self) -> ResponseChoice:
        if (self.type == "function") != (self.name is not None):
            rule = "name the function to call" if self.name is None else "only with type: function"
            raise misused("name", rule)
        for field, value in (("mode", self.mode), ("tools", self.tools)):
            if (self.type == "allowed_tools") != (value is not None):
                raise misused(field, f"{'needed' if value is None else 'only'} with type: allowed_tools")
        return self

    def for_chat(self) -> Any:
        """As chats have it."""
        if self.tools is not None:
            tools = [{"type": "function", "function": {"name": tool.name}} for tool in self.tools]
            return {"type": self.type, self.type: {"mode": self.mode, "tools": tools}}
        return self.type if self.name is None else {"type": self.type, "function": {"name": self.name}}

    def told(self) -> Any:
        """As a response repeats it."""
        told = self.model_dump(exclude_none=True)
        return told if len(told) > 1 else self.type


_NAMED_FUNCTION = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "name": {"type": "string", "pattern": NAME_PATTERN},
    },
    "required": ["type", "name"],
    "additionalProperties": False,
}
_ALLOWED_SCHEMA = allowed_schema(_NAMED_FUNCTION)
_ALLOWED = _ALLOWED_SCHEMA | {
    "properties": {"type": {"const": "allowed_tools"}, **_ALLOWED_SCHEMA["properties"]},
    "required": ["type", *_ALLOWED_SCHEMA["required"]],
}
ResponseToolChoice = Annotated[
    ResponseChoice | None,
    BeforeValidator(choice_of('{"type": "function", "name": ...}')),
    WithJsonSchema({"anyOf": [{"enum": [*CHOICE_MODES]}, _NAMED_FUNCTION, _ALLOWED, {"type": "null"}]}),
]


class TextFormat(Strict):
    """Text, any object of JSON, or JSON of a schema; `strict` refuses what of it cannot be held to."""

    place: ClassVar[str] = "text.format."
    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: Text | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> TextFormat:
        has_schema = self.type == "json_schema"
        for field, value in (("name", self.name), ("schema", self.schema_)):
            if (value is not None) != has_schema:
                raise misused(field, f"{'needed' if has_schema else 'only'} with type: json_schema")
        return self

    def for_chat(self) -> dict[str, Any]:
        """As chats have it."""
        told = self.told()
        kind = told.pop("type")
        return {"type": kind, "json_schema": told} if kind == "json_schema" else {"type": kind}

    def told(self) -> dict[str, Any]:
        """As a response repeats it."""
        return self.model_dump(by_alias=True, exclude_none=True)


class TextOptions(Strict):
    """How the text is to be: `format` is what `response_format` is to /v1/chat/completions."""

    place: ClassVar[str] = "text."
    format: TextFormat | None = None
    verbosity: Unsupported = None
