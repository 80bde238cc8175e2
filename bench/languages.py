"""Measures how often the language of short texts in many languages is detected correctly: python bench/languages.py

The texts are the translated messages of Django (pip install django): 20 to 120 characters each, up to 150 in a language, without
placeholders and quotations. The table compares our detection with py3langid alone. Our detection uses py3langid only if the script and
the most common words do not decide.
"""

import argparse
import gettext
import importlib.util
import re
import time
from pathlib import Path

LANGUAGES = (
    "ar az bg ca cs cy da de el es et eu fa fi fr ga he hi hr hu hy id is it ja ka kk kn ko lt lv mk ml mn mr nb ne nl pl pt ro ru sk sl "
    "sq sr sv sw ta te th tr tt uk ur vi zh_Hans en"
).split()
MOST, LEAST = 150, 25
_NOT_TEXT = re.compile(r"%\(\w+\)[a-z]|%[a-z]|<[^>]+>|\{[^}]*\}|“[^”]*”|\"[^\"]*\"|«[^»]*»")


def messages(language: str) -> list[str]:
    """Return the texts in a language: its translations, or for English the originals."""
    found = importlib.util.find_spec("django")
    if found is None or not found.origin:
        raise SystemExit("Django is not installed: pip install django")
    texts: set[str] = set()
    for path in Path(found.origin).parent.glob(f"**/locale/{'de' if language == 'en' else language}/LC_MESSAGES/*.mo"):
        with open(path, "rb") as file:
            catalog = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        for original, translated in catalog.items():
            text = original if language == "en" else translated
            if isinstance(original, str) and isinstance(text, str) and (language == "en" or text != original):
                text = " ".join(_NOT_TEXT.sub(" ", text).split())
                if 20 <= len(text) <= 120 and sum(character.isalpha() for character in text) > 0.6 * len(text):
                    texts.add(text)
    return sorted(texts)[:: max(len(texts) // MOST, 1)][:MOST]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    import py3langid

    from bulletlm.data.language import detect

    ways = {"bulletlm": detect, "py3langid": lambda text: py3langid.classify(text)[0]}
    print("| language | texts |", " | ".join(ways), "|")
    print("|---|---:|" + "---:|" * len(ways))
    sums, seconds, count, total = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0), 0, 0
    for language in LANGUAGES:
        texts = messages(language)
        if len(texts) < LEAST:
            continue
        code = language.partition("_")[0]
        same = {code, "no"} if code == "nb" else {code}
        cells = []
        for name, way in ways.items():
            started = time.process_time()
            share = sum(way(text) in same for text in texts) / len(texts)
            seconds[name] += time.process_time() - started
            sums[name] += share
            cells.append(f"{share:.0%}")
        count, total = count + 1, total + len(texts)
        print(f"| {code} | {len(texts)} |", " | ".join(cells), "|", flush=True)
    print("| mean |", total, "|", " | ".join(f"{value / count:.1%}" for value in sums.values()), "|")
    print("| ms a text | |", " | ".join(f"{1000 * value / total:.2f}" for value in seconds.values()), "|")


if __name__ == "__main__":
    main()
