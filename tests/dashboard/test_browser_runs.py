"""What can be done with finished runs in a real browser: compare, duplicate, queue, delete, repair, export, try."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from running_dashboard import RunningDashboard

from bulletlm.dashboard.processes import own_folder
from bulletlm.files import write_json

A_RUN = 300_000

X_AXIS = "getElement(Number(document.querySelector('.chart').id.slice(1))).chart.getOption().xAxis[0].name"
"""The name of the horizontal axis of the first chart of the page."""


@pytest.fixture
def two_runs(dashboard: RunningDashboard, micro_run: Path) -> Path:
    """The folder of runs with two copies of the finished micro run, which differ in a setting."""
    runs = dashboard.folder / "runs"
    for name in ("micro", "other"):
        shutil.copytree(micro_run, runs / name)
    config = json.loads((runs / "other" / "config.json").read_text(encoding="utf-8"))
    config["train"]["learning_rate"] = 0.0123
    write_json(runs / "other" / "config.json", config)
    return runs


@pytest.fixture
def busy(two_runs: Path) -> Iterator[Path]:
    """The run "other", on which a process seems to work."""
    run = two_runs / "other"
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    write_json(run / "process.json", {"pid": process.pid, "started": psutil.Process(process.pid).create_time()})
    yield run
    for waiting in two_runs.glob("*/dashboard/queued.json"):
        waiting.unlink()
    process.kill()
    process.wait()


def select(page: Any, name: str) -> None:
    """Select a run in the list."""
    page.get_by_role("row", name=re.compile(rf"\b{name}\b")).get_by_role("checkbox").click()


def test_runs_are_compared(dashboard: RunningDashboard, browser_page: Any, two_runs: Path) -> None:
    page = browser_page
    page.goto(dashboard.address)
    compare = page.get_by_role("button", name="Compare")
    select(page, "micro")
    assert compare.is_disabled()

    # The list has the verdicts, and explains them.
    report = json.loads((two_runs / "micro" / "report.json").read_text(encoding="utf-8"))
    words = {"safe": "safe to ship", "limited": "ship with a limit", "stop": "do not ship"}
    page.get_by_text("4-bit: " + words[report["verdicts"]["quantization"]["decision"]]).first.wait_for()
    page.get_by_role("button", name="What is this? Verdict").click()
    page.get_by_text("is the model any good?").wait_for()
    page.keyboard.press("Escape")

    select(page, "other")
    compare.click()
    page.wait_for_url("**/compare?*")
    for axis, name in (("Tokens", "training tokens"), ("Minutes", "minutes of training"), ("Steps", "step")):
        page.get_by_role("button", name=axis, exact=True).click()
        page.wait_for_function(f"{X_AXIS} == {json.dumps(name)}")
    difference = page.get_by_role("row", name=re.compile("train.learning_rate"))
    assert "0.0123" in difference.inner_text()
    assert page.get_by_role("row", name=re.compile("train.total_steps")).count() == 0, "only settings that differ"
    difference.get_by_role("button").click()
    page.get_by_text("Peak learning rate").wait_for()
    row = report["generations"]["rows"][0]
    page.get_by_role("heading", name="Answers to the same prompts").wait_for()
    assert page.get_by_text(row["prompt"], exact=True).count() == 1
    assert page.get_by_role("link", name="other", exact=True).count() == page.get_by_role("link", name="micro", exact=True).count() > 0


CELLS = "[...document.querySelectorAll('tbody tr')].map(row => [...row.querySelectorAll('td')].map(cell => cell.innerText.trim()))"
"""The texts of the table, row by row."""


def test_runs_without_a_value_come_last_however_the_list_is_sorted(dashboard: RunningDashboard, browser_page: Any, two_runs: Path) -> None:
    page = browser_page
    report = json.loads((two_runs / "other" / "report.json").read_text(encoding="utf-8"))
    for verdict in report["verdicts"].values():
        verdict["decision"] = "stop"
    write_json(two_runs / "other" / "report.json", report)
    (two_runs / "untrained" / "dashboard").mkdir(parents=True)
    write_json(two_runs / "untrained" / "dashboard" / "configuration.json", {"model": {"dim": 99}})  # not even a shape
    (two_runs / "young").mkdir()
    shutil.copy(two_runs / "micro" / "config.json", two_runs / "young" / "config.json")
    page.goto(dashboard.address)
    page.get_by_role("link", name="untrained").wait_for()
    heads = page.get_by_role("columnheader")
    for number in range(1, heads.count()):
        orders = []
        for direction in ("ascending", "descending"):
            heads.nth(number).focus()
            page.keyboard.press("Enter")
            page.wait_for_function(f"document.querySelectorAll('th')[{number}].ariaSort == '{direction}'")
            column = [row[number] for row in page.evaluate(CELLS)]
            assert len(column) == 4
            values = [text for text in column if text not in ("", "–")]
            assert column[: len(values)] == values, (heads.nth(number).inner_text(), direction, column)
            orders.append(values)
        assert orders[0] == orders[1][::-1] or len(set(orders[0])) < len(orders[0]), (heads.nth(number).inner_text(), orders)


def test_runs_are_duplicated_queued_and_deleted(dashboard: RunningDashboard, browser_page: Any, two_runs: Path, busy: Path) -> None:
    page = browser_page
    page.goto(dashboard.address)
    select(page, "micro")
    page.get_by_role("button", name="Duplicate with changes").click()
    page.wait_for_url("**/new?from=micro")
    page.wait_for_function("document.querySelector('[aria-label=\"model.dim\"]')?.value == '64'")
    name = page.get_by_label("name", exact=True).first.input_value()
    assert name.startswith("micro") and name != "micro"

    page.goto(dashboard.address)
    page.get_by_text("running", exact=True).wait_for()
    select(page, "micro")
    page.get_by_role("button", name="Add to the queue").click()
    page.get_by_text("waiting", exact=True).wait_for()
    page.get_by_role("link", name="micro", exact=True).click()
    page.get_by_role("button", name="Remove from the queue").click()
    page.get_by_text("finished", exact=True).wait_for()
    assert not (own_folder(two_runs / "micro") / "queued.json").exists()

    page.goto(dashboard.address)
    select(page, "other")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_text("other is running: stop it before you delete it").wait_for()
    assert busy.is_dir()
    page.goto(dashboard.address)
    select(page, "micro")
    page.get_by_role("button", name="Delete").click()
    page.get_by_text("They are moved to the folder").wait_for()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_role("link", name="micro", exact=True).wait_for(state="detached")
    assert not (two_runs / "micro").exists()
    (trashed,) = (dashboard.folder / ".bullet-dashboard" / "trash").iterdir()
    assert trashed.name.startswith("micro") and (trashed / "model.bullet").is_file()


def test_a_model_is_tried_exported_and_repaired(dashboard: RunningDashboard, browser_page: Any, two_runs: Path) -> None:
    page, run = browser_page, two_runs / "micro"

    # Two models answer; the probability of each token is there, and the conversation becomes training data.
    page.goto(dashboard.address + "/playground?model=micro/4bit&second=micro/fp32")
    page.get_by_role("button", name="How tokens are chosen").click()
    page.get_by_role("spinbutton", name="Temperature").fill("3")  # a micro model says little
    for number, text in enumerate(("Hello", "नमस्कार", "Tell me about the river."), 1):
        page.get_by_label("Your message").fill(text)
        page.keyboard.press("Enter")
        page.get_by_text(re.compile(r"\d+ tokens, [\d,]+ tokens/s")).nth(2 * number - 1).wait_for()
    tokens = page.locator("span.token")
    assert tokens.count() > 0
    tokens.first.hover()
    assert re.match(r"\d+\.\d% +\('.*' \d+%", tokens.first.get_attribute("title"))
    saved = dashboard.folder / "uploads" / "playground.jsonl"
    page.get_by_role("button", name="Save as training data").first.click()
    page.get_by_text("Saved in uploads/playground.jsonl.").wait_for()
    page.get_by_role("button", name="Save as training data").nth(1).click()
    page.locator(".q-notification__badge", has_text="2").wait_for()  # the same notice a second time
    for line in saved.read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * 3 and messages[2]["content"] == "नमस्कार"
    assert len(saved.read_text(encoding="utf-8").splitlines()) == 2

    # A file is made from any checkpoint; a remedy of the report card starts what it says.
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    remedy = {
        "name": "checkpoints",
        "text": "compare the kept checkpoints",
        "command": "bullet evaluate RUN --checkpoints",
        "cost": "seconds",
    }
    report["verdicts"]["usefulness"]["remedies"] = [remedy]
    (run / "report.json").write_text(json.dumps(report), encoding="utf-8")
    page.goto(dashboard.address + "/export/micro")
    for label, option in (("Model", "Checkpoint step-000050"), ("Format", "Model card (.md)")):
        page.get_by_role("combobox", name=label, exact=True).click()
        page.get_by_role("option", name=option, exact=True).click()
    page.get_by_role("button", name="Make the file and check it").click()
    page.get_by_role("link", name=re.compile(r"micro-step-000050-card\.md")).wait_for(timeout=A_RUN)
    page.get_by_role("button", name="Do this").click()
    page.wait_for_url("**/run/micro")
    page.get_by_text(re.compile("step-000050")).first.wait_for(timeout=A_RUN)
    page.get_by_text("finished", exact=True).wait_for(timeout=A_RUN)


def test_components_speak_the_language_of_the_page(dashboard: RunningDashboard, browser_page: Any, two_runs: Path) -> None:
    page = browser_page
    page.context.add_cookies([{"name": "language", "value": "mr", "url": dashboard.address}])
    page.goto(dashboard.address)
    page.get_by_text("2 पैकी 1 ते 2", exact=True).wait_for()
    page.get_by_role("checkbox").nth(1).click()
    page.get_by_text("1 निवडले", exact=True).wait_for()
    page.get_by_label("नावाने शोधा").fill("nothing has this name")
    page.get_by_text("एकही प्रशिक्षण जुळत नाही.").wait_for()
    assert "संपर्क तुटला." in page.locator("#popup").text_content()
    labels = page.evaluate("[...document.querySelectorAll('[aria-label]')].map(element => element.ariaLabel)")
    assert len(labels) > 10 and not [label for label in labels if re.match(r"[A-Z][a-z]+ [a-z]", label)]
