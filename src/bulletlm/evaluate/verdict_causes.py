"""Why a report is worse than its limits allow, and what helps: probable causes, and remedies with exact commands."""

import json
import shlex
from typing import Any

from bulletlm.config.schema import LimitsConfig
from bulletlm.data.sources import is_embedded
from bulletlm.evaluate.formatting import NO_LANGUAGE, percent
from bulletlm.evaluate.report_types import Cause, Cost, Figure, Remedy, Report
from bulletlm.evaluate.verdict_figures import below_training, is_coarse, parent_name, show, some_names
from bulletlm.evaluate.words import Words

RUN, TEXT, MORE_TEXT = "RUN", "TEXT", "MORE-TEXT"
"""They stand for the run folder, the sources and text to add in the commands of a report, because a report names no folders."""

TOKENS_PER_PARAMETER = 20
"""Training tokens per parameter that a model of this kind can use (Hoffmann et al. 2022); below a quarter of it, text is short."""

MANY_EPOCHS = 16
"""More passes over the same text teach little (Muennighoff et al. 2023)."""

FEW_EPOCHS = 4
"""Up to this number of passes, repeated text teaches nearly as much as new text (Muennighoff et al. 2023)."""

STILL_FALLING = 0.01
"""Relative improvement of the validation loss in the last fifth of the training above which the training was too short."""

OVERFIT = 0.02
"""Rise of the validation loss after its lowest value, in nats per token."""

GAP = 0.5
"""Validation loss minus training loss above which a model has learned its text by heart, in nats per token."""


_REBUILD = f"bullet evaluate {RUN}"
"""The command that builds and evaluates the model file again."""


class Findings:
    """Probable causes, the most certain one first, and remedies."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []
        self.remedies: list[Remedy] = []

    def cause(self, name: str, text: str) -> None:
        """Add a cause."""
        self.causes.append({"name": name, "text": text})

    def remedy(self, name: str, text: str, command: str, cost: Cost) -> None:
        """Add a remedy, with the name of the cause that it removes."""
        self.remedies.append({"name": name, "text": text, "command": command, "cost": cost})


def quantization_causes(report: Report, limits: LimitsConfig, figures: list[Figure], say: Words) -> Findings:
    """Why quantization changed the model more than the limits allow, and what helps."""
    found = Findings()
    _damage(report, limits, found, say)
    if found.causes:
        found.remedy(found.causes[0]["name"], say("build the model file again from the FP32 weights"), _REBUILD, "minutes")
    elif report["settings"]["quant"]["weights"] != "BQ4":
        found.remedy("rebuild", say("build the model file again from the FP32 weights"), _REBUILD, "minutes")
    else:
        _calibration(report, figures, found, say)
        _sensitive_tensors(report, found, say)
        steps = max(200, 2 * int(((report["quantised"] or {}).get("qat") or {}).get("steps") or 0))
        text = say("train the 4-bit weights (QAT) for {steps} steps", steps=steps)
        found.remedy("qat", text, f"bullet qat {RUN} --steps={steps}", "training")
    return found


def _damage(report: Report, limits: LimitsConfig, found: Findings, say: Words) -> None:
    """Weights that are not those of FP32, as a faulty conversion leaves them."""
    scaled = [row for row in report["tensors"] if row["scale"] is not None and row["type"] in ("BQ4", "BQ8")]
    for layer, rows in _by_layer(scaled).items():
        factor = sum(row["scale"] or 1 for row in rows) / len(rows)
        text = say(
            "the weights of {where} ({names}) are {factor} times those of FP32: their scales are wrong",
            where=say.layer(layer),
            names=some_names([row["name"] for row in rows], 2),
            factor=f"{factor:.1f}",
        )
        found.cause("wrong_scales", text)
    for row in report["tensors"]:
        for i, j in row["exchanged"]:
            text = say("rows {i} and {j} of {tensor} are exchanged{tokens}", i=i, j=j, tensor=row["name"], tokens=_tokens(row, i, j))
            found.cause("exchanged_rows", text)
        if row["far_rows"] and not row["exchanged"] and row["scale"] is None and row["relative_rmse"] <= limits.weight_error:
            rows_named = ", ".join(map(str, row["first_far"]))
            found.cause("wrong_rows", say("rows {rows} of {tensor} are not those of FP32", rows=rows_named, tensor=row["name"]))
    names = {row["name"] for row in scaled}
    coarse = [
        row for row in report["tensors"] if row["type"] in ("BQ4", "BQ8") and is_coarse(row, report, limits) and row["name"] not in names
    ]
    if coarse:
        mean = sum(row["relative_rmse"] for row in coarse) / len(coarse)
        text = say(
            "rounding changed {count} of the matrices more coarsely than 4 bits need (error {error}, 4 bits give about 10 %): {names}",
            count=len(coarse),
            error=percent(mean, 0),
            names=some_names([row["name"] for row in sorted(coarse, key=lambda row: -row["relative_rmse"])]),
        )
        found.cause("coarse_rounding", text)


def _calibration(report: Report, figures: list[Figure], found: Findings, say: Words) -> None:
    """What another calibration of 4-bit weights explains and improves."""
    quant, trained_on_grid = report["settings"]["quant"], report["settings"]["qat"]["start"] is not None
    if not quant["auto_fix"] and not trained_on_grid:
        found.remedy("auto_fix", say("let the builder try the steps below in turn"), f"{_REBUILD} --quant.auto-fix=true", "minutes")
    if quant["calibration"] == "none" and not trained_on_grid:
        found.cause("no_calibration", say("the weights were rounded to the nearest value, without calibration"))
        found.remedy("no_calibration", say("calibrate the 4-bit weights on your text"), f"{_REBUILD} --calibration=gptq", "minutes")
    elif any(figure["name"] == "language_change" and figure["status"] == "broken" for figure in figures):
        found.cause("calibration_text", say("one language loses more than the others: the calibration text has too little of it"))
    more = 4 * int(quant["calibration_tokens"])
    found.remedy("calibration", say("calibrate on more text"), f"{_REBUILD} --calibration-tokens={more}", "minutes")


def _sensitive_tensors(report: Report, found: Findings, say: Words) -> None:
    """The matrices that carry the most of the error, which 8 bits would keep."""
    worst = sorted((row for row in report["tensors"] if row["kl"] and row["type"] == "BQ4"), key=lambda row: -(row["kl"] or 0))
    if not worst:
        return
    total = sum(row["kl"] or 0 for row in worst)
    first = worst[: max(1, len(worst) // 10)]
    share = sum(row["kl"] or 0 for row in first) / total
    names = some_names([row["name"] for row in first])
    found.cause("tensors", say("{names} carry {share} of the error", names=names, share=percent(share, 0)))
    rules = [*report["settings"]["quant"]["keep"], *(f"{row['name']}=BQ8" for row in first)]
    command = f"{_REBUILD} {shlex.quote('--quant.keep=' + json.dumps(rules))}"
    found.remedy("tensors", say("store {names} with 8 bits", names=names), command, "minutes")


def _by_layer(rows: list[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        layer = ".".join(row["name"].split(".")[:2]) if row["name"].startswith("layers.") else row["name"]
        found.setdefault(layer, []).append(row)
    return found


def _tokens(row: Any, i: int, j: int) -> str:
    """The texts of two rows of the embedding, if they are known."""
    pieces = row.get("far_pieces") or {}
    return f" ({pieces[str(i)]!r}, {pieces[str(j)]!r})" if str(i) in pieces and str(j) in pieces else ""


def usefulness_causes(report: Report, figures: list[Figure], say: Words) -> Findings:
    """Why the model answers worse than the limits allow, and what helps."""
    bad = {figure["name"] for figure in figures if figure["status"] in ("near", "broken")}
    found = Findings()
    _seen_validation(report, bad, found, say)
    _poor_answers(report, bad, found, say)
    if "right_language" in bad:
        _wrong_languages(report, found, say)
    _sampling(report, bad, found, say)
    if bad - {"contamination", "below_training"}:
        _learning_curve(report, found, say)
        _amount_of_training(report, found, say)
    training = report["training"]
    if bad and training is not None and training["best_step"] is not None and any(c["name"] == "overfitting" for c in found.causes):
        text = say("compare the kept checkpoints: another one may answer better")
        found.remedy("checkpoints", text, f"{_REBUILD} --checkpoints", "minutes")
    if bad and not found.remedies:
        found.remedy("text", say("add more text"), _with_text(report), "text")
    return found


def _seen_validation(report: Report, bad: set[str], found: Findings, say: Words) -> None:
    """Validation text that the model, or the one from which it started, was trained on."""
    restart = shlex.join(["bullet", "run", f"{RUN}/config.json", "--restart"])
    contamination = report["data_checks"]["contamination"]
    if "contamination" in bad and contamination:
        found.cause("contamination", say("validation text stands in the training text, so the loss says nothing about new text"))
        if contamination.get("removable", contamination["share"]) > 0:
            text = say("prepare the text and train again, so that the validation text is left out")
            found.remedy("contamination", text, restart, "training")
        else:  # excerpts: the data stage removed what it takes for a copy, and would leave the same text again
            text = say("remove one of the texts that quote each other from your sources, and train again")
            found.remedy("contamination", text, _with_sources(report, "no-quotes", _own_sources(report)), "text")
    if "below_training" not in bad:
        return
    if below_training(report)[1]:
        text = say(
            "{parent}, from which the run started, predicts the validation text better than the training text: it was probably "
            "trained on it",
            parent=parent_name(report),
        )
        found.cause("parent_trained_on_validation", text)
        text = say("start from a model that has not seen the validation text, or from random weights")
        command = shlex.join([*_run_again(report, "from-none"), "--model.start-from=none"])
        found.remedy("parent_trained_on_validation", text, command, "training")
    else:
        text = say("the model predicts the validation text better than its training text: it was probably trained on it")
        found.cause("trained_on_validation", text)
        found.remedy("trained_on_validation", say("train again without the validation text"), restart, "training")


def _poor_answers(report: Report, bad: set[str], found: Findings, say: Words) -> None:
    """Answers that do not belong to their question, or repeat the training text."""
    if bad & {"answer_fit", "question_use"}:
        text = say("the answers are often not about their question: many would serve another question as well")
        found.cause("answers_do_not_fit", text)
    if "copied" in bad:
        found.cause("repeats_training_text", say("the model repeats its training text instead of answering"))
        found.remedy("repeats_training_text", say("add more varied text"), _with_text(report), "text")


def _wrong_languages(report: Report, found: Findings, say: Words) -> None:
    """The languages in which the model answers instead of the right ones."""
    wrong = report["behaviour"]["wrong_languages"]
    others = {code: sum(number for got, number in answered.items() if got != NO_LANGUAGE) for code, answered in wrong.items()}
    for expected, answered in sorted(wrong.items(), key=lambda item: -others[item[0]]):  # the one to which the remedy belongs first
        total = sum(row["language"] == expected for row in report["generations"]["rows"])
        for got, number in sorted(answered.items(), key=lambda item: -item[1])[:1]:
            if got == NO_LANGUAGE:
                text = say(
                    "{number} of {total} answers that should be in {expected} have no words",
                    number=number,
                    total=total,
                    expected=say.language(expected),
                )
            else:
                text = say(
                    "{number} of {total} answers that should be in {expected} are in {got}",
                    number=number,
                    total=total,
                    expected=say.language(expected),
                    got=say.language(got),
                )
            found.cause("wrong_language", text)
    if any(others.values()):
        _language_remedies(report, max(others, key=lambda code: others[code]), found, say)


def _language_remedies(report: Report, code: str, found: Findings, say: Words) -> None:
    """More of a language in the training."""
    name = say.language(code)
    text = report["tokens"]["train"]["by_language"]
    share = text[code]["bytes"] / max(1, report["tokens"]["train"]["bytes"]) if code in text else 0.0
    if 0 < share < 0.6:
        rule = "--data.mix.languages=" + json.dumps({code: min(0.8, round(share + 0.25, 2))})
        command = shlex.join([*_run_again(report, f"more-{code}"), rule])
        found.remedy("language_share", say("give {language} a larger share of the training", language=name), command, "training")
    found.remedy("wrong_language", say("add conversations in {language}", language=name), _with_text(report), "text")


def _sampling(report: Report, bad: set[str], found: Findings, say: Words) -> None:
    """What other sampling settings improve."""
    sampling = report["settings"]["sampling"]
    penalty = float(sampling["repetition_penalty"])
    if "loops" in bad and penalty < 1.3:
        found.cause("repetition_penalty", say("the repetition penalty is low ({penalty})", penalty=f"{penalty:g}"))
        command = f"{_REBUILD} --repetition-penalty={min(1.5, penalty + 0.2):.2g}"
        found.remedy("repetition_penalty", say("raise the repetition penalty"), command, "seconds")
    if bad & {"invented_words", "broken_letters"} and float(sampling["temperature"]) > 0.5:
        found.remedy("temperature", say("answer with a lower temperature"), f"{_REBUILD} --temperature=0.4", "seconds")


def _learning_curve(report: Report, found: Findings, say: Words) -> None:
    """What the losses explain: a training that did not improve its start model, learned its text by heart, or was too short."""
    training, epochs = report["training"], _epochs(report)
    if training is not None and training["best_step"] == 0 and not report["model"].get("step"):
        found.cause("no_better_step", say("no step of the training was better than the model from which it started, so that one was kept"))
        rate = report["settings"]["train"]["learning_rate"] / 4
        command = shlex.join([*_run_again(report, "lower-rate"), f"--train.learning-rate={rate:g}"])
        found.remedy("no_better_step", say("train with a quarter of the learning rate"), command, "training")
        return
    sample = report["data_checks"]["training_sample"]
    gap = sample["gap"] if sample else None
    rose = (
        training is not None and training["best_step"] is not None and (training["last_val_loss"] or 0) > report["fp32"]["loss"] + OVERFIT
    )
    by_heart = training is None or _passes(report, epochs) > FEW_EPOCHS
    if rose or (by_heart and gap is not None and gap["value"] > GAP and (gap["low"] or 0) > GAP / 2):
        if gap is not None and gap["value"] > OVERFIT:
            text = say(
                "the validation loss is {gap} above the training loss: the model learned its text by heart",
                gap=show(gap["value"], "nats", say),
            )
        else:
            text = say(
                "the validation loss rose again after step {step}: the model learned its text by heart",
                step=training["best_step"] if training else 0,
            )
        found.cause("overfitting", text)
    elif training is not None and (fall := still_falling(training["curves"])) > STILL_FALLING and epochs < MANY_EPOCHS:
        text = say("the validation loss still fell by {fall} in the last fifth of the training", fall=percent(fall))
        found.cause("too_few_steps", text)
        found.remedy("too_few_steps", say("train twice as long"), _train_longer(report, training["steps"], epochs), "training")


def _amount_of_training(report: Report, found: Findings, say: Words) -> None:
    """What the amount of text and the passes over it explain."""
    training, tokens = report["training"], report["tokens"]["train"]
    parameters, epochs = report["model"]["parameters"], _epochs(report)
    wanted = TOKENS_PER_PARAMETER * parameters
    if epochs > MANY_EPOCHS:
        text = say("the text was read {epochs} times; more than {most} times teach little", epochs=f"{epochs:.0f}", most=MANY_EPOCHS)
        found.cause("too_many_epochs", text)
        command = shlex.join([*_run_again(report, "8-epochs"), "--epochs=8", *_no_steps(report["settings"])])
        found.remedy("too_many_epochs", say("read the text less often"), command, "training")
    if tokens["tokens"] < wanted / 4:
        text = say(
            "{tokens} tokens of text are little for {parameters} parameters, which can use {wanted}",
            tokens=say.count(tokens["tokens"]),
            parameters=say.count(parameters),
            wanted=say.count(wanted),
        )
        found.cause("too_little_data", text)
        found.remedy("too_little_data", say("add more text"), _with_text(report), "text")
    if training is not None and training["tokens"] < wanted / 4 and epochs < FEW_EPOCHS:
        text = say(
            "{tokens} training tokens are little for {parameters} parameters",
            tokens=say.count(training["tokens"]),
            parameters=say.count(parameters),
        )
        found.cause("too_little_training", text)
        found.remedy("too_little_training", say("train twice as long"), _train_longer(report, training["steps"], epochs), "training")


def _epochs(report: Report) -> float:
    """Training tokens as a multiple of the tokens of the text; 0 if the training is unknown."""
    training = report["training"]
    return training["tokens"] / max(1, report["tokens"]["train"]["tokens"]) if training else 0.0


def _passes(report: Report, epochs: float) -> float:
    """How often a token of the training text was read on average. The mixture repeats sources with a high weight."""
    rows = (report["data"] or {}).get("mixture") or []
    tokens = sum(row["stream_tokens"] for row in rows)
    repeats = sum(row["stream_tokens"] * row["times"] for row in rows) / tokens if tokens else 1.0
    return epochs * max(1.0, repeats)


def still_falling(curves: dict[str, list[list[float]]]) -> float:
    """Relative fall of the validation loss in the last fifth of the training; 0 if there are too few evaluations."""
    points = curves.get("val/loss_ema") or curves.get("val/loss") or []
    if len(points) < 3:
        return 0.0
    last_step, last = points[-1]
    before = [value for step, value in points[:-1] if step <= 0.8 * last_step]
    return (before[-1] - last) / before[-1] if before and before[-1] > 0 else 0.0


def _run_again(report: Report, suffix: str) -> list[str]:
    """The command that trains again under another name, so that the old model stays; each remedy has a name of its own."""
    return ["bullet", "run", f"{RUN}/config.json", f"--name={report['settings']['name']}-{suffix}"]


def _train_longer(report: Report, steps: int, epochs: float) -> str:
    """The command that trains twice as long."""
    return shlex.join([*_run_again(report, "longer"), _twice(report["settings"], steps, epochs)])


def _twice(settings: dict[str, Any], steps: int, epochs: float) -> str:
    return f"--total-steps={2 * steps}" if settings["train"]["total_steps"] is not None else f"--epochs={max(1, round(2 * epochs))}"


def _no_steps(settings: dict[str, Any]) -> list[str]:
    return ["--total-steps=null"] if settings["train"]["total_steps"] is not None else []


def _with_text(report: Report) -> str:
    """The command that trains on more text: the simple conversations of the package if the run lacks them, else the user's own."""
    own = _own_sources(report)
    # Never "sample" on top of "simple": its rich text made the answers of small models worse.
    lacking = "simple" not in own and not report["settings"]["data"]["mix"]["general"]  # data.mix.general adds it
    extra = "simple" if lacking and set(report["model"]["languages"]) & {"mr", "en"} else MORE_TEXT
    return _with_sources(report, "more-text", [*own, extra])


def _own_sources(report: Report) -> list[str]:
    """The sources of the run, of which a report names only those of the package."""
    paths = [source["path"] for source in report["settings"]["data"]["sources"]]
    return list(dict.fromkeys(path if is_embedded(path) else TEXT for path in paths))


def _with_sources(report: Report, suffix: str, sources: list[str]) -> str:
    return shlex.join([*_run_again(report, suffix), f"--data.sources={json.dumps(sources, ensure_ascii=False)}"])
