"""The notes about chosen settings, and the reasons beside them, in the language of the page.

They are finished English sentences of bulletlm.pipeline; the templates here have the same names in braces.
"""

import re
from functools import cache

from bulletlm.dashboard import show
from bulletlm.evaluate.words import Patterns, patterns

CHOICE: dict[str, str] = {
    # what would help
    "not read: {files}": "वाचले नाही: {files}",
    "other programs were busy: the measurement got {share} of the cores' time, so this is the choice for a slower machine; end them and "
    "choose again, or give more time": "इतर प्रोग्राम चालू होते: मोजणीला कोअरच्या वेळेपैकी {share} वेळच मिळाला, म्हणून ही निवड संथ संगणकासाठी आहे; "
    "ते प्रोग्राम बंद करून पुन्हा निवडा, किंवा जास्त वेळ द्या",
    "from so little text a model learns to spell, but not to answer: a megabyte of text or more is a better start": (
        "एवढ्या कमी मजकुरातून मॉडेल शब्द लिहायला शिकते, पण उत्तर द्यायला नाही: किमान एक मेगाबाइट मजकूर असणे चांगले"
    ),
    "the text is read {times} times at most, since more teaches little: more text gives a better model": (
        "मजकूर जास्तीत जास्त {times} वेळा वाचला जातो, कारण त्याहून जास्त वेळा वाचून फार काही शिकता येत नाही: मजकूर वाढवल्यास मॉडेल चांगले होते"
    ),
    # reasons for settings
    "held out to measure the model": "मॉडेल मोजण्यासाठी बाजूला ठेवलेला मजकूर",
    "for {characters} characters; a larger one would have tokens too rare to learn": (
        "{characters} अक्षरांसाठी; शब्दसंग्रह यापेक्षा मोठा असता तर काही टोकन शिकता येणार नाहीत इतकी दुर्मिळ झाली असती"
    ),
    "{parameters} parameters: {fit}": "{parameters} पॅरामीटर: {fit}",
    "more would have too little text to learn from": "यापेक्षा जास्त पॅरामीटरांना मजकूर कमी पडला असता",
    "the best for this time": "या वेळेत मिळणारे सर्वोत्तम मॉडेल",
    "the best with --max-mb={size}": "--max-mb={size} मध्ये बसणारे सर्वोत्तम मॉडेल",
    "{times} times over the text, about {duration} on this machine": "मजकुराची {times} आवर्तने, या संगणकावर साधारण {duration}",
    "small models need large learning rates": "लहान मॉडेल्सना मोठा लर्निंग रेट लागतो",
    "{count} validations": "{count} चाचण्या",
    "{size}; a larger share needs more time": "{size}; जास्त वाटा वाचायला जास्त वेळ लागेल",
    "share of general text, so that the model does not forget what it knows": ("सर्वसाधारण मजकुराचा वाटा, म्हणजे मॉडेल आधी शिकलेले विसरणार नाही"),
    "shape and vocabulary are those of the model to start from": "आकार आणि शब्दसंग्रह सुरुवातीच्या मॉडेलचेच राहतात",
    "ends the run when the validation loss stops falling": "चाचणी लॉस कमी होणे थांबले की प्रशिक्षण संपते",
    "what the time allows": "दिलेल्या वेळेत शक्य तेवढ्या",
    "your own value": "तुम्ही दिलेले मूल्य",
}
"""English template -> Marathi."""

UNITS = {"million": "दशलक्ष", "s": "सेकंद", "min": "मिनिटे", "h": "तास", "days": "दिवस"}

AMOUNT = re.compile(rf"([\d.,]+) ({'|'.join(UNITS)})")


def choice_text(english: str, language: str) -> str:
    """A note or a reason in a language of the pages. The page has no command line, so its flags are left out."""
    text = re.sub(r" \(--[\w-]+\)", "", english).replace("given on the command line", "your own value")
    return text if language == "en" else _marathi(text)


def _marathi(text: str) -> str:
    if amount := AMOUNT.fullmatch(text):
        return f"{amount[1]} {UNITS[amount[2]]}"
    for pattern, translation in _patterns():
        if found := pattern.fullmatch(text):
            values = {name: _files(value) if name == "files" else _marathi(value) for name, value in found.groupdict().items()}
            return translation.format(**values)
    return text


def _files(text: str) -> str:
    """The files of a note, "a.doc: REASON; b.png: REASON; and 3 more"."""
    parts = []
    for part in text.split("; "):
        name, colon, reason = part.rpartition(": ")
        more = re.fullmatch(r"and (\d+) more", part)
        parts.append(f"आणि आणखी {more[1]}" if more else name + colon + show.text(reason, "mr"))
    return "; ".join(parts)


@cache
def _patterns() -> Patterns:
    return patterns(CHOICE)
