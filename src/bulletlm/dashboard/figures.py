"""The figures of a run that several pages show: their names with the units, and what they mean."""

from bulletlm.dashboard.runs import Summary
from bulletlm.dashboard.show import NOTHING
from bulletlm.dashboard.words import Words

FIGURES = {
    "state": (
        "State",
        "Running: a process works on it. Waiting: it starts after the others. Finished: the report card is there. Stopped: it can be "
        "resumed. Failed: it ended with an error, which the page of the run shows.",
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
        "4-bit against FP32 (perplexity)",
        "How much the perplexity rises when the FP32 weights are rounded to 4 bits, in percent. 0 is ideal.",
    ),
    "verdict": (
        "Verdict",
        "The answers of the report card to two questions: is the 4-bit model as good as FP32, and is the model any good?",
    ),
    "size": ("File size", "Size of the 4-bit model file."),
    "parameters": ("Parameters", "Number of weights of the model."),
    "speed": ("Training speed (tokens/s)", "Tokens of text that the training read in a second, at its last step."),
    "changed": ("Changed", "When a file of the run changed last, in the time of this computer."),
}
"""Name with its unit, and explanation."""

QUESTIONS = {"quantization": "4-bit", "usefulness": "usefulness"}
"""The verdicts of a report card, and short names for what they judge."""

DECISIONS = {"safe": "safe to ship", "limited": "ship with a limit", "stop": "do not ship"}
"""What a verdict decides, in a few words; the worst one last."""

LOOKS = {"safe": "good", "limited": "warn", "stop": "bad"}
"""Style of a decision."""


def explained(t: Words, figure: str) -> tuple[str, str]:
    """The name of a figure and its explanation, in the language of the page."""
    name, explanation = FIGURES[figure]
    return t(name), t(explanation)


def decisions(t: Words, found: Summary) -> list[tuple[str, str]]:
    """The verdicts of a run in a few words each, and their styles; none before the report card is written."""
    return [
        (f"{t(QUESTIONS[question])}: {t(DECISIONS[decision])}", LOOKS[decision])
        for question, decision in found.decisions.items()
        if question in QUESTIONS and decision in DECISIONS
    ]


def decisions_line(t: Words, found: Summary) -> str:
    """`decisions` in one line; a dash if there are none."""
    return ", ".join(text for text, _ in decisions(t, found)) or NOTHING


def worst_decision(found: Summary) -> int | None:
    """A number by which runs are sorted, higher for worse verdicts; None before the report card is written."""
    ranks = [list(DECISIONS).index(decision) for decision in found.decisions.values() if decision in DECISIONS]
    return max(ranks) * 10 + sum(ranks) if ranks else None
