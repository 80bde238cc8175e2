"""The way of a user through the dashboard, in a real browser."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from running_dashboard import RunningDashboard
from test_forms import BRIEF_FLAGS, BRIEF_JSON

from bulletlm.dashboard import processes
from bulletlm.dashboard.runs import summarize
from bulletlm.evaluate.scoring import SCORE_FILE, ScoreStore
from bulletlm.formats.bullet.reader import open_bullet
from micro_model import MICRO

SETTINGS = {name: value for name, value in MICRO.items() if name not in ("data", "total_steps", "save_every")} | {"calibration": "none"}

A_RUN = 300_000
"""Milliseconds within which a micro model is made, also on a computer that is busy with other tests."""


def write_different_answers(run: Path) -> None:
    """Five answers in which the two models differ, whatever the micro model says."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    row = report["generations"]["rows"][0]
    rows = [
        {**row, "prompt": f"prompt {n}", "fp32": {**row["fp32"], "text": f"a {n}"}, "bq4": {**row["bq4"], "text": f"b {n}"}}
        for n in range(5)
    ]
    report["generations"]["rows"] = rows
    (run / "report.json").write_text(json.dumps(report), encoding="utf-8")


def test_from_a_pasted_configuration_to_a_model(dashboard: RunningDashboard, browser_page: Any, texts: Path) -> None:
    page = browser_page
    page.goto(dashboard.address + "/new")
    configuration, flags = page.get_by_label("Configuration: paste JSON"), page.get_by_label("Extra args")

    # The configuration of a guide can be pasted unchanged; the form follows.
    configuration.fill(BRIEF_JSON)
    flags.fill(BRIEF_FLAGS)
    page.get_by_label("train.ema_decay").first.wait_for()
    page.wait_for_function("document.querySelector('[aria-label=\"model.n_layers\"]').value == '8'")
    page.wait_for_function("[...document.querySelectorAll('textarea')].some(box => box.value.includes('\"total_steps\": 120000'))")

    # The flags have been read as well: only they name ema_decay.
    page.wait_for_function("[...document.querySelectorAll('textarea')].some(box => box.value.includes('\"ema_decay\": 0.999'))")

    # A mistake stands at its field.
    page.get_by_label("model.dim").first.fill("99")
    page.get_by_text("not divisible by 32").locator("visible=true").first.wait_for()
    page.get_by_text("The plan is computed when the settings have no mistake.").wait_for()

    (dashboard.folder / "prompts.jsonl").write_text('{"prompt": "Hello", "language": "en", "kind": "short"}\n', encoding="utf-8")

    # A small configuration, an uploaded file, and a start.
    flags.fill("")
    configuration.fill(
        json.dumps(
            {**SETTINGS, "name": "सुरुवात 1", "total_steps": 100_000, "save_every": 100_000, "eval_every": 20, "prompts": "prompts.jsonl"}
        )
    )
    page.wait_for_function("document.querySelector('[aria-label=\"name\"]').value == 'सुरुवात 1'")
    page.set_input_files("input[type=file]", [str(texts / "stories.en.txt"), str(texts / "stories.mr.txt")])
    page.get_by_text("uploads/stories.en.txt").wait_for()
    page.get_by_text("uploads/stories.mr.txt").wait_for()
    page.reload()
    page.get_by_text("uploads/stories.mr.txt").wait_for()
    assert page.get_by_label("name", exact=True).first.input_value() == "सुरुवात 1", "a reload loses nothing"
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/run/**")
    run = dashboard.folder / "runs" / "सुरुवात 1"

    # The curve moves, also after a reload and after the dashboard was killed.
    page.get_by_text(re.compile(r"step \d+ of 100,000")).wait_for()
    pid = processes.find(run)
    assert pid is not None
    dashboard.kill()
    assert processes.find(run) == pid
    dashboard.start()
    page.reload()
    page.get_by_text(re.compile(r"step \d\d+ of 100,000")).wait_for()
    page.wait_for_function("document.querySelectorAll('canvas').length >= 6")
    page.get_by_text("running", exact=True).wait_for()

    # Stop, resume, end with the best weights.
    page.get_by_role("button", name="Stop after this step").click()
    page.get_by_text("stopped", exact=True).wait_for()
    stopped_at = summarize(run).step
    page.get_by_role("button", name="Resume").click()
    page.get_by_text("running", exact=True).wait_for()
    page.get_by_role("button", name="Stop and keep the best").click()
    page.get_by_text("finished", exact=True).wait_for(timeout=A_RUN)
    assert stopped_at <= summarize(run).step < 100_000 and (run / "model.bullet").is_file()

    # Export, download, chat, score.
    page.get_by_role("button", name="Quantize and export").click()
    page.get_by_role("button", name="Make the file and check it").click()
    with page.expect_download(timeout=A_RUN) as download:
        page.get_by_role("link", name="सुरुवात 1.bullet").click(timeout=A_RUN)
    target = dashboard.folder / "downloaded.bullet"
    download.value.save_as(target)
    open_bullet(target).verify()
    page.goto(dashboard.address + "/playground?model=%E0%A4%B8%E0%A5%81%E0%A4%B0%E0%A5%81%E0%A4%B5%E0%A4%BE%E0%A4%A4%201/4bit")
    page.get_by_label("Your message").fill("नमस्कार <b>")
    page.keyboard.press("Enter")
    page.get_by_text(re.compile(r"\d+ tokens, [\d,]+ tokens/s")).wait_for()
    page.get_by_text("नमस्कार <b>", exact=True).wait_for()
    write_different_answers(run)
    page.goto(dashboard.address + "/score")
    page.get_by_label("Your name").fill("asha")
    page.get_by_text("0 of 5 scored").wait_for()
    page.get_by_role("heading", name="Answer B").wait_for()
    page.reload()  # which loses nothing
    for scored in range(5):
        page.get_by_text(f"{scored} of 5 scored").wait_for()
        page.get_by_role("heading", name="Answer B").click()
        for number in range(8):
            page.keyboard.press("34251"[number % 5])
            page.wait_for_function(f"document.querySelectorAll('[aria-pressed=true]').length == {number + 1}")
        page.keyboard.press("AB0"[scored % 3])
    page.get_by_text("All answers are scored").wait_for()
    assert len(ScoreStore(run / SCORE_FILE).read()) == 5

    # A second reader gives the same points; the page shows both and their agreement.
    for record in ScoreStore(run / SCORE_FILE).read():
        ScoreStore(run / SCORE_FILE).add({**record, "rater": "ravi"})
    page.reload()
    page.get_by_text("Readers: asha, ravi").wait_for()
    page.get_by_text("Agreement of the readers").wait_for()

    # The list has it, in both languages.
    page.goto(dashboard.address)
    page.get_by_role("link", name="सुरुवात 1").wait_for()
    page.get_by_role("button", name="मराठी").click()
    page.get_by_role("heading", name="प्रशिक्षणे").wait_for()


def test_a_run_that_fails_says_why_in_two_tabs_at_once(dashboard: RunningDashboard, browser_page: Any) -> None:
    page = browser_page
    (dashboard.folder / "tiny.txt").write_text("short\n", encoding="utf-8")
    page.goto(dashboard.address + "/new")
    other = page.context.new_page()
    other.goto(dashboard.address)
    page.get_by_label("Configuration: paste JSON").fill(json.dumps({**SETTINGS, "name": "broken", "data": {"sources": ["tiny.txt"]}}))
    page.get_by_text("tiny.txt", exact=True).wait_for()
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/run/broken")
    page.get_by_text("failed", exact=True).wait_for()
    message = summarize(dashboard.folder / "runs" / "broken").message
    assert message
    page.get_by_text(message).first.wait_for()
    other.get_by_text("failed", exact=True).wait_for()
    other.get_by_text(message[:60]).wait_for()


def test_names_and_texts_are_never_markup(dashboard: RunningDashboard, browser_page: Any) -> None:
    evil = "<img src=x onerror=document.title='owned'>{{ 7*7 }}"
    run = dashboard.folder / "runs" / evil.replace("/", "")
    (run / "dashboard").mkdir(parents=True)
    (run / "dashboard" / "configuration.json").write_text("{}", encoding="utf-8")
    (run / "dashboard" / "exit.json").write_text('{"code": 1, "time": 1}', encoding="utf-8")
    (run / "dashboard" / "output.log").write_text(f"bullet: {evil}\n", encoding="utf-8")
    sample = {"event": "sample", "step": 1, "prompt": evil, "answer": evil}
    (run / "metrics.jsonl").write_text(json.dumps(sample) + "\n", encoding="utf-8")
    page = browser_page
    page.goto(dashboard.address)
    page.get_by_role("link", name=evil).click()
    page.get_by_role("heading", name=evil).wait_for()
    page.get_by_text(evil).nth(2).wait_for()
    assert page.locator("img[src=x]").count() == 0 and page.title() != "owned"


UNNAMED = """[...document.querySelectorAll('button, a, textarea, input:not([type=file]),' +
    '[role=button], [role=checkbox], [role=switch], [role=slider]')].filter(element =>
    element.offsetParent && !(element.getAttribute('aria-label') || element.innerText.trim() || element.labels?.length || element.title
    || element.closest('label') || element.getAttribute('aria-labelledby'))).map(element => element.outerHTML.slice(0, 200))"""
"""Elements that can be operated and that a screen reader cannot name."""

UNEXPLAINED = """[...document.querySelectorAll('.tile, .card:has(.chart), .card:has(table), .runcard, th.text-right')].filter(element =>
    !element.querySelector('.help')).map(element => element.innerText.slice(0, 200))"""
"""Numbers without a "?" that explains them."""


SMALL = """[...document.querySelectorAll('button, [role=button], a.nav')].filter(element => element.offsetParent
    && Math.min(element.getBoundingClientRect().width, element.getBoundingClientRect().height) < 24)
    .map(element => element.outerHTML.slice(0, 200))"""
"""Buttons of less than 24 pixels, which a finger misses (WCAG 2.2, target size)."""


BROKEN_NUMBERS = r"""[...document.querySelectorAll('.tile .value')].flatMap(box => {
    const found = [], texts = document.createTreeWalker(box, NodeFilter.SHOW_TEXT), right = box.getBoundingClientRect().right;
    while (texts.nextNode())
        for (const number of texts.currentNode.data.matchAll(/\S+/g)) {
            const range = document.createRange();
            range.setStart(texts.currentNode, number.index);
            range.setEnd(texts.currentNode, number.index + number[0].length);
            const places = [...range.getClientRects()];
            if (new Set(places.map(place => place.top)).size > 1 || places.some(place => place.right > right + 1)) found.push(number[0]);
        }
    return found;
})"""
"""Numbers and units in the tiles that are broken over two lines, or have no room."""

SHOWN_SPEED = "[...document.querySelectorAll('.tile')].map(tile => tile.innerText).find(text => /tokens.s|टोकन.से/.test(text))"


def test_no_number_of_a_tile_is_broken(dashboard: RunningDashboard, browser_page: Any, micro_run: Path) -> None:
    run = dashboard.folder / "runs" / "fast"
    shutil.copytree(micro_run, run)
    speed = 1_234_567_890
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    events = [{**event, "tokens_per_s": speed} if "tokens_per_s" in event else event for event in events]
    (run / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    report["model"]["parameters"] = 123_456_789_012
    (run / "report.json").write_text(json.dumps(report), encoding="utf-8")
    page = browser_page
    for language, short in (("en", "1.23B"), ("mr", "1.23\u00a0अब्ज")):
        page.context.add_cookies([{"name": "language", "value": language, "url": dashboard.address}])
        page.goto(dashboard.address + "/run/fast")
        page.wait_for_function(SHOWN_SPEED)
        for width in (320, 390, 700, 1000, 1280, 1920):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate(BROKEN_NUMBERS) == [], (language, width)
            assert (f"{speed:,}" in page.evaluate(SHOWN_SPEED)) != (short in page.evaluate(SHOWN_SPEED)), (language, width)
        assert page.get_by_text(short, exact=True).get_attribute("title") == f"{speed:,}"


def test_pages_fit_a_phone_and_every_control_has_a_name(dashboard: RunningDashboard, browser_page: Any, micro_run: Path) -> None:
    for name in ("micro", "other"):
        shutil.copytree(micro_run, dashboard.folder / "runs" / name)
    page = browser_page
    page.set_viewport_size({"width": 360, "height": 780})
    for path in ("/", "/new", "/run/micro", "/compare?run=micro&run=other", "/export/micro", "/playground", "/score?rater=asha"):
        page.goto(dashboard.address + path)
        page.get_by_role("heading", level=1).wait_for()
        page.wait_for_timeout(500)  # curves and tables get their width after the page is there
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
        assert page.evaluate(UNNAMED) == [], path
        assert page.evaluate(UNEXPLAINED) == [], path
        assert page.evaluate(SMALL) == [], path
        assert page.evaluate("document.documentElement.lang") == "en"

    # The list is a table on a wide screen.
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(dashboard.address)
    page.get_by_role("columnheader", name="Verdict").wait_for()
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate(UNEXPLAINED) == []
    focused = "(element => [element.innerText, getComputedStyle(element).outlineStyle])(document.activeElement)"
    page.get_by_role("button", name="मराठी").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(focused) == ["मराठी", "solid"], "the focus of the keyboard is visible"


def test_devanagari_is_shown_in_the_font_of_the_package(dashboard: RunningDashboard, browser_page: Any) -> None:
    browser_page.goto(dashboard.address)
    browser_page.get_by_role("button", name="मराठी").wait_for()
    loaded = "document.fonts.ready.then(fonts => [...fonts].filter(font => font.status == 'loaded').map(font => font.family))"
    assert any("Dashboard Devanagari" in family for family in browser_page.evaluate(loaded))


def test_files_of_runs_are_served_and_no_others(dashboard: RunningDashboard) -> None:
    run = dashboard.folder / "runs" / "a"
    (run / "dashboard").mkdir(parents=True)
    (run / "dashboard" / "configuration.json").write_text("{}", encoding="utf-8")
    (run / "report.html").write_text("<p>report</p>", encoding="utf-8")
    (run / "secret.txt").write_text("secret", encoding="utf-8")
    (run / "data").mkdir()
    (run / "data" / "clean-report.json").write_text("{}", encoding="utf-8")
    assert dashboard.get("/files/a/report.html") == (200, b"<p>report</p>")
    assert dashboard.get("/files/a/clean-report.json") == (200, b"{}")
    for path in (
        "/files/a/secret.txt",
        "/files/a/data",
        "/files/a/tokenizer-report.json",
        "/files/b/report.html",
        "/files/..%2Fruns%2Fa/report.html",
        "/files/a/..%2F..%2Fx",
        "/files/%2E%2E/x",
    ):
        assert dashboard.get(path)[0] == 404, path
    assert dashboard.get("/", Host="evil.example")[0] == 403
    assert dashboard.get("/upload?name=x", Origin="http://evil.example")[0] == 403
