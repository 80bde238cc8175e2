"""The model in one sentence, and the meaning of the main numbers in sentences."""

from bulletlm.evaluate.formatting import language_list, percent, percent_change, perplexity
from bulletlm.evaluate.report_types import Report
from bulletlm.evaluate.words import Words
from bulletlm.formats.provenance import PRIVATE_NOTE

SMALL_CHANGE, LARGE_CHANGE = 0.02, 0.05
"""Rises of the perplexity up to which the 4-bit file is called almost as good, and from which it is called clearly worse."""


def summary(report: Report, say: Words) -> str:
    """What the model is, and on what it was trained."""
    values = {
        "parameters": say.count(report["model"]["parameters"]),
        "languages": language_list(report["model"]["languages"], say.code),
        "size": say.size(report["tokens"]["train"]["bytes"]),
        "file": say.size(report["bq4"]["bytes"]),
    }
    origin, training = report["origin"], report["training"]
    values["parent"] = (origin and origin["name"]) or ""
    values["time"] = say.duration(training["seconds"]) if training else ""
    if values["parent"] and training:
        text = say(
            "A language model with {parameters} parameters for {languages}, trained on {size} of text, starting from the model {parent}, "
            "in {time}; the model file has {file}.",
            **values,
        )
    elif values["parent"]:
        text = say(
            "A language model with {parameters} parameters for {languages}, trained on {size} of text, starting from the model {parent}; "
            "the model file has {file}.",
            **values,
        )
    elif training:
        text = say(
            "A language model with {parameters} parameters for {languages}, trained on {size} of text in {time}; "
            "the model file has {file}.",
            **values,
        )
    else:
        text = say(
            "A language model with {parameters} parameters for {languages}, trained on {size} of text; the model file has {file}.", **values
        )
    return f"{text} " + say.finished(f"It was {PRIVATE_NOTE}.") if report["private_messages"] else text


def sentences(report: Report, say: Words) -> list[str]:
    """The meaning of the main numbers."""
    bq4, training = report["bq4"], report["training"]
    agreement = say(
        "At {share} of all positions both versions have the same most likely next token.",
        share=percent(report["comparison"]["top1_agreement"]["mean"], 0),
    )
    meaning = say(
        "A perplexity of {perplexity} means that the model is as uncertain about each token as if it chose between {count} equally likely "
        "tokens of its {tokens}.",
        perplexity=perplexity(bq4["perplexity"]),
        count=f"{max(1, round(bq4['perplexity'])):,}",
        tokens=f"{report['tokens']['vocab_size']:,}",
    )
    found = [f"{_quality(report, say)} {agreement}", meaning, *_learned_and_forgot(report, say)]
    last = training["last_val_loss"] if training else None
    if training and training["best_step"] and last is not None and last > report["fp32"]["loss"] + 0.02:
        found.append(
            say(
                "After step {step} of {steps} the validation loss rose again: the model started to memorize its training text "
                "(overfitting). More text or more varied text helps more than longer training.",
                step=f"{training['best_step']:,}",
                steps=f"{training['steps']:,}",
            )
        )
    return found


def _quality(report: Report, say: Words) -> str:
    both, fp32, bq4 = report["comparison"], report["fp32"], report["bq4"]
    change, delta, se = both["perplexity_change"], both["loss_delta"]["mean"], both["loss_delta"]["se"]
    times, shown = f"{fp32['bytes'] / bq4['bytes']:.1f}", percent_change(change)
    rise = shown.lstrip("+")
    if se is not None and abs(delta) <= 2 * se and abs(change) < LARGE_CHANGE:
        return say(
            "The {n}-bit file is {times} times smaller than FP32, without a measurable loss of quality: the difference in perplexity "
            "({change}) is within the statistical error.",
            times=times,
            change=shown,
        )
    if change <= 0:
        return say(
            "The {n}-bit file is {times} times smaller than FP32 and does not predict this text worse: perplexity changes by {change}.",
            times=times,
            change=shown,
        )
    if change < SMALL_CHANGE:
        return say(
            "The {n}-bit file is {times} times smaller than FP32 and almost as good: perplexity rises by {rise}.", times=times, rise=rise
        )
    if change < LARGE_CHANGE:
        return say(
            "The {n}-bit file is {times} times smaller than FP32, with a noticeable loss of quality: perplexity rises by {rise}.",
            times=times,
            rise=rise,
        )
    return say(
        "The {n}-bit file is {times} times smaller than FP32, but clearly worse: perplexity rises by {rise}.", times=times, rise=rise
    )


def _learned_and_forgot(report: Report, say: Words) -> list[str]:
    """What the 4-bit model does better or worse than the model from which the run started, in sentences."""
    origin = report["origin"]
    if origin is None or origin["name"] is None:
        return []
    found = []
    for number, row in enumerate(origin["texts"]):
        before, after = (part["bits_per_byte"] if part else None for part in (row["parent"], row["bq4"]))
        if before is None or after is None:
            continue
        values = {
            "after": f"{after:.3f}",
            "before": f"{before:.3f}",
            "parent": origin["name"],
            "change": percent_change(after / before - 1),
        }
        if number == 0:
            text = (
                say(
                    "The new model learned its text: {after} bits per byte against the {before} of {parent}, from which the run started.",
                    **values,
                )
                if after < before
                else say(
                    "The new model did not learn anything measurable from its text: {after} bits per byte against the {before} of "
                    "{parent}, from which the run started.",
                    **values,
                )
            )
        else:
            values["text"] = say.finished(row["text"])
            text = (
                say(
                    "On {text} it has {after} bits per byte against the {before} of {parent}, from which the run started ({change}): it "
                    "has forgotten some of it.",
                    **values,
                )
                if after > 1.01 * before
                else say(
                    "On {text} it has {after} bits per byte against the {before} of {parent}, from which the run started ({change}): it "
                    "has not forgotten it.",
                    **values,
                )
            )
        found.append(text)
    return found
