"""llama-index-llms-openai-like: chat, a stream, structured output, tools. Arguments: URL, model."""

import sys
from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: Literal["Bern", "Rome"]
    is_capital: bool


def weather(city: Literal["Bern", "Rome"]) -> str:
    """The weather in a city."""
    return f"rain in {city}"


llm = OpenAILike(
    model=sys.argv[2],
    api_base=sys.argv[1],
    api_key="none",
    is_chat_model=True,
    is_function_calling_model=True,
    context_window=512,
    max_tokens=60,
    max_retries=0,
)
user = [ChatMessage(role="user", content="What is the weather in Bern?")]
assert llm.chat(user).message.content
assert "".join(chunk.delta or "" for chunk in llm.stream_chat(user))
assert llm.complete("Once upon a time").text
city = llm.structured_predict(
    City, PromptTemplate("Describe a city."), llm_kwargs={"tool_choice": "required"}
)
assert isinstance(city, City)
tool = FunctionTool.from_defaults(weather)
called = llm.chat_with_tools([tool], chat_history=user, tool_required=True, allow_parallel_tool_calls=False)
(call,) = llm.get_tool_calls_from_response(called)
assert call.tool_kwargs["city"] in ("Bern", "Rome")
result = ChatMessage(
    role="tool", content=weather(**call.tool_kwargs), additional_kwargs={"tool_call_id": call.tool_id}
)
assert llm.chat([*user, called.message, result]).raw
