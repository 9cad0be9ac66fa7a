"""A provider on loopback, in a process of its own: tokens, signed files with ranges, and faults on demand.

GDAL holds Python's lock in some calls that reach the network, so a server in the same process could never answer.
Run as `python provider.py FOLDER PORT`; `POST /control` sets what `GET /control` shows.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

__all__ = ["application"]


def application(folder: str) -> Starlette:
    """Build the application over a folder of files."""
    state: dict[str, Any] = {}
    asked: Counter[str] = Counter()
    inside = StaticFiles(directory=folder)

    async def control(request: Request) -> Response:
        if request.method == "POST":
            state.update(await request.json())
            asked.clear()
            state["keys"] = []
        return JSONResponse({**state, "asked": dict(asked)})

    async def token(request: Request) -> Response:
        asked["token"] += 1
        state["keys"].append(request.headers.get("Ocp-Apim-Subscription-Key"))
        if state["token_status"] != 200:
            return PlainTextResponse("no", status_code=state["token_status"])
        until = datetime.now(UTC) + timedelta(seconds=state["lifetime_s"])
        return JSONResponse({"token": state["signature"], "msft:expiry": until.isoformat().replace("+00:00", "Z")})

    async def files(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        name = request.url.path.rsplit("/", 1)[-1]
        asked[name] += 1
        if request.url.query != state["signature"]:
            await PlainTextResponse("not signed", status_code=403)(scope, receive, send)
            return
        faults = state["faults"].get(name, [])
        fault = faults.pop(0) if faults else ""
        if fault == "503":
            await PlainTextResponse("later", status_code=503)(scope, receive, send)
            return

        async def cut(message: Any) -> None:
            if fault == "cut" and message["type"] == "http.response.body" and message.get("body"):
                raise ConnectionResetError("cut by the test")
            await send(message)

        with suppress(ConnectionResetError):
            await inside(scope, receive, cut)

    return Starlette(
        routes=[
            Route("/control", control, methods=["GET", "POST"]),
            Route("/sas/token/{collection}", token),
            Mount("/files", app=files),
            Route("/locked", lambda request: PlainTextResponse("no", status_code=401)),
            Route("/gone", lambda request: PlainTextResponse("no", status_code=404)),
            Route("/page", lambda request: PlainTextResponse("<html>")),
            Mount("/static", app=inside),
        ]
    )


if __name__ == "__main__":
    uvicorn.run(application(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="critical", ws="none")
