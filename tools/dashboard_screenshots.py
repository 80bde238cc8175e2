"""Writes the pictures of docs/dashboard.md: python tools/dashboard_screenshots.py WORKSPACE RUN OTHER_RUN [PAGE...]

The workspace has two finished runs; its path is shown as ~/models. Without pages, such as run or compare, all are written. The pictures
are made in headless Chromium; look at them before you commit them.
"""

import sys
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "dashboard"))
from running_dashboard import CHROMIUM, CHROMIUM_OPTIONS, RunningDashboard

ROOT = Path(__file__).parents[1]

IMAGES = ROOT / "docs" / "images" / "dashboard"

DESKTOP, PHONE = (1280, 860), (390, 844)

COLOURS = 128
"""Colours of a picture; text and curves need no more, and the files stay small."""

LONGEST = 2600
"""Height of a picture at most, in pixels."""


def chat(page: Page) -> None:
    """Ask both models something."""
    for number, text in enumerate(("नमस्कार! दिवस कसा गेला?", "What makes a good friend?"), 1):
        page.get_by_label("Your message").fill(text)
        page.keyboard.press("Enter")
        page.get_by_text("tokens/s").nth(2 * number - 1).wait_for()


def settle(page: Page) -> None:
    """Wait for curves and for the look at the text."""
    page.wait_for_timeout(4_000)


HIDE_PATH = """folder => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(folder, '~/models');
}"""


def main(folder: Path, run: str, other: str, wanted: list[str]) -> None:
    """Write the pictures of the wanted pages; of all pages if none is named."""
    name, second = quote(run), quote(other)
    pages = {
        "runs": ("/", settle),
        "new": ("/new", lambda page: (page.get_by_text("Document length").first.wait_for(timeout=120_000), settle(page))),
        "run": (f"/run/{name}", settle),
        "compare": (f"/compare?run={name}&run={second}", settle),
        "export": (f"/export/{name}", settle),
        "playground": (f"/playground?model={name}/4bit&second={name}/fp32", chat),
        "score": (f"/score?run={name}&rater=asha", settle),
    }
    IMAGES.mkdir(parents=True, exist_ok=True)
    dashboard = RunningDashboard(folder)
    dashboard.start()
    try:
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
            for size, dark, language in ((DESKTOP, False, "en"), (DESKTOP, True, "en"), (PHONE, False, "en"), (PHONE, True, "mr")):
                context = browser.new_context(
                    viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light", locale=language
                )
                page = context.new_page()
                page.set_default_timeout(60_000)
                for file, (path, act) in pages.items():
                    if wanted and file not in wanted:
                        continue
                    page.goto(dashboard.address + path)
                    page.wait_for_selector("h1")
                    if language == "en":
                        act(page)
                    else:
                        settle(page)
                    page.evaluate(HIDE_PATH, str(folder.resolve()))
                    target = IMAGES / f"{file}-{'phone' if size == PHONE else 'desktop'}-{'dark' if dark else 'light'}.png"
                    save(page.screenshot(full_page=True), target)
                    print(target.relative_to(ROOT), target.stat().st_size)
                context.close()
            browser.close()
    finally:
        dashboard.kill()


def save(content: bytes, target: Path) -> None:
    """Write a picture with few colours, cut to LONGEST."""
    picture = Image.open(BytesIO(content)).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, LONGEST)))
    picture.quantize(COLOURS).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
