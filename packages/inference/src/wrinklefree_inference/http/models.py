"""What there is: /v1/models, /health, /metrics."""

from __future__ import annotations

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wrinklefree_inference.http.errors import refusals
from wrinklefree_inference.http.handlers import handler
from wrinklefree_inference.http.responses import Health, Model, ModelList
from wrinklefree_inference.http.service import PLAIN_TEXT, Service

REFUSALS = refusals((401, 403, 404, 429, 500, 503))
_HEALTH = {"$ref": "#/components/schemas/Health"}


@handler(content=ModelList, responses=REFUSALS)
async def models(service: Service, http: Request) -> Response:
    """The one model that is served, under each of its names."""
    found = ModelList(data=[_model(service, name) for name in service.model_names])
    return JSONResponse(found.model_dump())


@handler(content=Model, responses=REFUSALS)
async def model(service: Service, http: Request) -> Response:
    """The same by one of them."""
    name = http.path_params["model"]
    service.check_model(name)
    return JSONResponse(_model(service, name).model_dump())


@handler(content=Health, responses={503: {"content": {"application/json": {"schema": _HEALTH}}}})
async def health(service: Service, http: Request) -> Response:
    """Whether requests are taken; open to everybody."""
    engine = service.engine.stats()
    is_draining = service.lifecycle.is_draining
    state = Health(
        status="failed" if not engine.healthy else "draining" if is_draining else "ok",
        restarts=engine.restarts_total,
        last_error=engine.last_error,
    )
    status = HTTPStatus.OK if state.status == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse(state.model_dump(exclude_defaults=True), status)


@handler(responses={200: PLAIN_TEXT, **REFUSALS})
async def metrics(service: Service, http: Request) -> Response:
    """Prometheus' text format."""
    return service.metrics.response()


def _model(service: Service, name: str) -> Model:
    engine = service.engine
    return Model(id=name, created=engine.created, max_model_len=engine.context_tokens)
