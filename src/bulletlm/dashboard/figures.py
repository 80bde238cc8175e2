"""The figures of a run that several pages show: their names with the units, and what they mean."""

import shlex
from dataclasses import dataclass

from bulletlm.dashboard.reports import REMEDY
from bulletlm.dashboard.runs import Summary
from bulletlm.dashboard.show import NOTHING
from bulletlm.dashboard.words import Words

FIGURES = {
    "state": (
        "State",
        "Running: a process works on it. Waiting: it is in the queue and starts when no other run is running. Finished: the report card "
        "is there. Stopped: it can be resumed. Failed: it ended with an error, which the page of the run shows.",
    ),
    "progress": ("Progress", "The part of the training that is done, and the time until it ends at its present speed."),
    "loss": (
        "Best validation loss (nats/token)",
        "Lowest loss on text that the model never saw, in nats per token; lower is better. Compare it only between models with the same "
        "vocabulary.",
    ),
    "bpb": (
        "Bits per byte",
        "Bits that the model needs for a byte of unseen text; lower is better. Models with any vocabulary can be compared.",
    ),
    "gap": (
        "Model file against FP32 (perplexity)",
        "How much the perplexity rises when the FP32 weights are rounded to those of the model file, in percent. 0 is ideal.",
    ),
    "verdict": (
        "Verdict",
        "The answers of the report card to two questions: is the model file as good as FP32, and is the model any good?",
    ),
    "size": ("File size", "Size of the model file."),
    "parameters": ("Parameters", "Number of weights of the model."),
    "speed": ("Training speed (tokens/s)", "Tokens of text that the training read in a second, at its last step."),
    "changed": ("Changed", "When a file of the run changed last, in the time of this computer."),
}
"""Name with its unit, and explanation."""

SUBJECTS = {"quantization": "{n}-bit", "usefulness": "usefulness"}
"""The verdicts of a report card, and short names for what they judge."""

VERDICTS = {
    "quantization": (
        "Is the {n}-bit model as good as FP32?",
        "The model file is measured against the FP32 weights. Green figures keep the limits of the settings (report.limits), orange ones "
        "are too close to a limit to be sure, and red ones exceed it.",
    ),
    "usefulness": (
        "Is the model any good?",
        "What the model predicts and answers is measured. Green figures keep the limits of the settings (report.limits), orange ones "
        "are too close to a limit to be sure, and red ones exceed it.",
    ),
}
"""The question that each verdict answers, and its explanation."""

DECISIONS = {"safe": "safe to ship", "limited": "ship with a limit", "stop": "do not ship"}
"""What a verdict decides, in a few words; the worst one last."""

LOOKS = {"safe": "good", "limited": "warn", "stop": "bad"}
"""Style of a decision."""


def explained(t: Words, figure: str) -> tuple[str, str]:
    """The name of a figure and its explanation, in the language of the page."""
    name, explanation = FIGURES[figure]
    return t(name), t(explanation)


@dataclass(frozen=True)
class ShownVerdict:
    """A verdict of a report card, or what is wrong with the report card, in the language of the page.

    Attributes:
        short: what is judged, and the decision in a few words.
        sentence: the question, and the answer of the report card.
        look: style of the decision.
    """

    short: str
    sentence: str
    look: str


def shown_verdicts(t: Words, found: Summary) -> list[ShownVerdict]:
    """The verdicts of a run, and what is wrong with its report card; none before the report card is written."""
    titles = found.titles.get(t.language, {})
    verdicts = [
        ShownVerdict(
            f"{t(SUBJECTS[name], n=found.file_bits)}: {t(DECISIONS[decision])}",
            f"{t(VERDICTS[name][0], n=found.file_bits)} {titles.get(name, t(DECISIONS[decision]))}",
            LOOKS[decision],
        )
        for name, decision in found.decisions.items()
        if name in SUBJECTS and decision in DECISIONS
    ]
    if found.report_problem:
        verdicts.append(ShownVerdict(t("damaged report card"), report_problem(t, found.name, found.report_problem), "warn"))
    return verdicts


def verdicts_line(t: Words, found: Summary) -> str:
    """The verdicts of a run in a few words; a dash if there are none."""
    return ", ".join(verdict.short for verdict in shown_verdicts(t, found)) or NOTHING


def report_problem(t: Words, name: str, problem: str) -> str:
    """What is wrong with the report card of the run `name`, one of reports.PROBLEMS, and how it is written again."""
    return f"{t(problem)} {t(REMEDY, command=shlex.join(['bullet', 'evaluate', f'runs/{name}']))}"


def worst_decision(found: Summary) -> int | None:
    """A number by which runs are sorted, higher for worse verdicts; None before the report card is written."""
    ranks = [list(DECISIONS).index(decision) for decision in found.decisions.values() if decision in DECISIONS]
    return max(ranks) * 10 + sum(ranks) if ranks else None
