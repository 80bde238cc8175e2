"""Tests that every text of the report has a Marathi translation with the same names in braces."""

import ast
import re
from pathlib import Path

import bulletlm.evaluate
from bulletlm.evaluate.marathi import MARATHI
from bulletlm.evaluate.verdicts import _RATE_TEXTS
from bulletlm.evaluate.words import Words

FOLDER = Path(bulletlm.evaluate.__file__).parent


def texts() -> set[str]:
    """The constant texts of all calls of `say` in the package, and those of tables."""
    found = set(_RATE_TEXTS.values())
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
