"""What there is: /v1/models, /health, /metrics."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from wrinklefree_inference.http.errors import refusals
from wrinklefree_inference.http.lifecycle import Lifecycle
from wrinklefree_inference.http.responses import Health, Model, ModelList
from wrinklefree_inference.http.service import Service

REFUSALS = refusals((401, 403, 404, 429, 500, 503))


def router(service: Service, lifecycle: Lifecycle) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/v1/models", operation_id="listModels", responses=REFUSALS)
    async def models() -> ModelList:
        """The one model that is served, under each of its names."""
        return ModelList(data=[_model(service, name) for name in service.model_names])

    @routes.get("/v1/models/{model:path}", operation_id="retrieveModel", responses=REFUSALS)
    async def model(model: str) -> Model:
        """The same by one of them."""
        service.check_model(model)
        return _model(service, model)

    @routes.get("/health", operation_id="health", response_model=Health, responses={503: {"model": Health}})
    async def health() -> Response:
        """Whether requests are taken; open to everybody."""
        engine = service.engine.stats()
        state = Health(
            status="failed" if not engine.healthy else "draining" if lifecycle.is_draining else "ok",
            restarts=engine.restarts_total,
            last_error=engine.last_error,
        )
        status = HTTPStatus.OK if state.status == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse(state.model_dump(exclude_defaults=True), status)

    @routes.get(
        "/metrics",
        operation_id="metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **REFUSALS},
    )
    async def metrics() -> Response:
        """Prometheus' text format."""
        return service.metrics.response()

    return routes


def _model(service: Service, name: str) -> Model:
    engine = service.engine
    return Model(id=name, created=engine.created, max_model_len=engine.context_tokens)
