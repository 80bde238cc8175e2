"""A dashboard and a browser for its tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_dashboard import CHROMIUM, CHROMIUM_OPTIONS, RunningDashboard

from bulletlm.dashboard import processes


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[RunningDashboard]:
    running = RunningDashboard(tmp_path)
    running.start()
    yield running
    running.kill()
    for run in (tmp_path / "runs").iterdir():
        if (pid := processes.find(run)) is not None:
            os.killpg(os.getpgid(pid), signal.SIGKILL)


@pytest.fixture
def browser_page(dashboard: RunningDashboard) -> Iterator[Any]:
    """A page in headless Chromium. The test fails if it asks another host, or if a script fails."""
    if CHROMIUM is None:
        pytest.skip("Debian's chromium is not installed: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    problems: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
        own = (dashboard.address, dashboard.address.replace("http", "ws"), "data:", "blob:")

        def watch(page: Any) -> None:
            page.set_default_timeout(60_000)
            page.on("request", lambda request: request.url.startswith(own) or problems.append(f"asks {request.url}"))
            page.on("pageerror", lambda error: problems.append(str(error)))

        context.on("page", watch)
        yield context.new_page()
        browser.close()
    assert problems == []
