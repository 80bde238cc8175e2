"""Which language a text is in: its script first, then its commonest little words.

Texts here are in few languages that share little, so that counting is right more often than a library for all languages
(`python bench/data.py --languages`), and needs no model.
"""

import re
from collections.abc import Sequence

CHARACTERS_LOOKED_AT = 1_000
"""Characters from the beginning of a text that decide."""

_SCRIPTS = {
    "deva": "\u0900-\u097f",
    "latn": "A-Za-z\u00c0-\u024f",
    "bn": "\u0980-\u09ff",
    "pa": "\u0a00-\u0a7f",
    "gu": "\u0a80-\u0aff",
    "or": "\u0b00-\u0b7f",
    "ta": "\u0b80-\u0bff",
    "te": "\u0c00-\u0c7f",
    "kn": "\u0c80-\u0cff",
    "ml": "\u0d00-\u0d7f",
    "ar": "\u0600-\u06ff",
    "ru": "\u0400-\u04ff",
    "el": "\u0370-\u03ff",
    "he": "\u0590-\u05ff",
    "zh": "\u4e00-\u9fff\u3040-\u30ff",
    "ko": "\uac00-\ud7af",
}
_SCRIPT_OF = dict.fromkeys(("mr", "hi", "ne", "sa", "kok", "gom", "mai", "bho"), "deva") | dict.fromkeys(
    ("en", "de", "fr", "es", "it", "pt", "nl", "id", "sw", "tr", "vi", "pl"), "latn"
)
_ONE_SCRIPT = {name: re.compile(f"[{letters}]+") for name, letters in _SCRIPTS.items()}
_OTHERS = {name: letters for name, letters in _SCRIPTS.items() if name not in ("deva", "latn")}
_ANY_OTHER_SCRIPT = re.compile("[" + "".join(_OTHERS.values()) + "]")
_PUNCTUATION = ".,;:!?'\"()[]“”‘’-–—।॥"

_MARATHI = """
    आहे आहेत आणि नाही नाहीत हे ते ही ती हा या त्या तो मी आम्ही तू तुम्ही होते होता होती काय पण तर किंवा म्हणून म्हणजे झाले झाला
    झाली केले केला केली असे असा अशी आपण आपल्या त्यांनी त्याने तिने मला तुला त्याला कसे कसा कशी कुठे जर मग येथे तेथे इथे तिथे आता
    सर्व खूप फार हो नको नका करणे करून व असून येत जात अशा कसं असं नव्हते नव्हता नव्हती जे जो जी त्यामुळे कारण माझे माझा माझी करा
"""
_HINDI = """
    है हैं के में से और को नहीं यह वह था थी थे कि भी पर लिए मैं हम तुम क्या वे इस उस अपने अपनी करने किया गया गई रही रहे साथ बाद
    हुआ हुई होती कुछ सकता सकते दिया मेरा हूँ हूं इसके उनके यहाँ वहाँ अब कहा मुझे तुम्हें आपको चाहिए करना वाले
"""
"""Left out: what is a word in both languages (एक, का, की, तो, जो, हो, ये, कर, ने)."""

_ENGLISH = """
    the of to and a in is it that was he for on are as with his they at be this have from i you not but had were she her or an my we all
    which do so if will me your what there no by would been one their can him us them has when who more out up
"""

_MARATHI_WORDS, _HINDI_WORDS = frozenset(_MARATHI.split()), frozenset(_HINDI.split())
ENGLISH_WORDS = frozenset(_ENGLISH.split())
_ALSO_COMMON = """
    एक की का ना न वर मध्ये तसेच काही यांनी यांना यांच्या येथील करू करण्यासाठी करण्यात करण्यास करणेबाबत करण्याबाबत देण्याबाबत देणेबाबत
    रोजी सदर सन अंतर्गत च्या तुमच्या तुम्हाला प्रत्येक होय नाहीं तें हें जें तरी आतां कां परी ऐसें ऐसा तैसा जैसा मज तुज तूं म्हणे ह्मणे रे
"""
"""Of offices, of courses and of the saints' literature; some are Hindi too, so that they say nothing about the language."""

COMMON_WORDS = _MARATHI_WORDS | _HINDI_WORDS | ENGLISH_WORDS | frozenset(_ALSO_COMMON.split())
"""Words that text of some length has in any case, in lower case."""

_HINDI_SHARE = 0.2
"""A single Hindi word in a longer sentence is a name ("स्वनिधी से समृद्धी" योजना)."""

_MARATHI_SIGNS = re.compile("ळ|ऱ|ॲ|\u0930\u094d\u200d|(?:च्या|साठी|मध्ये|तील|ांना|ण्याची|ण्यात|वून|ायचं|तोय|लेली|णार)(?![\u0900-\u0963])")
"""Letters and endings that Hindi does not have."""


def detect(text: str) -> str:
    """Language code of `text`: "mr", "hi", "en" by words; other scripts by their main language; "und" without letters.

    Text in Latin letters counts as English, and Devanagari as Marathi unless its words are Hindi.
    """
    text = text[:CHARACTERS_LOOKED_AT]
    devanagari, latin = _letters(text, "deva"), _letters(text, "latn")
    if not text.isascii() and _ANY_OTHER_SCRIPT.search(text):
        others = {name: _letters(text, name) for name in _OTHERS}
        best = max(others, key=lambda name: others[name])
        if others[best] > devanagari + latin:
            return best
    if devanagari + latin == 0:
        return "und"
    # A Devanagari sentence full of Latin product names is still Marathi.
    if devanagari < 0.4 * (devanagari + latin):
        return "en"
    words = [word.strip(_PUNCTUATION) for word in text.split()]
    marathi = sum(word in _MARATHI_WORDS for word in words) + len(_MARATHI_SIGNS.findall(text))
    hindi = sum(word in _HINDI_WORDS for word in words)
    return "hi" if hindi > marathi and (hindi > 1 or hindi >= _HINDI_SHARE * len(words)) else "mr"


def is_in_other_script(text: str, languages: Sequence[str]) -> bool:
    """Whether most letters of `text` are of a script in which none of `languages` is written.

    A code without a known script allows every script.
    """
    allowed = {_SCRIPT_OF.get(language, language) for language in languages}
    if not allowed <= _ONE_SCRIPT.keys():
        return False
    both = "deva" in allowed and "latn" in allowed
    if both and (text.isascii() or not _ANY_OTHER_SCRIPT.search(text)):
        return False
    counts = {name: _letters(text, name) for name in _ONE_SCRIPT}
    return sum(count for name, count in counts.items() if name in allowed) < 0.5 * sum(counts.values())


def _letters(text: str, script: str) -> int:
    return sum(map(len, _ONE_SCRIPT[script].findall(text)))
