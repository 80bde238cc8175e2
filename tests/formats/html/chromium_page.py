"""Chromium through playwright, for the tests of the page."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = (
    "--no-sandbox",  # a test may run as root, where Chromium's sandbox does not
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


class Tab:
    """A page in a context of its own, with the network off; it records what must not happen."""

    def __init__(self, context: Any, path: Path) -> None:
        self.page = context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def ready(self) -> "Tab":
        """Wait until the model is loaded."""
        self.page.wait_for_selector("html[data-ready]", timeout=60_000)
        return self

    def wait(self, expression: str) -> None:
        """Wait until an expression is true. playwright's own function needs `eval` in the page, which its policy forbids."""
        end = time.monotonic() + 60
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"it never became true: {expression}"
            self.page.wait_for_timeout(20)

    def answered(self, count: int = 1) -> str:
        """Wait for the end of answer number `count` and return its text."""
        self.wait(f"document.querySelectorAll('.message.assistant .copy').length >= {count} && document.querySelector('#stop').hidden")
        return str(self.page.locator(".message.assistant .text").nth(count - 1).text_content())
