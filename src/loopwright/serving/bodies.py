"""Bodies: JSON that is answered, whole or in pieces, and JSON that is read within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import msgspec
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from loopwright.serving.problems import JSON, BodyError

STREAM = "text/event-stream"
_BODY_BYTES = 64 << 10
_BODY_S = 10.0


def json_answer(body: bytes, status: int = 200) -> Response:
    """An answer whose body is JSON already."""
    return Response(body, status, media_type=JSON)


def event_answer(messages: AsyncIterator[bytes]) -> Response:
    """An answer that is a stream of server-sent events."""
    return StreamingResponse(messages, media_type=STREAM, headers={"Cache-Control": "no-store"})


def array_answer(pages: Iterable[bytes]) -> Response:
    """An array of the rows of all `pages`, each an array; the loop serves others between two."""
    return StreamingResponse(_joined(pages), media_type=JSON)


async def _joined(pages: Iterable[bytes]) -> AsyncIterator[bytes]:
    comma = b""
    yield b"["
    for page in pages:
        rows = page[1:-1]
        if rows:
            yield comma + rows
            comma = b","
        await asyncio.sleep(0)
    yield b"]"


async def read_texts(request: Request) -> dict[str, str]:
    """The JSON object of text that `request` carries.

    Raises: BodyError for another content type, a body that is too large, does not come in time or
        is something else.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise BodyError(415, "send a JSON object, with the header Content-Type: application/json")
    try:
        async with asyncio.timeout(_BODY_S):
            body = await _read(request)
    except TimeoutError as error:
        raise BodyError(408, f"the body did not come within {_BODY_S:g} s") from error
    try:
        return msgspec.json.decode(body or b"{}", type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BodyError(400, f"the body is not a JSON object of text: {error}") from error


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _BODY_BYTES:
            raise BodyError(413, f"the body has more than {_BODY_BYTES} bytes")
    return bytes(body)
