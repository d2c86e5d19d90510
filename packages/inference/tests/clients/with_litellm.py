"""litellm: chat, a stream, structured output, tools and their results. Arguments: URL, model."""

import json
import sys
from typing import Literal

import litellm
from pydantic import BaseModel


class City(BaseModel):
    name: Literal["Bern", "Rome"]
    is_capital: bool


ASK = {"model": f"openai/{sys.argv[2]}", "api_base": sys.argv[1], "api_key": "none", "max_tokens": 60}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Bern", "Rome"]}},
            "required": ["city"],
        },
    },
}
USER = [{"role": "user", "content": "What is the weather in Bern?"}]

reply = litellm.completion(**ASK, messages=USER)
assert reply.choices[0].message.content
assert reply.usage.completion_tokens > 0
chunks = list(litellm.completion(**ASK, messages=USER, stream=True))
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
parsed = litellm.completion(**ASK, messages=USER, response_format=City)
City.model_validate_json(parsed.choices[0].message.content)
called = litellm.completion(
    **ASK, messages=USER, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False
)
message = called.choices[0].message
assert called.choices[0].finish_reason == "tool_calls"
assert json.loads(message.tool_calls[0].function.arguments)["city"] in ("Bern", "Rome")
result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
assert litellm.completion(**ASK, messages=[*USER, message, result], tools=[WEATHER]).choices[0]
