"""Tests blind scoring: order, store, summary, agreement, the terminal and the judge."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletlm.cli.app import main
from bulletlm.data.augment.endpoint import ChatEndpoint
from bulletlm.errors import BulletError, DataError
from bulletlm.evaluate.judge import MOST_FAILURES, judge, judge_prompt, parse_verdict
from bulletlm.evaluate.scoring import CRITERIA, Item, ScoreStore, items_of_report, make_score, remaining, shown_to, summarize, summary_lines
from bulletlm.formats.convert import convert
from bulletlm.progress import SilentProgress

ITEMS = [Item(f"question {n}", "en", "short", {"FP32": f"long answer {n}", "4-bit": f"short {n}"}) for n in range(12)]


def points(value: float) -> dict[str, float]:
    return dict.fromkeys(CRITERIA, value)


def scored(item: Item, rater: str, fp32: float, bq4: float, preferred: str = "") -> Any:
    """A record as if the rater had given these points to the systems."""
    shown = shown_to(item, rater)
    values = {"FP32": points(fp32), "4-bit": points(bq4)}
    answer = "" if not preferred else str(shown.order.index(preferred) + 1)
    return make_score(shown, rater, [values[system] for system in shown.order], answer)


def test_answers_are_shown_in_random_order_without_names() -> None:
    orders = [shown_to(item, rater).order for item in ITEMS for rater in ("asha", "ben", "chitra", "dev")]
    share = sum(order[0] == "FP32" for order in orders) / len(orders)
    assert 0.25 < share < 0.75
    assert shown_to(ITEMS[0], "asha") == shown_to(ITEMS[0], "asha")
    assert [shown.item.id for shown in remaining(ITEMS, [], "asha")] != [shown.item.id for shown in remaining(ITEMS, [], "ben")]


def test_the_store_continues_and_corrects(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "scores.jsonl")
    assert store.read() == [] and len(remaining(ITEMS, store.read(), "asha")) == 12
    store.add(scored(ITEMS[0], "asha", 2, 4, "4-bit"))
    store.add(scored(ITEMS[1], "asha", 3, 3))
    store.add(scored(ITEMS[0], "asha", 5, 1, "FP32"))  # scored again
    records = store.read()
    assert len(records) == 2 and records[-1]["preferred"] == "FP32" and records[-1]["points"]["FP32"]["depth"] == 5
    assert {shown.item.id for shown in remaining(ITEMS, records, "asha")} == {item.id for item in ITEMS[2:]}
    assert len(remaining(ITEMS, records, "ben")) == 12


def test_a_score_that_was_not_written_completely_is_asked_again(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "scores.jsonl")
    store.add(scored(ITEMS[0], "asha", 2, 4))
    store.add(scored(ITEMS[1], "asha", 2, 4))
    content = store.path.read_bytes()
    for cut in (1, 2, 60):
        store.path.write_bytes(content[:-cut])
        left = len(store.read())
        assert left == (2 if cut == 1 else 1)
        store.add(scored(ITEMS[2], "asha", 1, 1))
        assert len(store.read()) == left + 1
    store.path.write_bytes(b"nonsense\n" + content)
    with pytest.raises(BulletError, match="line 1 is damaged"):
        store.read()


def test_a_line_of_another_file_is_never_removed(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "notes.txt")
    store.path.write_text("my notes")
    store.add(scored(ITEMS[0], "asha", 2, 4))
    assert store.path.read_text().startswith("my notes\n")
    with pytest.raises(BulletError, match="line 1 is damaged"):
        store.read()


ODD: list[Any] = [None, True, 3, "x", [], {}, [1], {"rows": None}, {"rows": [None]}, {"rows": []}, {"rows": "text"}]
ODD += [{"rows": [{"prompt": 1, "language": "en", "kind": "k", "fp32": {"text": "a"}, "bq4": {"text": "b"}}]}]
ODD += [{"rows": [{"prompt": "p", "language": "en", "kind": "k", "fp32": {"text": 1}, "bq4": {"text": "b"}}]}]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_a_report_without_answers_is_one_line(odd: Any) -> None:
    for report in (odd, {"generations": odd}):
        with pytest.raises(DataError, match=r"report\.json has no answers"):
            items_of_report(report)


def test_scores_of_other_systems_do_not_count() -> None:
    """As in a file that was edited: the item is right, the systems are not."""
    right, renamed, unknown = (scored(ITEMS[0], rater, 2, 4) for rater in ("asha", "ben", "chitra"))
    renamed["points"] = {"FP32": points(1), "other": points(1)}
    unknown["preferred"] = "other"
    assert summarize(ITEMS, [right, renamed, unknown])["raters"] == {"asha": 1}


def test_other_answers_are_other_items() -> None:
    changed = Item(ITEMS[0].prompt, "en", "short", {"FP32": "another answer", "4-bit": "short 0"})
    with pytest.raises(DataError, match="no score of these answers"):
        summarize([changed], [scored(ITEMS[0], "asha", 1, 1)])


def test_the_summary_is_paired_and_has_intervals() -> None:
    pytest.importorskip("krippendorff")
    records = [
        scored(item, rater, 4 if n % 2 else 5, 3 if n % 2 else 4, "FP32") for n, item in enumerate(ITEMS) for rater in ("asha", "ben")
    ]
    summary = summarize(ITEMS, records)
    assert summary["raters"] == {"asha": 12, "ben": 12} and summary["items"] == 12
    assert summary["points"]["FP32"]["grammar"]["value"] == 4.5 and summary["points"]["4-bit"]["grammar"]["value"] == 3.5
    difference = summary["differences"]["depth"]
    assert (difference["value"], difference["low"], difference["high"]) == (-1, -1, -1), "every item differs by the same"
    assert summary["preferences"]["FP32"]["value"] == 1 and summary["preferences"]["4-bit"]["value"] == 0
    assert summary["preferences"]["FP32"]["low"] > 0.8  # type: ignore[operator]
    assert summary["agreement"]["grammar"] == pytest.approx(1)
    assert any("Krippendorff" in line for line in summary_lines(summary))


def test_agreement_is_low_for_raters_who_guess_and_missing_for_one() -> None:
    krippendorff = pytest.importorskip("krippendorff")
    import random

    rng = random.Random(1)
    records = [
        scored(item, rater, rng.randint(1, 5), rng.randint(1, 5), rng.choice(["FP32", "4-bit", ""])) for item in ITEMS for rater in "ab"
    ]
    summary = summarize(ITEMS, records)
    assert abs(summary["agreement"]["depth"]) < 0.5  # type: ignore[arg-type]
    table = [
        [
            record["points"][system]["depth"]
            for item in sorted(i.id for i in ITEMS)
            for system in ("FP32", "4-bit")
            for record in records
            if (record["item"], record["rater"]) == (item, rater)
        ]
        for rater in "ab"
    ]
    assert summary["agreement"]["depth"] == pytest.approx(krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal"))
    alone = summarize(ITEMS, records[::2])
    assert set(alone["agreement"].values()) == {None}


@pytest.mark.parametrize(
    ("sides", "preferred", "rater", "message"),
    [
        ([points(3), points(6)], "", "me", "1 to 5 points"),
        ([points(3), {"grammar": 3}], "", "me", "1 to 5 points"),
        ([points(3), points(3)], "3", "me", "preference"),
        ([points(3), points(3)], "", " ", "needs a name"),
    ],
)
def test_wrong_scores_are_refused(sides: Any, preferred: str, rater: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_score(shown_to(ITEMS[0], "me"), rater, sides, preferred)


@given(st.text(max_size=200))
def test_a_judge_may_answer_anything(text: str) -> None:
    try:
        verdict = parse_verdict(text)
    except BulletError:
        return
    assert verdict["better"] in ("1", "2", "")


def run_folder(path: Path, answers: int = 3) -> Path:
    """A folder with a report whose first answers are identical."""
    rows = [
        {
            "prompt": f"p{n}",
            "language": "en",
            "kind": "short",
            "fp32": {"text": f"full {n}"},
            "bq4": {"text": f"full {n}" if n == 0 else f"part {n}"},
        }
        for n in range(answers)
    ]
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "report.json").write_text(json.dumps({"generations": {"rows": rows}}))
    return path


def command(words: list[str], typed: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    with pytest.raises(SystemExit) as end:
        main(["score", *words])
    return int(end.value.code or 0)


def test_scoring_in_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    run = run_folder(tmp_path / "run")
    order = [shown.item.identical for shown in remaining(items_of_report(json.loads((run / "report.json").read_text())), [], "asha")]
    typed = "".join("4444\n" if identical else "5 5 5 5\n2222\n1\n" for identical in order[:2])
    assert command([str(run), "--rater", "asha"], f"?\n9\n{typed}q\n", monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "FP32" not in shown.partition(", scored by")[0] and "4-bit" not in shown.partition(", scored by")[0], "blind"
    assert "2 items, scored by asha (2)" in shown
    assert len(ScoreStore(run / "scores.jsonl").read()) == 2
    rest = "4444\n" if order[2] else "5555\n2222\n1\n"
    assert command([str(run), "--rater", "asha"], f"b\n{rest}", monkeypatch) == 0
    assert "1 item to score" in capsys.readouterr().out and len(ScoreStore(run / "scores.jsonl").read()) == 3
    assert command([str(run), "--summary", "--json"], "", monkeypatch) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["items"] == 3 and summary["raters"] == {"asha": 3}
    for record in ScoreStore(run / "scores.jsonl").read():
        if record["preferred"]:
            assert record["preferred"] == record["order"][0] and record["points"][record["preferred"]]["grammar"] == 5


def test_going_back_replaces_the_last_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_folder(tmp_path / "run", 4)
    left = remaining(items_of_report(json.loads((run / "report.json").read_text())), [], "me")
    one, two = ("1111\n" if shown.item.identical else "1111\n1111\n=\n" for shown in left[:2])
    again = "5555\n" if left[0].item.identical else "5555\n5555\n=\n"
    assert command([str(run)], f"{one}b\n{again}{two}q\n", monkeypatch) == 0
    records = ScoreStore(run / "scores.jsonl").read()
    assert {record["item"]: next(iter(record["points"].values()))["depth"] for record in records} == {
        left[0].item.id: 5,
        left[1].item.id: 1,
    }


def test_wrong_use_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert command([str(tmp_path)], "", monkeypatch) == 1
    assert "no report.json" in capsys.readouterr().err
    run = run_folder(tmp_path / "run")
    assert command([str(run), "--summary"], "", monkeypatch) == 1
    assert "score them first" in capsys.readouterr().err
    assert command([str(run), "--prompts", "x.jsonl"], "", monkeypatch) == 2


@contextmanager
def judged_by(answer: Callable[[str], str]) -> Iterator[ChatEndpoint]:
    """An endpoint on this computer whose model gives `answer` to the text of a request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
            body = json.dumps({"choices": [{"message": {"content": answer(prompt)}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        names = {"key_variable": "k", "model": "m", "timeout": "t"}
        yield ChatEndpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", None, 10, names)
    finally:
        server.shutdown()
        server.server_close()


def prefers_the_first(prompt: str) -> str:
    """A judge who always prefers the first answer, except to question 1, where the long one is better."""
    first = prompt.index("long answer") < prompt.index("short")
    better = ("1" if first else "2") if "question 1" in prompt else "1"
    high, low = points(5), points(2)
    verdict = {"answer_1": high if first else low, "answer_2": low if first else high, "better": better}
    return f"Here you are:\n{json.dumps(verdict)}"


def test_a_judge_scores_in_both_orders_and_is_cached(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return prefers_the_first(prompt)

    cache, items = tmp_path / "judge.jsonl", ITEMS[:2]
    with judged_by(answer) as endpoint:
        records = judge(items, endpoint, "judge:m", cache, SilentProgress())
        assert len(asked) == 4 and judge_prompt(shown_to(items[0], "x")) in asked
        assert [record["points"]["FP32"]["depth"] for record in records] == [5, 5]
        assert [record["points"]["4-bit"]["depth"] for record in records] == [2, 2]
        assert [record["preferred"] for record in records] == ["", "FP32"], "a preference for the first place does not count"
        assert judge(items, endpoint, "judge:m", cache, SilentProgress())[0]["points"] == records[0]["points"]
        assert len(asked) == 4, "nothing is asked again"


def test_a_pair_without_a_verdict_is_left_out(tmp_path: Path) -> None:
    with judged_by(lambda prompt: "I like both." if "question 0" in prompt else prefers_the_first(prompt)) as endpoint:
        records = judge(ITEMS[:3], endpoint, "judge:m", tmp_path / "judge.jsonl", SilentProgress())
    assert [record["prompt"] for record in records] == ["question 1", "question 2"]


def test_a_judge_without_verdicts_is_not_asked_for_long(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "I like both."

    with judged_by(answer) as endpoint, pytest.raises(BulletError, match="did not answer with points"):
        judge(ITEMS, endpoint, "judge:m", tmp_path / "judge.jsonl", SilentProgress())
    assert len(asked) == MOST_FAILURES < len(ITEMS)


def test_a_judge_is_not_asked_for_a_file_that_holds_no_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The scores would be added to the user's own file."""
    run, notes, asked = run_folder(tmp_path / "run", 2), tmp_path / "notes.txt", list[str]()
    notes.write_text("my own notes\n")

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return json.dumps({"answer_1": points(3), "answer_2": points(3), "better": "same"})

    with judged_by(answer) as endpoint, pytest.raises(SystemExit):
        main(["score", str(run), "--judge", endpoint.url.removesuffix("/chat/completions"), "--out", str(notes)])
    assert not asked
    assert "notes.txt line 1 is damaged" in capsys.readouterr().err and notes.read_text() == "my own notes\n"


def test_a_folder_of_transformers_gets_no_scores(
    bullet_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has a config.json too, but is not a run: the file would be in the way of the next export."""
    monkeypatch.chdir(tmp_path)
    convert(bullet_path, tmp_path / "small-hf")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "hi", "language": "en", "kind": "short"}\n')
    words = ["small-hf", "--against", str(bullet_path), "--prompts", "prompts.jsonl"]
    for typed in ("3333\n", "3333\n3333\n=\n"):  # whether the answers are equal or not
        command(words, typed, monkeypatch)
    assert (tmp_path / "scores.jsonl").is_file() and not (tmp_path / "small-hf" / "scores.jsonl").exists()


def test_the_summary_names_the_bits_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """In words for people; the store and JSON keep one name, so that scores stay valid."""
    run = run_folder(tmp_path / "run", 2)
    report = json.loads((run / "report.json").read_text())
    (run / "report.json").write_text(json.dumps({**report, "quantised": {"weights": "BQ8"}}))
    [first, _] = remaining(items_of_report(report), [], "me")
    assert command([str(run)], "4444\n" if first.item.identical else "5555\n2222\n1\n", monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "8-bit" in shown and "4-bit" not in shown
    assert command([str(run), "--summary", "--json"], "", monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["systems"] == ["FP32", "4-bit"]
