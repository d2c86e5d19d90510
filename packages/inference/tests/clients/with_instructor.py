"""instructor: models by tools, JSON schema and JSON mode. Arguments: URL, model."""

import sys
from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: Literal["Bern", "Rome"]
    is_capital: bool


server = OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS_STRICT):
    client = instructor.from_openai(server, mode=mode)
    city = client.chat.completions.create(
        model=sys.argv[2],
        messages=[{"role": "user", "content": "A city"}],
        response_model=City,
        max_tokens=60,
        max_retries=0,
    )
    assert isinstance(city, City), mode
client = instructor.from_openai(server)
partial = list(
    client.chat.completions.create_partial(
        model=sys.argv[2],
        messages=[{"role": "user", "content": "A city"}],
        response_model=City,
        max_tokens=60,
    )
)
assert partial[-1].name in ("Bern", "Rome")
