"""Serve a live page of many runs on this machine: `minigan web runs`.

The server listens on 127.0.0.1 alone, answers only requests whose Host header names this machine, and only
reads. It gives the list of the runs in one folder, their pages and pictures, and nothing else: the name of a run
is one of those that were found, and a link that leads out of the folder is not followed. Pages of runs
may come from other people, so they run in a sandbox, in which they can read nothing from this server.
"""

import functools
import socket
import time
from pathlib import Path
from typing import Any

from minigan.errors import UserError
from minigan.report.page import lists, pictures
from minigan.report.page.html import policy
from minigan.runs import listing
from minigan.runs.listing import Entry
from minigan.runs.page import NAME

HOSTS = ["127.0.0.1", "localhost"]
SIDE = 480  # pixels of a small picture in the list


def serve(folder: Path, port: int) -> None:
    """Serve the runs in a folder until Ctrl-C. Raises UserError if this is not possible."""
    expect_folder(folder)
    application = app(folder)
    import uvicorn

    place = socket.socket()
    with place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"cannot listen on port {port} ({error}): choose another with --port, or 0 for any free one"
            ) from None
        print(f"the runs in {folder}: http://127.0.0.1:{place.getsockname()[1]}/ (Ctrl-C ends)", flush=True)
        server = uvicorn.Server(uvicorn.Config(application, log_level="warning", lifespan="off", server_header=False))
        try:
            server.run(sockets=[place])
        except KeyboardInterrupt:
            return


def expect_folder(folder: Path) -> None:
    """Raise UserError unless this is a folder that may contain runs."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder that contains runs, such as runs")
    if (folder / "config.json").exists():
        raise UserError(f"{folder} is a run: give the folder above it, {folder.resolve().parent}")


def app(folder: Path) -> Any:
    """Return the application (ASGI) that serves the runs in a folder.

    Raises UserError if starlette or uvicorn is not installed.
    """
    try:
        import uvicorn  # noqa: F401  # said here, before anything starts
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.requests import Request
        from starlette.responses import Response
        from starlette.routing import Route
    except ImportError as error:
        raise UserError(
            f"minigan web needs starlette and uvicorn ({error}): install them with pip install 'minigan[web]'"
        ) from None
    root = folder.resolve()

    def answer(content: bytes, kind: str = "text/html; charset=utf-8", status: int = 200, rules: str = "") -> Response:
        headers = {
            "Content-Security-Policy": rules or f"{policy(lists.LIVE)}; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }
        return Response(content, status_code=status, media_type=kind, headers=headers)

    def missing(what: str) -> Response:
        return answer(lists.problem("Not found", f"There is no {what}."), status=404)

    def index(request: Request) -> Response:
        chosen = {name: request.query_params.get(name, "") for name in ("q", "kind", "state")}
        everything = listing.find(root)
        return answer(lists.list_page(filtered(everything, chosen), everything, chosen, time.time()))

    def page(request: Request) -> Response:
        entry = listing.named(root, request.path_params["name"])
        content = None if entry is None else listing.content(root, entry.path / NAME)
        if content is None:
            return missing("page of this run")
        return answer(content, rules="sandbox allow-scripts; frame-ancestors 'none'")

    def picture(request: Request) -> Response:
        entry = listing.named(root, request.path_params["name"])
        if entry is None or entry.picture is None or not listing.inside(root, entry.picture):
            return missing("picture of this run")
        found = small(entry.picture, entry.picture.stat().st_mtime_ns)
        if found is None:
            return missing("picture of this run that can be read")
        return answer(found[0], f"image/{found[1]}")

    def compare(request: Request) -> Response:
        names = request.query_params.getlist("run")
        found = [entry for name in names[:2] if (entry := listing.named(root, name)) is not None]
        if len(names) != 2 or len(found) != 2:
            return answer(lists.problem("Choose two runs", "Two runs of the list can be compared."), status=400)
        histories = [listing.history(root, entry.path) for entry in found]
        return answer(lists.comparison(names, histories))

    routes = [
        Route("/", index),
        Route("/compare", compare),
        Route("/page/{name:path}/report.html", page),
        Route("/thumbnail/{name:path}/picture", picture),
    ]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)])


def filtered(entries: list[Entry], chosen: dict[str, str]) -> list[Entry]:
    """Return the runs that fit: `q` is part of the name, the preset or the data, and kind and state are these."""
    words = chosen.get("q", "").casefold().split()
    return [
        entry
        for entry in entries
        if all(word in f"{entry.name} {entry.preset} {entry.data}".casefold() for word in words)
        and chosen.get("kind", "") in ("", entry.kind)
        and chosen.get("state", "") in ("", entry.state)
    ]


@functools.lru_cache(maxsize=256)
def small(path: Path, changed: int) -> pictures.Picture | None:
    """Return a picture on disk, at most SIDE pixels wide, or None. `changed` tells versions of the file apart."""
    return pictures.of_file(path, most=SIDE)
