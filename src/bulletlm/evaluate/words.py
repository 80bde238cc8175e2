"""The texts of the verdicts and of the page in English and Marathi. The English text is the key of its translation."""

from bulletlm.evaluate.formatting import count, language_name
from bulletlm.evaluate.marathi import MARATHI


class Words:
    """Gives texts in one language.

    Args:
        code: "en" or "mr".
    """

    def __init__(self, code: str = "en") -> None:
        self.code = code

    def __call__(self, text: str, **values: object) -> str:
        """`text`, a template with names in braces, in the language, with `values` in place of the names.

        Raises:
            KeyError: the text has no translation; tests/evaluate/test_words.py looks for all of them.
        """
        template = text if self.code == "en" else MARATHI[text]
        return template.format(**values) if values else template

    def language(self, code: str) -> str:
        """The name of a language."""
        return language_name(code, self.code)

    def count(self, value: int) -> str:
        """1.4 million."""
        text = count(value)
        return text if self.code == "en" else text.replace("million", "दशलक्ष").replace("billion", "अब्ज")

    def layer(self, name: str) -> str:
        """A layer ("layers.3") or a tensor by its name."""
        return self("layer {number}", number=name.split(".")[1]) if name.startswith("layers.") else name
