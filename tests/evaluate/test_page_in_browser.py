"""Opens report.html in a headless browser: it makes no request, fits on a phone, and shows both verdicts on the first screen."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bulletlm.config.schema import Config
from bulletlm.evaluate import evaluate_run
from bulletlm.progress import SilentProgress

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def pages(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of a micro run in both languages."""
    found = {}
    for language in ("en", "mr"):
        folder = Path(shutil.copytree(run_folder, tmp_path_factory.mktemp("page") / "run"))
        settings = {"name": "micro", "sampling": {"max_tokens": 8}, "report": {"lang": language}}
        evaluate_run(folder, Config.model_validate(settings), SilentProgress())
        found[language] = folder / "report.html"
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        opened = started.chromium.launch(executable_path=CHROMIUM, args=[*options, "--no-first-run"])
        yield opened
        opened.close()


@pytest.mark.parametrize("language", ["en", "mr"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_page(pages: dict[str, Path], browser: Any, size: dict[str, int], scheme: str, language: str) -> None:
    context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
    page = context.new_page()
    requests: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.goto(pages[language].as_uri())
    assert requests == [pages[language].as_uri()] and not problems
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert page.evaluate("document.documentElement.lang") == language
    titles = page.locator(".strip b" if size is PHONE else ".verdict .title")
    assert titles.count() == 2
    for n in range(2):
        box = titles.nth(n).bounding_box()
        assert box and box["y"] + box["height"] <= size["height"]
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 300) == (scheme == "dark")
    context.close()


def test_print(pages: dict[str, Path], browser: Any) -> None:
    page = browser.new_page()
    page.goto(pages["en"].as_uri())
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert len(page.pdf()) > 10_000
    page.close()
