"""The application: routes, pages, error answers, and an OpenAPI description that is true.

A page is one HTML file whose own scripts and styles alone may run, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI, Response

from loopwright.serving.problems import JSON, KINDS, Known, Problem, handler, problems
from loopwright.version import __version__

_SCHEMAS = "#/components/schemas/"
_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Site:
    """What is served: its title, what it says of itself, its routes, and its pages by path.

    `schemas` are the types that its routes answer with, and `known` the errors of its own.
    """

    title: str
    summary: str
    routers: tuple[APIRouter, ...]
    pages: Mapping[str, bytes]
    schemas: tuple[type, ...]
    known: Known


def make_app(site: Site) -> FastAPI:
    """The application that serves `site`."""
    app = FastAPI(
        title=site.title, version=__version__, summary=site.summary, docs_url=None, redoc_url=None
    )
    for router in site.routers:
        app.include_router(router)
    for path, body in site.pages.items():
        _add_page(app, path, body)
    answer = handler(site.known)
    for kind in KINDS:
        app.add_exception_handler(kind, answer)
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = original()
            _mend(made, site.schemas)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI has it extended
    return app


def answers(kind: type, *wrong: int, many: bool = False) -> dict[int | str, dict[str, Any]]:
    """What a route answers, and with which statuses it does not, for the OpenAPI page."""
    reference: dict[str, Any] = {"$ref": f"{_SCHEMAS}{kind.__name__}"}
    schema = {"type": "array", "items": reference} if many else reference
    found = {"description": "Found.", "content": {JSON: {"schema": schema}}}
    return {200: found, **problems(*wrong)}


def _mend(made: dict[str, Any], kinds: Sequence[type]) -> None:
    """Describe what is answered here, not what FastAPI assumes."""
    for path in made["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # such arguments are answered by 400
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _, found = msgspec.json.schema_components((*kinds, Problem), ref_template=_SCHEMAS + "{name}")
    schemas.update(found)


def _add_page(app: FastAPI, path: str, body: bytes) -> None:
    headers = {
        "Content-Security-Policy": _policy(body),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }

    async def page() -> Response:
        return Response(body, media_type="text/html; charset=utf-8", headers=headers)

    app.add_api_route(path, page, include_in_schema=False)


def _policy(body: bytes) -> str:
    """What the page may do: run what is written in it, and ask the server it came from."""
    hashes: dict[bytes, list[str]] = {b"script": [], b"style": []}
    for kind, text in _INLINE.findall(body):
        digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    return (
        f"default-src 'none'; script-src {' '.join(hashes[b'script'])}; style-src "
        f"{' '.join(hashes[b'style'])}; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
