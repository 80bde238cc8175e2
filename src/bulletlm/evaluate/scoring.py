"""Blind human scoring of two systems' answers: items, order, store, summary and agreement between raters.

A system is a model, or one version of it. A rater sees the prompt and two answers without names, in an order that depends on the
rater and the item, and gives each answer 1 to 5 points for every criterion, and a preference. `bullet score` uses this module in
the terminal; other front ends use the same functions:

    items = items_of_report(report)              # or items_of(rows, names)
    store = ScoreStore(run / "scores.jsonl")
    for shown in remaining(items, store.read(), rater): ...
    store.add(make_score(shown, rater, (points_1, points_2), preferred="1"))
    summary = summarize(items, store.read())
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from bulletlm.errors import BulletError, DataError
from bulletlm.evaluate.intervals import mean, proportion
from bulletlm.evaluate.report_types import IntervalValues
from bulletlm.extras import install_command
from bulletlm.files import open_regular, sha256_of_json
from bulletlm.terminal import printable

CRITERIA = {
    "grammar": "spelling and grammar: 1 = cannot be read, 3 = some mistakes, 5 = none",
    "depth": "thought: 1 = says nothing about the question, 3 = an ordinary answer, 5 = an insight with a reason",
    "coherence": "coherence: 1 = sentences do not belong together, 3 = mostly one thought, 5 = one clear thought from start to end",
    "safety": "factual safety: 1 = false or harmful claims, 3 = doubtful, 5 = nothing false or harmful",
}
"""What is scored -> what the points mean."""

LEAST, MOST = 1, 5

MODEL_FILE = "4-bit"
"""What scores call the answers of the model file of a run; pages name the bits of its weights instead."""

SCORE_FILE = "scores.jsonl"
"""Name of the file with scores in a run folder."""


@dataclass(frozen=True)
class Item:
    """A prompt with the answers of two systems.

    Attributes:
        prompt, language, kind: as in the prompt file.
        answers: system -> its answer; two systems.
    """

    prompt: str
    language: str
    kind: str
    answers: Mapping[str, str]

    @property
    def id(self) -> str:
        """Changes with the prompt and the answers, so scores of other answers are not counted."""
        return sha256_of_json([self.prompt, dict(self.answers)])[:16]

    @property
    def identical(self) -> bool:
        """Whether both systems answer the same."""
        return len(set(self.answers.values())) == 1


class Shown(NamedTuple):
    """An item as one rater sees it: `order` names the systems of answer 1 and answer 2, which the rater must not see."""

    item: Item
    order: tuple[str, str]

    @property
    def texts(self) -> tuple[str, str]:
        """Answer 1 and answer 2."""
        return self.item.answers[self.order[0]], self.item.answers[self.order[1]]


class ScoreRecord(TypedDict):
    """One line of scores.jsonl. `points` are by system and criterion, from 1 to 5; `preferred` is a system, or "" for none."""

    version: int
    time: str
    rater: str
    item: str
    prompt: str
    language: str
    order: list[str]
    points: dict[str, dict[str, float]]
    preferred: str


class Summary(TypedDict):
    """What the raters found.

    `points`: system -> criterion -> mean over items. `differences`: criterion -> the second system minus the first, item by item.
    `preferences`: system (or "no preference") -> share of judgements. `agreement`: criterion (and "preference") -> Krippendorff's
    alpha, 1 for full agreement and 0 for chance; None where fewer than two raters scored the same items.
    """

    systems: list[str]
    raters: dict[str, int]
    items: int
    points: dict[str, dict[str, IntervalValues]]
    differences: dict[str, IntervalValues]
    preferences: dict[str, IntervalValues]
    agreement: dict[str, float | None]


# --- items --------------------------------------------------------------------------------------------------------------


def items_of_report(report: Mapping[str, Any]) -> list[Item]:
    """The answers of report.json, of the systems "FP32" and "4-bit".

    Raises:
        DataError: the report has no answers.
    """
    try:
        rows = report["generations"]["rows"]
        items = items_of([{**row, "a": row["fp32"], "b": row["bq4"]} for row in rows], ("FP32", MODEL_FILE))
    except (LookupError, TypeError, AttributeError):
        items = []
    if not items or not all(isinstance(word, str) for item in items for word in (item.prompt, item.language, *item.answers.values())):
        raise DataError("report.json has no answers: run `bullet evaluate` again")
    return items


def items_of(rows: Iterable[Mapping[str, Any]], systems: tuple[str, str]) -> list[Item]:
    """Items from rows with prompt, language, kind, and the answers a and b of the two systems (`AnswerComparison`)."""
    if systems[0] == systems[1]:
        raise DataError(f"both systems are called {systems[0]}: two different models are needed")
    return [
        Item(row["prompt"], row["language"], row["kind"], {systems[0]: row["a"]["text"].strip(), systems[1]: row["b"]["text"].strip()})
        for row in rows
    ]


def remaining(items: Sequence[Item], records: Iterable[ScoreRecord], rater: str) -> list[Shown]:
    """The items that `rater` has not scored, in the rater's own order."""
    done = {record["item"] for record in records if record["rater"] == rater}
    left = [item for item in items if item.id not in done]
    return [shown_to(item, rater) for item in sorted(left, key=lambda item: _digest(rater, item.id, "place"))]


def shown_to(item: Item, rater: str) -> Shown:
    """The item with its answers in the order that this rater sees."""
    first, second = sorted(item.answers)
    return Shown(item, (second, first) if _digest(rater, item.id, "order")[0] & 1 else (first, second))


def _digest(*words: str) -> bytes:
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).digest()


def make_score(shown: Shown, rater: str, points: Sequence[Mapping[str, float]], preferred: str) -> ScoreRecord:
    """A record for the store.

    Args:
        shown: what the rater saw.
        rater: the rater's name.
        points: of answer 1 and of answer 2, by criterion.
        preferred: "1", "2", or "" for no preference.

    Raises:
        DataError: points are missing or out of range, or the rater has no name.
    """
    if not rater.strip():
        raise DataError("the rater needs a name: --rater NAME")
    for side in points:
        if set(side) != set(CRITERIA) or not all(LEAST <= value <= MOST for value in side.values()):
            raise DataError(f"every answer needs {LEAST} to {MOST} points for {', '.join(CRITERIA)}")
    if preferred not in ("1", "2", ""):
        raise DataError(f"the preference is {preferred!r}: it must be 1, 2 or nothing")
    return {
        "version": 1,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rater": rater,
        "item": shown.item.id,
        "prompt": shown.item.prompt,
        "language": shown.item.language,
        "order": list(shown.order),
        "points": {system: dict(side) for system, side in zip(shown.order, points, strict=True)},
        "preferred": shown.order[int(preferred) - 1] if preferred else "",
    }


# --- store --------------------------------------------------------------------------------------------------------------


class ScoreStore:
    """A file with one score per line. Scores are only added; a later one of the same rater and item replaces the earlier."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[ScoreRecord]:
        """The scores that count, oldest first; empty if there is no file. A last line that was not written completely is left out.

        Raises:
            BulletError: the file cannot be read, or a line is damaged.
        """
        try:
            with open_regular(self.path) as file:
                content = file.read().decode("utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise BulletError(f"cannot read {self.path} ({getattr(error, 'strerror', None) or 'it is not UTF-8 text'})") from None
        lines = content.split("\n")
        if _is_incomplete(lines[-1]):
            lines.pop()
        records: dict[tuple[str, str], ScoreRecord] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            record = _parse(line)
            if record is None:
                raise BulletError(f"{self.path} line {number} is damaged: repair or remove the line")
            records.pop((record["rater"], record["item"]), None)
            records[record["rater"], record["item"]] = record
        return list(records.values())

    def add(self, record: ScoreRecord) -> None:
        """Append a score and wait until it is on the disk. A last line that was not written completely is removed.

        Raises:
            BulletError: the file cannot be written.
        """
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        try:
            with open(self.path, "ab+") as file:
                file.seek(0)
                last = file.read().rpartition(b"\n")[2]
                if _is_incomplete(last.decode("utf-8", "replace")):
                    file.truncate(file.tell() - len(last))
                elif last:
                    line = b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise BulletError(f"cannot write {self.path} ({error.strerror}): choose another file with --out") from None


LINE_START = '{"version": 1, "time": "'
"""Every line of a file with scores begins with this."""


def _is_incomplete(line: str) -> bool:
    """Whether a last line is the beginning of a score, because the program was killed while it wrote it."""
    return bool(line) and (line.startswith(LINE_START) or LINE_START.startswith(line)) and _parse(line) is None


def _parse(line: str) -> ScoreRecord | None:
    """The record in a line; None if the line is damaged."""
    try:
        return _checked(json.loads(line))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _checked(record: Any) -> ScoreRecord:
    """The record if it has the form of `ScoreRecord`; raises LookupError, TypeError or ValueError otherwise."""
    points = record["points"]
    wrong = not all(isinstance(record[key], str) for key in ("rater", "item", "preferred")) or len(points) != 2
    if wrong or not all(LEAST <= float(side[name]) <= MOST for side in points.values() for name in CRITERIA):
        raise ValueError("not a score")
    checked: ScoreRecord = record
    return checked


# --- summary ------------------------------------------------------------------------------------------------------------


def summarize(items: Sequence[Item], records: Iterable[ScoreRecord]) -> Summary:
    """Means, differences, preferences and agreement of the scores of `items`; scores of other answers are left out.

    Raises:
        DataError: no item was scored.
        BulletError: several raters scored the same items, and the library for their agreement is not installed.
    """
    by_id = {item.id: item.answers.keys() for item in items}
    known = [
        record
        for record in records
        if record["item"] in by_id
        and record["points"].keys() == by_id[record["item"]]
        and record["preferred"] in ("", *by_id[record["item"]])
    ]
    if not known:
        raise DataError("no score of these answers was found: score them first")
    systems = list(items[0].answers)
    scored = sorted({record["item"] for record in known})
    raters: dict[str, int] = {}
    for record in known:
        raters[record["rater"]] = raters.get(record["rater"], 0) + 1

    def of_items(system: str, name: str) -> list[float]:
        """The mean over raters for each item: raters of one item are not independent."""
        return [float(np.mean([r["points"][system][name] for r in known if r["item"] == item])) for item in scored]

    points = {system: {name: of_items(system, name) for name in CRITERIA} for system in systems}
    differences = {name: np.array(points[systems[1]][name]) - np.array(points[systems[0]][name]) for name in CRITERIA}
    choices = [record["preferred"] or NO_PREFERENCE for record in known]
    return {
        "systems": systems,
        "raters": raters,
        "items": len(scored),
        "points": {system: {name: mean(values).to_dict() for name, values in side.items()} for system, side in points.items()},
        "differences": {name: mean(values).to_dict() for name, values in differences.items()},
        "preferences": {each: proportion(choices.count(each), len(choices)).to_dict() for each in (*systems, NO_PREFERENCE)},
        "agreement": _agreement(known, systems),
    }


NO_PREFERENCE = "no preference"


def _agreement(records: Sequence[ScoreRecord], systems: Sequence[str]) -> dict[str, float | None]:
    """Krippendorff's alpha over all raters: ordinal for points, nominal for the preference."""
    by_rater: dict[str, dict[str, ScoreRecord]] = {}
    for record in records:
        by_rater.setdefault(record["rater"], {})[record["item"]] = record
    shared = any(len(set(a) & set(b)) >= 2 for a, b in combinations(by_rater.values(), 2))
    names = [*CRITERIA, "preference"]
    if not shared:
        return dict.fromkeys(names)
    try:
        import krippendorff
    except ImportError:
        raise BulletError(f"the agreement of several raters needs krippendorff: {install_command('score')}") from None
    units = sorted({record["item"] for record in records})
    agreement: dict[str, float | None] = {}
    for name in names:
        columns = [(item, system) for item in units for system in (systems if name != "preference" else systems[:1])]
        table = np.full((len(by_rater), len(columns)), np.nan)
        for row, own in enumerate(by_rater.values()):
            for column, (item, system) in enumerate(columns):
                if item not in own:
                    continue
                record = own[item]
                known = ["", *systems]
                table[row, column] = known.index(record["preferred"]) if name == "preference" else record["points"][system][name]
        values = table[~np.isnan(table)]
        if len(np.unique(values)) < 2:  # everyone gave the same points: alpha is 0 / 0
            agreement[name] = None
            continue
        level = "nominal" if name == "preference" else "ordinal"
        agreement[name] = float(krippendorff.alpha(reliability_data=table, level_of_measurement=level))
    return agreement


def summary_lines(summary: Summary, names: Mapping[str, str] | None = None) -> list[str]:
    """The summary as a table for a terminal; `names` are what to call systems there, where that is something else."""
    names = names or {}
    systems = summary["systems"]
    first, second = (names.get(system, system) for system in systems)
    raters = ", ".join(f"{printable(name)} ({count})" for name, count in summary["raters"].items())
    width = max(len(name) for name in (*CRITERIA, first, second, NO_PREFERENCE))
    items = "1 item" if summary["items"] == 1 else f"{summary['items']} items"
    lines = [f"{items}, scored by {raters}", "", f"{'':<{width}}  {first:<22}{second:<22}difference"]
    for name in CRITERIA:
        cells = [_cell(summary["points"][system][name]) for system in systems]
        lines.append(f"{name:<{width}}  {cells[0]:<22}{cells[1]:<22}{_cell(summary['differences'][name], signed=True)}")
    lines.append("")
    for system, share in summary["preferences"].items():
        lines.append(f"{names.get(system, system):<{width}}  preferred in {_share(share)}")
    if any(value is not None for value in summary["agreement"].values()):
        values = ", ".join(f"{name} {value:.2f}" for name, value in summary["agreement"].items() if value is not None)
        lines += ["", f"agreement between raters (Krippendorff's alpha; 1 = full, 0 = chance): {values}"]
    return lines


def _cell(interval: IntervalValues, signed: bool = False) -> str:
    form = "{:+.2f}" if signed else "{:.2f}"
    low, high = interval["low"], interval["high"]
    shown = form.format(interval["value"])
    return shown if low is None or high is None else f"{shown} [{form.format(low)}, {form.format(high)}]"


def _share(interval: IntervalValues) -> str:
    low, high = interval["low"], interval["high"]
    return f"{interval['value']:.0%}" + ("" if low is None or high is None else f" [{low:.0%}, {high:.0%}]")
