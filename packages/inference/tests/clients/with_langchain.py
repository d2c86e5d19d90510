"""langchain-openai: chat, a stream, structured output, tools and their results. Arguments: URL, model."""

import sys
from typing import Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: Literal["Bern", "Rome"]
    is_capital: bool


@tool
def weather(city: Literal["Bern", "Rome"]) -> str:
    """The weather in a city."""
    return f"rain in {city}"


chat = ChatOpenAI(base_url=sys.argv[1], model=sys.argv[2], api_key="none", max_tokens=60, max_retries=0)
answer = chat.invoke("What is the capital of France?")
assert answer.content
assert answer.usage_metadata["output_tokens"] > 0
assert "".join(chunk.content for chunk in chat.stream("Hello"))
for method in ("json_schema", "function_calling"):
    assert isinstance(chat.with_structured_output(City, method=method).invoke("A city"), City)

bound = chat.bind_tools([weather], tool_choice="any", parallel_tool_calls=False)
question = HumanMessage("What is the weather in Bern?")
called = bound.invoke([question])
(call,) = called.tool_calls
assert call["name"] == "weather"
result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
assert chat.bind_tools([weather]).invoke([question, called, result]).response_metadata["finish_reason"]
whole = None
for chunk in bound.stream([question]):
    whole = chunk if whole is None else whole + chunk
assert whole.tool_calls[0]["args"]["city"] in ("Bern", "Rome")
