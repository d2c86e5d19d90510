"""pydantic-ai: an agent's text, a stream, structured output by tool and by schema. Arguments: URL, model."""

import asyncio
import sys
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class City(BaseModel):
    """A city."""

    name: Literal["Bern", "Rome"]
    is_capital: bool


model = OpenAIChatModel(sys.argv[2], provider=OpenAIProvider(base_url=sys.argv[1], api_key="none"))
settings = {"max_tokens": 60, "parallel_tool_calls": False}


async def streamed(agent: Agent) -> str:
    async with agent.run_stream("Hello", model_settings=settings) as run:
        return "".join([text async for text in run.stream_text(delta=True)])


agent = Agent(model)
assert agent.run_sync("Hello", model_settings=settings).output
assert asyncio.run(streamed(agent))
for output in (ToolOutput(City), NativeOutput(City)):
    run = Agent(model, output_type=output).run_sync("A city", model_settings=settings)
    assert isinstance(run.output, City)
    assert run.usage.output_tokens > 0 if not callable(run.usage) else run.usage().output_tokens > 0
# A turn after calls: the history has them and their results.
again = Agent(model, output_type=ToolOutput(City))
first = again.run_sync("A city", model_settings=settings)
second = again.run_sync("Another", message_history=first.all_messages(), model_settings=settings)
assert isinstance(second.output, City)
