"""Fields of /v1/responses about calls and JSON; they are those of a chat, one level less deep."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from wrinklefree_inference.http.requests import Text, Unsupported, misused
from wrinklefree_inference.http.tool_fields import (
    CHOICE_MODES,
    MAX_TOOLS,
    NAME_PATTERN,
    ArgumentsSchema,
    FunctionDefinition,
    Name,
    Schema,
    Tool,
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


class ResponseChoice(Strict):
    """Which tool is called."""

    place: ClassVar[str] = "tool_choice."
    type: Literal["none", "auto", "required", "function"]
    name: Name | None = None

    @model_validator(mode="after")
    def _names_one(self) -> ResponseChoice:
        if self.type == "function" and self.name is None:
            raise misused("name", "name the function to call")
        return self

    def for_chat(self) -> Any:
        """As chats have it."""
        return self.type if self.name is None else {"type": self.type, "function": {"name": self.name}}

    def told(self) -> Any:
        """As a response repeats it."""
        return self.type if self.name is None else {"type": self.type, "name": self.name}


_NAMED_FUNCTION = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "name": {"type": "string", "pattern": NAME_PATTERN},
    },
    "required": ["type", "name"],
    "additionalProperties": False,
}
ResponseToolChoice = Annotated[
    ResponseChoice | None,
    BeforeValidator(choice_of('{"type": "function", "name": ...}')),
    WithJsonSchema({"anyOf": [{"enum": [*CHOICE_MODES]}, _NAMED_FUNCTION, {"type": "null"}]}),
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
