"""The texts of the verdicts and of the page in English and Marathi. The English text is the key of its translation."""

import re
from collections.abc import Mapping
from functools import cache

from bulletlm.evaluate.formatting import count, duration, language_name, size
from bulletlm.evaluate.marathi import MARATHI
from bulletlm.evaluate.marathi_stages import STAGES

Patterns = list[tuple[re.Pattern[str], str]]
"""Texts as patterns, whose groups are the names in the braces of a template, and their translations."""


class Words:
    """Gives texts in one language.

    Args:
        code: "en" or "mr".
        bits: of the weights of the model file, {n} in the texts.
    """

    def __init__(self, code: str = "en", bits: int = 4) -> None:
        self.code = code
        self.bits = bits

    def __call__(self, text: str, /, **values: object) -> str:
        """`text`, a template with names in braces, in the language, with `values` in place of the names, and the bits of the file as n.

        Raises:
            KeyError: the text has no translation; tests/evaluate/test_words.py looks for all of them.
        """
        template = text if self.code == "en" else MARATHI[text]
        return template.format(n=self.bits, **values) if values or "{n}" in template else template

    def finished(self, text: str) -> str:
        """The translation of an English text that another stage made; texts of others, such as of the system, stay as they are."""
        if self.code == "en":
            return text
        for pattern, translation in _patterns():
            if found := pattern.fullmatch(text):
                return translation.format(**found.groupdict())
        return text

    def language(self, code: str) -> str:
        """The name of a language."""
        return language_name(code, self.code)

    def count(self, value: int) -> str:
        """1.4 million."""
        text = count(value)
        return text if self.code == "en" else text.replace("million", "दशलक्ष").replace("billion", "अब्ज")

    def size(self, value: int) -> str:
        """1.4 MB."""
        text = size(value)
        return text if self.code == "en" else text.replace("bytes", "बाइट")

    def duration(self, seconds: float) -> str:
        """2 h 05 min."""
        text = duration(seconds)
        return text if self.code == "en" else text.replace(" h", " तास").replace(" min", " मिनिटे").replace(" s", " सेकंद")

    def layer(self, name: str) -> str:
        """A layer ("layers.3") or a tensor by its name."""
        return self("layer {number}", number=name.split(".")[1]) if name.startswith("layers.") else name


@cache
def _patterns() -> Patterns:
    return patterns(STAGES)


def patterns(templates: Mapping[str, str]) -> Patterns:
    """What a text looks like that was made from an English template, and the translation; templates with fewer names first."""
    found = []
    for english, translation in sorted(templates.items(), key=lambda item: item[0].count("{")):
        parts = re.split(r"(?<!{){(\w+)}(?!})", english)
        names = [f"(?P<{part}>.+)" if n % 2 else re.escape(part.replace("{{", "{").replace("}}", "}")) for n, part in enumerate(parts)]
        found.append((re.compile("".join(names), re.DOTALL), translation))
    return found
