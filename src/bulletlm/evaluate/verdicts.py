"""The two verdicts of the report: did quantization break the model, and is the model any good?

`judge` reads a report (report_types.py) and compares its figures (verdict_figures.py) with the limits of the settings. Each verdict names
the three figures that decided it, probable causes, and remedies with exact commands in the order of their cost (verdict_causes.py).
"""

from collections.abc import Iterable

from bulletlm.config.schema import LimitsConfig
from bulletlm.evaluate.report_types import Cause, Cost, Decision, Figure, Remedy, Report, Status, Verdict, Verdicts
from bulletlm.evaluate.verdict_causes import Findings, quantization_causes, usefulness_causes
from bulletlm.evaluate.verdict_figures import quantization_figures, usefulness_figures
from bulletlm.evaluate.words import Words
from bulletlm.quant.types import bits_of_file

_COSTS: tuple[Cost, ...] = ("seconds", "minutes", "training", "text")

_BADNESS: dict[Status, int] = {"broken": 0, "near": 1, "ok": 2, "unknown": 3}


def judge(report: Report, limits: LimitsConfig, language: str = "en") -> Verdicts:
    """Both verdicts. Texts are in `language` ("en" or "mr"); decisions and names do not depend on it."""
    say = Words(language, bits_of_file(report))
    return {"quantization": _quantization(report, limits, say), "usefulness": _usefulness(report, limits, say)}


def _quantization(report: Report, limits: LimitsConfig, say: Words) -> Verdict:
    figures = quantization_figures(report, limits, say)
    return _verdict(figures, quantization_causes(report, limits, figures, say), say)


def _usefulness(report: Report, limits: LimitsConfig, say: Words) -> Verdict:
    figures = usefulness_figures(report, limits, say)
    verdict = _verdict(figures, usefulness_causes(report, figures, say), say)
    languages = [say.language(code) for code in report["behaviour"]["not_judged"]]
    if verdict["decision"] == "safe" and languages:
        verdict["decision"] = "limited"
        limit = say("the training text has no {languages}, so the model cannot answer in it", languages=", ".join(languages))
        verdict["title"] = say("Ship with this limit: {limit}", limit=limit)
    return verdict


def _verdict(figures: list[Figure], found: Findings, say: Words) -> Verdict:
    """The verdict that the worst figure decides; its causes and remedies are shown unless everything is within its limits."""
    ordered = sorted(
        figures, key=lambda figure: (_BADNESS[figure["status"]], -_excess(figure) if figure["status"] in ("broken", "near") else 0)
    )
    states = {figure["status"] for figure in figures}
    decision: Decision = "stop" if "broken" in states else "limited" if "near" in states else "safe"
    causes = found.causes
    remedies = sorted(_distinct(found.remedies), key=lambda remedy: _COSTS.index(remedy["cost"]))
    if decision == "safe":
        title, causes, remedies = say("Safe to ship"), [], []
    elif decision == "limited":
        title = say("Ship with this limit: {limit}", limit=ordered[0]["text"])
    else:
        action = _first_effective(remedies, causes)
        title = say("Do not ship: {action}", action=action["text"] if action else ordered[0]["text"])
    return {
        "decision": decision,
        "title": title.rstrip("."),
        "deciding": [figure["name"] for figure in ordered[:3] if figure["status"] != "unknown"],
        "figures": ordered,
        "causes": causes,
        "remedies": remedies,
    }


def _first_effective(remedies: list[Remedy], causes: list[Cause]) -> Remedy | None:
    """The remedy for the title: the first one for the first cause, which is the most certain one; otherwise the cheapest."""
    names = {remedy["name"]: remedy for remedy in remedies}
    return next((names[cause["name"]] for cause in causes if cause["name"] in names), remedies[0] if remedies else None)


def _distinct(remedies: Iterable[Remedy]) -> list[Remedy]:
    found: dict[tuple[str | None, str], Remedy] = {}
    for remedy in remedies:
        found.setdefault((remedy["command"], remedy["text"]), remedy)
    return list(found.values())


def _excess(figure: Figure) -> float:
    """How far a figure is beyond its limit, as a share of the limit."""
    value = figure["value"]
    if value is None:
        return 0.0
    distance = value - figure["limit"] if figure["better"] == "lower" else figure["limit"] - value
    return distance / max(abs(figure["limit"]), 0.01)
