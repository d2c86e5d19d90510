"""/v1/loads: how much a server has to do, for routers (smg) that choose by it.

Only this of what such a router looks for: what answers /version or /server_info is taken for vLLM or SGLang,
and what answers /model_info gets its tokenizer looked up on a hub. They stay 404.
"""

from __future__ import annotations

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wf_formats.kernel_sizes import PAGE_TOKENS
from wrinklefree_inference.http.handlers import handler
from wrinklefree_inference.http.models import REFUSALS
from wrinklefree_inference.http.service import Service


class Load(BaseModel):
    """SGLang's names; `token_usage` is the share of the page cache that running requests hold."""

    dp_rank: int = 0
    num_running_reqs: int
    num_waiting_reqs: int
    num_total_reqs: int
    num_used_tokens: int
    max_total_num_tokens: int
    token_usage: float


class Loads(BaseModel):
    """Answer of /v1/loads."""

    loads: list[Load]


@handler(content=Loads, responses=REFUSALS)
async def loads(service: Service, http: Request) -> Response:
    """Requests and cache of the one engine."""
    now = service.engine.stats()
    load = Load(
        num_running_reqs=now.running,
        num_waiting_reqs=now.waiting,
        num_total_reqs=now.running + now.waiting,
        num_used_tokens=now.kv_pages_used * PAGE_TOKENS,
        max_total_num_tokens=now.kv_pages_total * PAGE_TOKENS,
        token_usage=now.kv_pages_used / max(1, now.kv_pages_total),
    )
    return JSONResponse(Loads(loads=[load]).model_dump())
