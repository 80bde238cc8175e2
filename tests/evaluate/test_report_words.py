"""Tests that every text of the report has a Marathi translation with the same names in braces."""

import ast
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import bulletlm.evaluate
from bulletlm.config.schema import Config
from bulletlm.data.augment.filters import RULES
from bulletlm.data.kinds import NOT_READ
from bulletlm.data.log import CHANGES, REJECTIONS
from bulletlm.evaluate import evaluate_run
from bulletlm.evaluate.marathi import MARATHI
from bulletlm.evaluate.page import render
from bulletlm.evaluate.verdict_figures import RATE_TEXTS
from bulletlm.evaluate.words import Words
from bulletlm.progress import SilentProgress

FOLDER = Path(bulletlm.evaluate.__file__).parent


def texts() -> set[str]:
    """The constant texts of all calls of `say` in the package, and those of tables."""
    found = set(RATE_TEXTS.values())
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("say", "self")
            if named and node.args and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
    return found


def test_every_text_has_a_translation() -> None:
    assert texts() - set(MARATHI) == set()
    assert set(MARATHI) - texts() == set(), "not used any more"


def test_the_names_in_braces_are_the_same() -> None:
    for english, marathi in MARATHI.items():
        assert sorted(set(re.findall(r"{\w+}", english))) == sorted(set(re.findall(r"{\w+}", marathi))), english


def test_words() -> None:
    say = Words("mr")
    assert say("at most {limit}", limit="3") == "जास्तीत जास्त 3" and say.language("en") == "इंग्रजी" and say.layer("layers.3") == "थर 3"
    assert say.count(1_400_000) == "1.4 दशलक्ष" and Words().count(1_400_000) == "1.4 million"
    assert Words()("at most {limit}", limit="3") == "at most 3" and Words().layer("token_embedding.weight") == "token_embedding.weight"


def test_texts_of_other_stages_have_a_translation() -> None:
    """Rules of cleaning and of augmentation, and why a file was not read, reach the page as finished English sentences."""
    say = Words("mr")
    reasons = {reason.partition(":")[0].partition(" (")[0] for reason in NOT_READ.values()}
    for text in {*CHANGES.values(), *REJECTIONS.values(), *RULES.values(), *reasons}:
        assert is_marathi(say.finished(text)), text
    assert say.finished("calibrate on 80,000 tokens") == "80,000 टोकनांवर कॅलिब्रेशन"
    assert say.finished("3 unreadable lines of metrics.jsonl") == "metrics.jsonl मधील 3 न वाचता येणाऱ्या ओळी"
    assert say.finished("no such text") == "no such text" and Words().finished("hidden") == "hidden"


def is_marathi(text: str) -> bool:
    return any("\u0900" <= letter <= "\u097f" for letter in text)


QUOTED = {"q", "pre", "code", "style", "title", "h1"}
QUOTED_CLASSES = {"prompt", "answer", "words", "pieces"}
EMPTY = ("meta", "path", "use", "rect")


class Texts(HTMLParser):
    """The texts of a page without what it quotes: prompts, answers, tokens, examples, commands and settings."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[bool] = []
        self.found: list[str] = []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        if name in EMPTY:
            return
        values = dict(attributes)
        self.open.append(name in QUOTED or bool(QUOTED_CLASSES & set((values.get("class") or "").split())))
        if label := values.get("aria-label"):
            self.found.append(label)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, name: str) -> None:
        if name not in EMPTY:
            self.open.pop()

    def handle_data(self, text: str) -> None:
        if not any(self.open):
            self.found.append(text.strip())


def test_no_english_sentence_is_left_on_the_marathi_page(run_folder: Path, tmp_path: Path) -> None:
    """Two English words in a row are a phrase that needs a translation, except names of settings and programs."""
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    settings = {"name": "micro", "sampling": {"max_tokens": 8}, "report": {"lang": "mr"}}
    report = evaluate_run(folder, Config.model_validate(settings), SilentProgress())
    report["missing"] = ["the statistics of the tokenizer (tokenizer/report.json is missing)", "1 unreadable line of metrics.jsonl"]
    worse, better = ({"loss": 2.0, "perplexity": 7.4, "bits_per_byte": bits} for bits in (1.5, 1.0))
    pairs = [("validation text", worse, better), ("text 1", better, worse), ("text 2", worse, better)]
    rows = [{"text": name, "tokens": 9, "parent": before, "fp32": after, "bq4": after} for name, before, after in pairs]
    report["origin"] = {"name": "old", "license": "CC0-1.0", "texts": rows, "gap": None, "missing": []}  # type: ignore[typeddict-item]
    report["private_messages"] = True
    english, texts = Texts(), Texts()
    english.feed(render({**report, "settings": {**report["settings"], "report": {**report["settings"]["report"], "lang": "en"}}}))
    texts.feed(render(report))
    two_words = re.compile(r"[a-z]{2,},? [a-z]{2,}")
    allowed = {"bullet evaluate", "top k", "top p", "min p", "repetition penalty", "max tokens"}
    left = [text for text in texts.found if set(two_words.findall(text)) - allowed]
    assert left == []
    assert len([text for text in english.found if two_words.search(text)]) > 60  # the same test finds English
