"""The first screen of report.html (the two verdicts), and the sections about behaviour, facts and comparisons with the training text."""

from collections.abc import Iterator, Mapping

from bulletlm.evaluate.formatting import decimal, percent
from bulletlm.evaluate.markup import Html, html_table, join, tag
from bulletlm.evaluate.report_types import BehaviourValues, Figure, GreedyValues, IntervalValues, Rate, Report, Verdict, Verdicts
from bulletlm.evaluate.verdict_figures import show
from bulletlm.evaluate.words import Words

FACTS_SHOWN = 12
FITS_SHOWN = 12


def verdict_section(verdicts: Verdicts, say: Words) -> Html:
    """Both verdicts, each with the figures that decided it, causes and remedies."""
    questions = {say("The {n}-bit file"): verdicts["quantization"], say("The model"): verdicts["usefulness"]}
    strip = join(tag("p", join([f"{name}: ", tag("b", verdict["title"])]), cls=verdict["decision"]) for name, verdict in questions.items())
    return tag("div", strip, cls="strip") + tag(
        "div",
        _verdict(say("Is the {n}-bit file as good as FP32?"), verdicts["quantization"], _about_file(verdicts["quantization"], say), say)
        + _verdict(say("Is the model useful?"), verdicts["usefulness"], _about_model(verdicts["usefulness"], say), say),
        cls="verdicts",
    )


def _about_file(verdict: Verdict, say: Words) -> str:
    """What the verdict on the 4-bit file means, for people who do not know the terms of the figures."""
    texts = {
        "safe": say("The file model.bullet predicts text almost exactly as the trained model (FP32), of which it is a small copy."),
        "limited": say("The file model.bullet is a small copy of the trained model (FP32), and it may be a little worse."),
        "stop": say("The file model.bullet is a worse copy of the trained model (FP32). The trained model itself is not affected."),
    }
    return texts[verdict["decision"]]


_UNKNOWN_TEXT = ("contamination", "below_training")
_LANGUAGE_FAULTS = ("invented_words", "broken_letters")
_QUESTION_FAULTS = ("answer_fit", "question_use", "on_topic")
_FEW_GOOD = 0.66
"""Up to this `answer_fit`, at most about one answer in twenty was good for both readers (docs/evaluation.md)."""


def _about_model(verdict: Verdict, say: Words) -> str:
    """What the verdict on usefulness means, for people who do not know the terms of the figures."""
    figures = {figure["name"]: figure for figure in verdict["figures"]}
    if verdict["decision"] == "safe":
        return say("The model passed all checks. They do not find false claims, so read some answers before you give it to others.")
    if verdict["decision"] == "limited":
        return say("A check is not clearly passed. Read some answers on this page before you give the model to others.")
    broken = {figure["name"] for figure in verdict["figures"] if figure["status"] == "broken"}
    if broken & {*_UNKNOWN_TEXT}:
        return say("The model knows the text with which it was tested, so this page does not show how it does with new questions.")
    text = (
        say("The model often answers in another language than that of the question.")
        if "right_language" in broken
        else say("The model often repeats itself instead of answering.")
        if "loops" in broken
        else say("The model writes many words that do not exist.")
        if broken & {*_LANGUAGE_FAULTS}
        else _sentence(say("the model repeats its training text instead of answering"))
        if "copied" in broken
        else say("The model writes text, but its answers often have nothing to do with the question.")
        if broken & {*_QUESTION_FAULTS}
        else say("The model has not learned enough.")
    )
    fit = figures.get("answer_fit")
    if fit and fit["value"] is not None and fit["value"] <= _FEW_GOOD:
        text += " " + say(
            "The figure “{figure}” is {share}: in models with a figure this low, readers found at most about one answer in twenty good.",
            figure=fit["label"],
            share=_value(fit, fit["value"], say),
        )
    return text + " " + say("You can try it out and train it further, but do not rely on its answers.")


def _verdict(question: str, verdict: Verdict, meaning: str, say: Words) -> Html:
    figures = {figure["name"]: figure for figure in verdict["figures"]}
    deciding = join(_deciding(figures[name], say) for name in verdict["deciding"])
    parts = [tag("h2", question), tag("p", verdict["title"], cls="title"), tag("p", meaning), tag("dl", deciding, cls="deciding")]
    if verdict["causes"]:
        parts.append(tag("h3", say("Why")) + tag("ul", join(tag("li", _sentence(cause["text"])) for cause in verdict["causes"])))
    if verdict["remedies"]:
        items = [
            tag("li", join([_sentence(remedy["text"]), tag("small", f" {_cost(remedy['cost'], say)}"), _command(remedy["command"])]))
            for remedy in verdict["remedies"]
        ]
        parts.append(tag("h3", say("What to do, the cheapest first")) + tag("ol", join(items)))
        note = say("The commands are for the person who trained the model: RUN stands for the run folder, TEXT for your own text.")
        parts.append(tag("p", note, cls="note"))
    links = (("#figures", say("All figures and limits")), ("#answers", say("Answers")), ("#words", say("Glossary")))
    parts.append(tag("p", join(tag("a", title, href=place) for place, title in links), cls="more"))
    return tag("article", join(parts), cls=f"verdict {verdict['decision']}")


def figures_section(verdicts: Verdicts, say: Words) -> Html:
    """All figures of both verdicts with their limits."""
    head = [say("Figure"), say("value"), say("95 % interval"), say("limit"), say("result"), say("setting")]
    named = ((say("Is the {n}-bit file as good as FP32?"), verdicts["quantization"]), (say("Is the model useful?"), verdicts["usefulness"]))
    return join(tag("h3", title) + html_table(head, [_row(figure, say) for figure in verdict["figures"]]) for title, verdict in named)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _command(command: str | None) -> Html:
    return tag("pre", command) if command else Html()


def _cost(cost: str, say: Words) -> str:
    names = {
        "seconds": say("(a minute)"),
        "minutes": say("(some minutes)"),
        "training": say("(another training)"),
        "text": say("(more text, and another training)"),
    }
    return names[cost]


def _deciding(figure: Figure, say: Words) -> Html:
    low, high = figure["low"], figure["high"]
    facts = [_limit(figure, say)]
    if low is not None and high is not None and low != high:
        facts.insert(0, say("95 % interval {low} to {high}", low=_value(figure, low, say), high=_value(figure, high, say)))
    value = tag("b", _value(figure, figure["value"], say)) + tag("span", _status(figure, say), cls="status")
    return tag("div", tag("dt", figure["label"]) + tag("dd", value + tag("small", "; ".join(facts))), cls=figure["status"])


def _row(figure: Figure, say: Words) -> list[object]:
    low, high, value = figure["low"], figure["high"], figure["value"]
    interval = "–" if low is None or high is None or low == high else f"{_value(figure, low, say)} … {_value(figure, high, say)}"
    result = tag("span", _status(figure, say), cls=figure["status"])
    return [figure["label"], _value(figure, value, say), interval, _limit(figure, say), result, tag("code", figure["setting"])]


def _value(figure: Figure, value: float | None, say: Words) -> str:
    return "–" if value is None else show(value, figure["unit"], say)


def _limit(figure: Figure, say: Words) -> str:
    shown = show(figure["limit"], figure["unit"], say)
    return say("at least {limit}", limit=shown) if figure["better"] == "higher" else say("at most {limit}", limit=shown)


def _status(figure: Figure, say: Words) -> str:
    names = {
        "ok": say("within the limit"),
        "near": say("beyond the limit, perhaps by chance"),
        "broken": say("beyond the limit"),
        "unknown": say("not measured"),
    }
    return names[figure["status"]]


def behaviour_section(report: Report, say: Words) -> Html:
    """Rates of the checks of all answers, greedy answers, translations, facts."""
    behaviour = report["behaviour"]
    notes = [
        *_languages_not_judged(behaviour, say),
        *_greedy_answers(behaviour["greedy"], say),
        *_use_of_the_question(behaviour, say),
        *_longest_copy(behaviour, say),
        *_translations(behaviour, say),
    ]
    return join(
        [
            tag("p", say("Automatic checks of {prompts} answers of each version, with 95 % intervals.", prompts=behaviour["prompts"])),
            _rates_table(behaviour["rates"], say),
            *(tag("p", note, cls="note") for note in notes),
            _invented_by_language(behaviour, say),
            _fit(report, say),
            _facts(report, say),
        ]
    )


def _rates_table(rates: Mapping[str, Rate | None], say: Words) -> Html:
    lines = [
        ("right_language", say("in the right language"), 0),
        ("loops", say("repeat themselves"), 0),
        ("ended", say("ended by the model itself"), 0),
        ("fitting_length", say("of a fitting length"), 0),
        ("on_topic", say("have a word that belongs to the question"), 0),
        ("copied", say("copied from the training text"), 0),
        ("faults", say("with a fault (wrong language, loop or broken letters)"), 0),
        ("invented_words", say("invented words, of all words"), 1),
        ("broken_letters", say("broken letters, of all letters"), 2),
    ]
    rows = [[label, *_rate(rate, digits, say)] for name, label, digits in lines if (rate := rates[name])]
    return html_table([say("Answers"), "FP32", say("{n}-bit"), say("change"), say("text of people")], rows)


# Each of the next functions gives a note below the table of rates, or none if there is nothing to say.


def _languages_not_judged(behaviour: BehaviourValues, say: Words) -> Iterator[str]:
    if behaviour["not_judged"]:
        names = ", ".join(say.language(code) for code in behaviour["not_judged"])
        yield say("Prompts in {languages} are not judged, because the training text has no such language.", languages=names)


def _greedy_answers(greedy: GreedyValues, say: Words) -> Iterator[str]:
    if greedy["identical_tokens"] is None:
        return
    text = say(
        "Without sampling, {same} of {answers} answers are equal, and {tokens} of the tokens.",
        same=greedy["identical_answers"],
        answers=greedy["answers"],
        tokens=percent(greedy["identical_tokens"], 0),
    )
    if greedy["first_divergence"] is not None:
        text += " " + say("Where they differ, it begins at token {place} (median).", place=f"{greedy['first_divergence']:g}")
    yield text


def _use_of_the_question(behaviour: BehaviourValues, say: Words) -> Iterator[str]:
    if use := behaviour["question_use"]:
        yield say(
            "Of two questions, the model finds the right one for a person's answer: FP32 {a}, {n}-bit {b} (chance: 50 %).",
            a=percent(use["fp32"]["value"], 0),
            b=percent(use["bq4"]["value"], 0),
        )


def _longest_copy(behaviour: BehaviourValues, say: Words) -> Iterator[str]:
    if copy := behaviour["longest_copy"]:
        yield say("Longest passage from the training text: FP32 {a} words, {n}-bit {b} words.", a=copy["fp32"], b=copy["bq4"])


def _translations(behaviour: BehaviourValues, say: Words) -> Iterator[str]:
    if translation := behaviour["translation"]:
        yield say(
            "chrF of {count} translations: FP32 {a}, {n}-bit {b} (0 to 100; good translations have 50 and more).",
            count=translation["references"],
            a=f"{translation['fp32']:.1f}",
            b=f"{translation['bq4']:.1f}",
        )


def _invented_by_language(behaviour: BehaviourValues, say: Words) -> Html:
    invented = behaviour["invented_by_language"]
    if not invented:
        return Html()
    table = [[say.language(code), *(_share(row[key], 1) for key in ("fp32", "bq4", "human"))] for code, row in invented.items()]
    head = [say("Language"), "FP32", say("{n}-bit"), say("text of people")]
    return tag("h3", say("Invented words by language")) + html_table(head, table)


def _rate(rate: Rate, digits: int, say: Words) -> list[object]:
    return [_interval(rate["fp32"], digits), _interval(rate["bq4"], digits), _change(rate["change"], say), _share(rate["human"], digits)]


def _interval(value: IntervalValues, digits: int) -> Html:
    spread = "" if value["low"] is None or value["high"] is None else f" {100 * value['low']:.{digits}f}–{100 * value['high']:.{digits}f}"
    return tag("span", percent(value["value"], digits)) + tag("small", spread)


def _change(change: IntervalValues, say: Words) -> str:
    if change["low"] is None or change["high"] is None:
        return show(change["value"], "points", say)
    inside = change["low"] <= 0 <= change["high"]
    return say("inside the noise") if inside else show(change["value"], "points", say)


def _share(value: float | None, digits: int) -> str:
    return "–" if value is None else percent(value, digits)


def _fit(report: Report, say: Words) -> Html:
    fit = report["behaviour"]["answer_fit"]
    if fit is None:
        return Html()
    rate = fit["rate"]
    text = say(
        "Both versions answered {count} questions on which they were not trained. Their answers are closer to a person's answer to the "
        "same question than to one to another question in this share of the comparisons: FP32 {a}, {n}-bit {b}. Answers that do not depend "
        "on the question have 50 %; the answers of people to these questions have 100 %.",
        count=fit["questions"],
        a=_with_interval(rate["fp32"]),
        b=_with_interval(rate["bq4"]),
    )
    parts = [tag("h3", say("Answers to new questions")), tag("p", text)]
    if fit["rows"]:
        shown = fit["rows"][:: max(1, len(fit["rows"]) // FITS_SHOWN)][:FITS_SHOWN]
        rows = [
            [row["question"], row["expected"], _fitting(row["fp32"], row["fp32_fit"]), _fitting(row["bq4"], row["bq4_fit"])]
            for row in shown
        ]
        table = html_table([say("Question"), say("a person"), "FP32", say("{n}-bit")], rows)
        summary = say("{count} of them, without selection", count=len(rows))
        parts.append(tag("details", tag("summary", summary) + tag("div", table, cls="words")))
    return join(parts)


def _with_interval(value: IntervalValues) -> str:
    if value["low"] is None or value["high"] is None:
        return percent(value["value"], 0)
    return f"{percent(value['value'], 0)} ({100 * value['low']:.0f}–{100 * value['high']:.0f})"


def _fitting(text: str, fit: float) -> Html:
    return tag("span", text.strip()) + tag("small", f" {percent(fit, 0)}")


def _facts(report: Report, say: Words) -> Html:
    facts = report["behaviour"]["facts"]
    if facts is None:
        return Html()
    wrong = facts["wrong"]
    text = say(
        "Both versions were asked for {asked} facts. Wrong answers: FP32 {a}, {n}-bit {b}.",
        asked=facts["asked"],
        a=percent(wrong["fp32"]["value"], 0),
        b=percent(wrong["bq4"]["value"], 0),
    )
    text += " " + (
        say("The {n}-bit model is wrong more often than chance explains: use QAT or another calibration.")
        if facts["significant"]
        else say("The difference is inside the noise.")
    )
    if not facts["rows"]:
        return tag("h3", say("Facts of the training text")) + tag("p", text)
    rows = [
        [row["question"], row["expected"], _answer(row["fp32"], row["fp32_right"]), _answer(row["bq4"], row["bq4_right"])]
        for row in facts["rows"][:FACTS_SHOWN]
    ]
    table = html_table([say("Question"), say("expected"), "FP32", say("{n}-bit")], rows)
    more = tag("details", tag("summary", say("The first {count} of them", count=len(rows))) + tag("div", table, cls="words"))
    return tag("h3", say("Facts of the training text")) + tag("p", text) + more


def _answer(text: str, right: bool) -> Html:
    return tag("span", ("✓ " if right else "✗ ") + text.strip(), cls="ok" if right else "broken")


def checks_section(report: Report, say: Words) -> Html:
    """The 5-gram baseline, contamination, and the training loss."""
    checks = report["data_checks"]
    rows: list[list[object]] = []
    if ngram := checks["ngram"]:
        rows += [
            [say("bits per byte of the {n}-bit model"), decimal(report["bq4"]["bits_per_byte"] or 0)],
            [
                say("bits per byte of a 5-gram model of the same text ({tokens} tokens)", tokens=say.count(ngram["tokens"])),
                decimal(ngram["bits_per_byte"]),
            ],
        ]
    if sample := checks["training_sample"]:
        rows += [
            [say("validation loss of FP32, nats per token"), decimal(report["fp32"]["loss"])],
            [say("training loss of FP32, on {tokens} tokens", tokens=f"{sample['tokens']:,}"), decimal(sample["loss"])],
        ]
    if contamination := checks["contamination"]:
        label = say("validation text in sequences of {length} tokens that the training text has, too", length=contamination["sequence"])
        if "phrases" in contamination:
            rows.append([say("validation text in passages that the training text repeats"), percent(contamination["share"])])
            label = say("{label}; also names and set phrases, which are no copies", label=label)
        rows.append([label, percent(contamination.get("phrases", contamination["share"]))])
    return html_table([say("Comparison"), ""], rows) if rows else Html()
