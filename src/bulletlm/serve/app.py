"""The HTTP application: its middleware and its routers."""

from typing import Any

from fastapi import FastAPI

from bulletlm import __version__
from bulletlm.runtime import Model
from bulletlm.serve import utility_routes
from bulletlm.serve.errors import install_handlers
from bulletlm.serve.fields import ANY_TOKEN
from bulletlm.serve.guard import Cors, Guard
from bulletlm.serve.metrics import CountRequests
from bulletlm.serve.ollama import routes as ollama_routes
from bulletlm.serve.openai import responses
from bulletlm.serve.openai import routes as openai_routes
from bulletlm.serve.options import LOCAL_NAMES, ServeOptions, is_loopback
from bulletlm.serve.paths import AcceptVariants
from bulletlm.serve.service import Service
from bulletlm.shape import ModelShape


def create_app(model: Model, name: str, options: ServeOptions) -> FastAPI:
    """The application that serves `model` under `name`. The caller must call `app.state.service.close()` at the end."""
    service = Service(model, name, options)
    # FastAPI's documentation pages load scripts from the internet, so they are off; /openapi.json has the same content.
    app = FastAPI(title="BulletLM", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service, app.state.response_store = service, responses.ResponseStore()
    generic_schema = app.openapi
    app.openapi = lambda: _with_model(generic_schema(), model.shape)  # type: ignore[method-assign]
    install_handlers(app)
    routers = (openai_routes.router, responses.router, ollama_routes.router, utility_routes.router)
    for router in routers:
        app.include_router(router)
    app.state.routes = [route for router in routers for route in router.routes]

    # Middleware that is added later runs earlier.
    # DNS rebinding is a danger for servers without a key on this computer only; elsewhere, the server's real names are unknown.
    allowed = {host.lower() for host in (options.host, *options.allowed_hosts)}  # 127.0.0.2 is a name of this computer too
    hosts = LOCAL_NAMES | allowed if options.allowed_hosts or is_loopback(options.host) else ()
    app.add_middleware(Guard, key=options.api_key, hosts=hosts, origins=options.cors, max_bytes=options.max_request_bytes)
    if options.cors:
        app.add_middleware(Cors, origins=options.cors)
    app.add_middleware(CountRequests, metrics=service.metrics)
    app.add_middleware(AcceptVariants)
    return app


def _with_model(part: Any, shape: ModelShape) -> Any:
    """An OpenAPI document with this model's highest token id and number of dimensions in the places for them."""
    if isinstance(part, list):
        return [_with_model(item, shape) for item in part]
    if not isinstance(part, dict):
        return part
    exact = {key: _with_model(item, shape) for key, item in part.items()}
    if exact.get("maximum") == ANY_TOKEN:
        exact["maximum"] = shape.vocab_size - 1
    if exact.get("title") == "Dimensions":
        exact["anyOf"] = [{"const": shape.dim}, {"type": "null"}]
    return exact
