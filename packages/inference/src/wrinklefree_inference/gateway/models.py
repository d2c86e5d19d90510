"""What the workers serve: all the same, or they are no workers of one gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from http import HTTPStatus

from wf_formats.errors import RequestError
from wf_formats.printable import printable
from wrinklefree_inference.engines.openai import OpenAIEngine
from wrinklefree_inference.engines.openai_answers import ListedModel
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.options import ClientOptions

_ANSWER_S = 10.0


class CommonModels:
    """The models of all workers.

    Attributes:
        cards: Of each one for `/v1/models`, by id: the context is the shortest of all workers'.
    """

    def __init__(self, by_url: dict[str, list[ListedModel]]) -> None:
        (first, ours), *others = by_url.items()
        if not ours:
            raise RequestError(f"{first} lists no model: it has none loaded")
        ids = {model.id for model in ours}
        for url, listed in others:
            if {model.id for model in listed} != ids:
                raise RequestError(
                    f"{url} serves {_named(listed)}, but {first} serves {_named(ours)}: all workers of a "
                    "gateway must list the same ids (wf serve --model-id NAME sets one)"
                )
        created = int(time.time())
        self.cards = {
            name: {"id": name, "object": "model", "created": created, "owned_by": "wrinklefree"}
            | _context(name, by_url)
            for name in sorted(ids)
        }

    @classmethod
    async def of(cls, urls: Sequence[str], key: str) -> CommonModels:
        """Ask all workers.

        Raises:
            EngineError: One does not answer, or refuses the key.
            RequestError: They serve different models.
        """
        listed = await asyncio.gather(*(asyncio.to_thread(_listed, url, key) for url in urls))
        return cls(dict(zip(urls, listed, strict=True)))


def _listed(url: str, key: str) -> list[ListedModel]:
    client = OpenAIEngine(url, ClientOptions(key, timeout_s=_ANSWER_S))
    try:
        return client.models()
    except EngineError as error:
        if f"({HTTPStatus.UNAUTHORIZED} " not in str(error):
            raise
        raise EngineError(
            f"{error}; give the key of the servers of --worker-url by $WF_WORKER_API_KEY"
        ) from error
    finally:
        client.close()


def _context(name: str, by_url: dict[str, list[ListedModel]]) -> dict[str, int]:
    found = [
        model.max_model_len or (model.meta.n_ctx if model.meta else None)
        for listed in by_url.values()
        for model in listed
        if model.id == name
    ]
    known = [tokens for tokens in found if tokens is not None]
    return {"max_model_len": min(known)} if known else {}


def _named(listed: Sequence[ListedModel]) -> str:
    return printable(", ".join(sorted(model.id for model in listed))) or "no model"
