"""The ways to begin a new run in a real browser: dropped files, settings that are chosen, a model to start from."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from running_dashboard import RunningDashboard

from bulletlm.dashboard.runs import summarize
from bulletlm.formats.bullet.reader import open_bullet
from micro_model import MICRO

A_RUN = 300_000
"""Milliseconds within which a micro model is made, also on a computer that is busy with other tests."""

DROP = """files => {
    const data = new DataTransfer();
    for (const [name, text] of files) data.items.add(new File([text], name));
    return data;
}"""


def drop_files(page: Any, files: list[Path]) -> None:
    """Drop files on the field for uploads, as a browser does when the user drags them there from a folder."""
    data = page.evaluate_handle(DROP, [[path.name, path.read_text(encoding="utf-8")] for path in files])
    page.dispatch_event(".q-uploader", "dragover", {"dataTransfer": data})
    page.locator(".q-uploader__dnd").wait_for()
    page.dispatch_event(".q-uploader__dnd", "drop", {"dataTransfer": data})


def wait_for_settings(page: Any, text: str) -> None:
    """Wait until the configuration on the page contains `text`."""
    page.wait_for_function("text => [...document.querySelectorAll('textarea')].some(box => box.value.includes(text))", arg=text)


def choose(page: Any, label: str, option: str) -> None:
    """Choose an option of a list."""
    page.get_by_role("combobox", name=label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def test_several_files_are_dropped_and_settings_chosen_for_them(dashboard: RunningDashboard, browser_page: Any, texts: Path) -> None:
    page, files = browser_page, [texts / "stories.en.txt", texts / "stories.mr.txt"]
    page.goto(dashboard.address + "/new")
    page.get_by_role("button", name="Choose the settings for me", exact=True).click()
    page.get_by_text("Choose the text first.").wait_for()

    drop_files(page, files)
    for file in files:
        page.get_by_text(f"uploads/{file.name}", exact=True).wait_for()
        assert (dashboard.folder / "uploads" / file.name).read_bytes() == file.read_bytes()
    drop_files(page, files[:1])  # another file of the same name replaces nothing
    page.get_by_text("uploads/stories-2.en.txt", exact=True).wait_for()

    # The preview uses the rules of the form.
    documents = "[...document.querySelectorAll('.tile')].find(tile => tile.innerText.startsWith('Documents'))?.innerText"
    page.wait_for_function(documents)
    before = page.evaluate(documents)
    page.get_by_label("Extra args").fill('--data.clean.languages=["mr"]')
    page.wait_for_function(f"before => {{ const now = {documents}; return now && now != before }}", arg=before)
    page.get_by_label("Extra args").fill("")
    page.get_by_label("Configuration: paste JSON").fill("{}")  # the files stay

    choose(page, "Time for the run", "15 minutes")
    page.get_by_role("button", name="Choose the settings for me", exact=True).click()
    # The text is in the languages of the packaged model, so the run starts from it.
    for chosen in ('"start_from": "marathi-english"', '"total_steps"'):
        wait_for_settings(page, chosen)
    page.reload()
    wait_for_settings(page, '"start_from": "marathi-english"')
    page.get_by_text("uploads/stories.mr.txt", exact=True).wait_for()


def test_a_run_starts_from_a_model_and_both_answer(dashboard: RunningDashboard, browser_page: Any, micro_run: Path, texts: Path) -> None:
    page = browser_page
    shutil.copytree(micro_run, dashboard.folder / "runs" / "before")
    shutil.copy(texts / "stories.en.txt", dashboard.folder / "new.txt")
    settings = {name: MICRO[name] for name in ("dim", "vocab_size", "lr", "batch", "grad_accum", "threads", "precision")}
    settings |= {"name": "after", "total_steps": 20, "eval_every": 10, "warmup": 2, "calibration": "none", "qat": {"steps": 0}}
    page.goto(dashboard.address + "/new")
    page.get_by_label("Configuration: paste JSON").fill(json.dumps({**settings, "data": {"sources": ["new.txt"], "val_tokens": 600}}))
    page.get_by_text("new.txt", exact=True).wait_for()

    # The model decides the shape and the vocabulary.
    choose(page, "Start from", "before")
    page.get_by_text(re.compile("these settings were taken out: .*model.dim")).wait_for()
    wait_for_settings(page, '"start_from": ' + json.dumps(str(dashboard.folder / "runs" / "before")))
    page.reload()
    page.get_by_role("combobox", name="Start from").wait_for()
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/run/after")
    page.get_by_text("finished", exact=True).wait_for(timeout=A_RUN)
    run = dashboard.folder / "runs" / "after"
    assert open_bullet(run / "model.bullet").shape == open_bullet(micro_run / "model.bullet").shape
    assert summarize(run).step == 20

    # Before and after, side by side on the same prompt and seed.
    page.get_by_role("button", name="Before and after").click()
    page.wait_for_url("**/playground?*")
    for name in ("after/start", "after/4bit"):
        page.get_by_role("heading", name=name, exact=True).wait_for()
    page.get_by_label("Your message").fill("Hello")
    page.keyboard.press("Enter")
    page.get_by_text(re.compile(r"\d+ tokens, [\d,]+ tokens/s")).nth(1).wait_for()


def test_the_expected_loss_is_shown_as_a_rough_figure(dashboard: RunningDashboard, browser_page: Any) -> None:
    page = browser_page
    page.goto(dashboard.address + "/new")
    note = "text of another kind has other figures"
    assert not page.get_by_text(note).count(), "without a figure"
    page.get_by_label("Extra args").fill("--total-steps=1000")
    page.get_by_text(note).wait_for()
    tile = page.locator(".tile", has_text="Expected loss")
    assert re.search(r"≈ \d\.\d\d bits/byte", " ".join(tile.inner_text().split()))
