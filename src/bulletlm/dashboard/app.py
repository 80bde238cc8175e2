"""Implements `bullet dashboard`: builds the application, opens the port, and stops cleanly."""

import os
import threading
import webbrowser
from importlib import resources
from typing import Any

from bulletlm.dashboard.options import DashboardOptions
from bulletlm.errors import BulletError
from bulletlm.extras import install_command
from bulletlm.terminal import echo

try:
    os.environ.setdefault("NICEGUI_STORAGE_PATH", os.devnull)  # the dashboard keeps its own state; nothing is written elsewhere
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import FileResponse, Response
    from nicegui import ui
    from starlette.requests import ClientDisconnect

    FONT = next(path for path in (resources.files("fontpkg_noto_sans_devanagari") / "files").iterdir() if path.name.endswith(".ttf"))
    """Noto Sans Devanagari, all weights in one file."""
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] not in ("fastapi", "starlette", "uvicorn", "nicegui", "fontpkg_noto_sans_devanagari"):
        raise
    raise BulletError(f"the dashboard needs {error.name}, which is not installed: {install_command('dashboard')}") from None

from bulletlm.dashboard.frame import Dashboard
from bulletlm.dashboard.guard import Guard, local_names
from bulletlm.dashboard.models import ModelCache
from bulletlm.dashboard.pages import compare as compare_page
from bulletlm.dashboard.pages import export as export_page
from bulletlm.dashboard.pages import new_run as new_run_page
from bulletlm.dashboard.pages import playground as playground_page
from bulletlm.dashboard.pages import run as run_page
from bulletlm.dashboard.pages import runs as runs_page
from bulletlm.dashboard.pages import score as score_page
from bulletlm.dashboard.processes import own_folder
from bulletlm.dashboard.runs import Runs
from bulletlm.dashboard.uploads import receive
from bulletlm.dashboard.workspace import is_name

UPLOAD_PATH = "/upload"

REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; frame-ancestors 'self'"
"""Content-Security-Policy of files of a run: they may show text and pictures, and do nothing."""

FILES = {
    "report.html": ("report.html", "text/html; charset=utf-8"),
    "report.json": ("report.json", "application/json"),
    "config.json": ("config.json", "application/json"),
    "metrics.jsonl": ("metrics.jsonl", "application/x-ndjson"),
    "clean-report.json": ("data/clean-report.json", "application/json"),
    "tokenizer-report.json": ("tokenizer/report.json", "application/json"),
    "model.bullet": ("model.bullet", "application/octet-stream"),
}
"""Files of a run folder that are served: name in the address -> path in the run folder, type."""

SHUTDOWN_SECONDS = 2

FONT_SECONDS = 30 * 86_400
"""Seconds for which a browser keeps the font."""


def create_app(options: DashboardOptions) -> Guard:
    """The whole application. NiceGUI has one application for a process, so this is called once."""
    dashboard = Dashboard(options, Runs(options.workspace))
    web = FastAPI(title="BulletLM", docs_url=None, redoc_url=None, openapi_url=None)
    _add_pages(dashboard)
    _add_files(web, dashboard)
    ui.run_with(web, title="BulletLM", dark=None, tailwind=False, reconnect_timeout=10.0, show_welcome_message=False, favicon="🎯")
    loopback_names = local_names(options.host) if options.token is None else ()
    return Guard(web, token=options.token, hosts=loopback_names, upload_path=UPLOAD_PATH)


def _add_pages(dashboard: Dashboard) -> None:
    """Register the pages."""
    models = ModelCache()

    @ui.page("/")
    def runs(request: Request) -> None:
        runs_page.build(dashboard, request)

    @ui.page("/run/{name}")
    def run(request: Request, name: str) -> None:
        run_page.build(dashboard, request, name)

    @ui.page("/new")
    def new(request: Request) -> None:
        new_run_page.build(dashboard, request)

    @ui.page("/compare")
    def compare(request: Request) -> None:
        compare_page.build(dashboard, request)

    @ui.page("/export/{name}")
    def export(request: Request, name: str) -> None:
        export_page.build(dashboard, request, name)

    @ui.page("/playground")
    def playground(request: Request) -> None:
        playground_page.build(dashboard, request, models)

    @ui.page("/score")
    def score(request: Request) -> None:
        score_page.build(dashboard, request)


def _add_files(web: FastAPI, dashboard: Dashboard) -> None:
    """Register the routes that receive and send files."""

    @web.get("/fonts/devanagari.ttf")
    def font() -> Response:
        headers = {"Cache-Control": f"private, max-age={FONT_SECONDS}"}
        return Response(FONT.read_bytes(), media_type="font/ttf", headers=headers)

    @web.get("/downloads/{name}/{file}")
    def download(name: str, file: str) -> Response:
        try:
            folder = own_folder(dashboard.workspace.run_folder(name)) / "downloads"
        except BulletError as error:
            return Response(str(error), 404, media_type="text/plain")
        path = folder / file
        if not is_name(file) or not path.is_file():
            return Response("There is no such file.", 404, media_type="text/plain")
        return FileResponse(path, media_type="application/octet-stream", filename=file, headers={"Cache-Control": "no-cache"})

    @web.post(UPLOAD_PATH)
    async def upload(request: Request, name: str) -> Response:
        length = request.headers.get("content-length", "")
        try:
            path = await receive(dashboard.workspace, name, request.stream(), int(length) if length.isdigit() else None)
        except ClientDisconnect:
            return Response(status_code=400)  # the browser has gone; what had arrived is deleted
        except BulletError as error:
            return Response(str(error), 400, media_type="text/plain")
        return Response(path.name, media_type="text/plain")

    @web.get("/files/{name}/{file}")
    def file_of_run(name: str, file: str) -> Response:
        stored, kind = FILES.get(file, ("", ""))
        try:
            path = dashboard.workspace.run_folder(name) / stored
        except BulletError as error:
            return Response(str(error), 404, media_type="text/plain")
        if not path.is_file():
            return Response("There is no such file.", 404, media_type="text/plain")
        headers = {"Content-Security-Policy": REPORT_POLICY, "Cache-Control": "no-cache"}
        inline = file == "report.html"
        name_for_user = None if inline else f"{name}-{file}" if file != "model.bullet" else f"{name}.bullet"
        return FileResponse(path, media_type=kind, filename=name_for_user, headers=headers)


def serve(options: DashboardOptions) -> None:
    """Serve the dashboard until Ctrl-C or SIGTERM. Runs that it started go on.

    Raises:
        BulletError: the port cannot be opened.
    """
    options.workspace.runs.mkdir(parents=True, exist_ok=True)
    config = uvicorn.Config(
        create_app(options),
        host=options.host,
        port=options.port,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="wsproto",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    _Server(config, options).run()


class _Server(uvicorn.Server):
    """uvicorn's server that says where the dashboard is once it answers."""

    def __init__(self, config: uvicorn.Config, options: DashboardOptions) -> None:
        super().__init__(config)
        self._options = options

    async def startup(self, sockets: Any = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:
            raise BulletError(
                f"cannot listen at {self._options.host}:{self._options.port}: choose another --port, or stop the program that uses it"
            ) from None
        if not self.started:
            return
        port = self.servers[0].sockets[0].getsockname()[1]
        shown = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        address = f"http://{shown}:{port}/"
        echo(f"dashboard at {address}  (Ctrl-C stops it; runs go on)", flush=True)
        if self._options.open_browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
