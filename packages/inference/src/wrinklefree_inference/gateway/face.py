"""The gateway's HTTP: our proxy (`http/proxy.py`) in front of the router, and what it answers itself.

/v1/models are the workers' (the router's list has no contexts), /health counts them, /metrics is everybody's.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus

from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wrinklefree_inference.gateway.fleet import Fleet
from wrinklefree_inference.gateway.pages import FleetPage
from wrinklefree_inference.http.app import HttpApp
from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.http.errors import ApiError
from wrinklefree_inference.http.handlers import Operation, handler
from wrinklefree_inference.http.lifecycle import Lifecycle
from wrinklefree_inference.http.metrics import Metrics, page_of
from wrinklefree_inference.http.proxy import create_proxy
from wrinklefree_inference.http.upstream import Upstream
from wrinklefree_inference.options import HttpOptions

_MOST_INFLIGHT = 4096


def create_gateway(fleet: Fleet, upstream: Upstream, http: HttpOptions, keys: ApiKeys) -> HttpApp:
    """The application; it has room for as many requests as its workers together."""
    inflight = min(_MOST_INFLIGHT, http.max_inflight * len(fleet.all_urls))

    def own_operations(lifecycle: Lifecycle, metrics: Metrics) -> list[Operation]:
        return _operations(fleet, lifecycle, metrics)

    return create_proxy(upstream, replace(http, max_inflight=inflight), keys, own_operations)


def _operations(fleet: Fleet, lifecycle: Lifecycle, metrics: Metrics) -> list[Operation]:
    @handler()
    async def health(request: Request) -> Response:
        """`ok` if any worker takes requests, and how many do."""
        up = fleet.up()
        num_up = sum(up.values())
        state = "draining" if lifecycle.is_draining else "ok" if num_up else "failed"
        status = HTTPStatus.OK if state == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"status": state, "workers": {"up": num_up, "of": len(up)}}, status)

    @handler()
    async def models(request: Request) -> Response:
        """What every worker serves."""
        return JSONResponse({"object": "list", "data": list(fleet.models.cards.values())})

    @handler()
    async def model(request: Request) -> Response:
        """One of them."""
        name = request.path_params["model"]
        if name not in fleet.models.cards:
            known = ", ".join(fleet.models.cards)
            raise ApiError(404, f"there is no model of that name (there is: {known})", code="model_not_found")
        return JSONResponse(fleet.models.cards[name])

    @handler()
    async def page(request: Request) -> Response:
        """Ours, the router's and the workers'."""
        page = CollectorRegistry(auto_describe=False)
        page.register(await FleetPage.read(fleet, metrics.registry))
        return page_of(page)

    return [
        Operation("GET", "/health", "gatewayHealth", lambda: health),
        Operation("GET", "/v1/models", "gatewayModels", lambda: models),
        Operation("GET", "/v1/models/{model:path}", "gatewayModel", lambda: model),
        Operation("GET", "/metrics", "gatewayMetrics", lambda: page),
    ]
