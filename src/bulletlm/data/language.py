"""Language identification: by script, then by the most common function words, then by py3langid.

Marathi, Hindi and English share few function words, so counting them is more accurate than a library for all languages
(`python bench/data.py --languages`). py3langid decides among the other languages of a script.
"""

import copy
import functools
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bulletlm.data.language_names import ENGLISH_NAMES, SCRIPT_OF

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

CHARACTERS_LOOKED_AT = 1_000
"""Number of characters at the beginning of a text that are examined."""

_SCRIPTS = {
    "deva": "\u0900-\u097f\ua8e0-\ua8ff",
    "latn": "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "beng": "\u0980-\u09ff",
    "guru": "\u0a00-\u0a7f",
    "gujr": "\u0a80-\u0aff",
    "orya": "\u0b00-\u0b7f",
    "taml": "\u0b80-\u0bff",
    "telu": "\u0c00-\u0c7f",
    "knda": "\u0c80-\u0cff",
    "mlym": "\u0d00-\u0d7f",
    "sinh": "\u0d80-\u0dff",
    "thai": "\u0e00-\u0e7f",
    "laoo": "\u0e80-\u0eff",
    "mymr": "\u1000-\u109f",
    "geor": "\u10a0-\u10ff",
    "ethi": "\u1200-\u139f",
    "khmr": "\u1780-\u17ff",
    "arab": "\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufeff",
    "cyrl": "\u0400-\u052f",
    "grek": "\u0370-\u03ff\u1f00-\u1fff",
    "armn": "\u0530-\u058f",
    "hebr": "\u0590-\u05ff",
    "hani": "\u4e00-\u9fff\u3400-\u4dbf\u3040-\u30ff",
    "hang": "\uac00-\ud7af\u1100-\u11ff",
}
_LANGUAGE_OF_SCRIPT = {script: code for code, script in reversed(SCRIPT_OF.items())}
_SEVERAL_LANGUAGES = {"latn", "beng", "arab", "cyrl", "hebr"}
"""Scripts of several languages, where function words or py3langid must decide."""

_ONE_SCRIPT = {name: re.compile(f"[{letters}]+") for name, letters in _SCRIPTS.items()}
_OTHERS = {name: letters for name, letters in _SCRIPTS.items() if name not in ("deva", "latn")}
_ANY_OTHER_SCRIPT = re.compile("[" + "".join(_OTHERS.values()) + "]")
_KANA = re.compile("[\u3040-\u30ff]")
_ASSAMESE = re.compile("[ৰৱ]")
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
"""Words of both languages are left out (एक, का, की, तो, जो, हो, ये, कर, ने)."""

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
"""Words of official texts, courses and the saints' literature. Some are Hindi too, so they are not used to detect the language."""

COMMON_WORDS = _MARATHI_WORDS | _HINDI_WORDS | ENGLISH_WORDS | frozenset(_ALSO_COMMON.split())
"""Language -> words that every longer text in it contains, in lower case."""

WORDS_OF_OTHERS = frozenset(
    """
    le la les des est une dans que qui pas pour sur avec ce il elle el los las una por con para es se su como más
    die der das und ist nicht ein eine ich zu den mit auf von o os um uma não em do da ao che non di il per sono het een van niet op zijn
    dan yang dan di ini itu dengan untuk tidak na ya wa kwa ni katika bir ve bu için çok da và là của có không một w nie się na jest że
    aahe aahet aani nahi te ti ha hi mi tu kay tar pan mala tula he ahe ani zala hota hote sathi
    hai hain nahi ka ki ke ko se mein main hum tum kya aur bhi par ye yeh woh wo tha thi kar raha rahi hun ho
    """.split()
)
"""The most common words of other languages in Latin script, including romanised Marathi and Hindi."""

_ROMANIZED_MARATHI = """
    aahe ahe aahet ahet aani nahit naahit mhanun mhanje mhantat kasa kashi kuthe amhi aamhi tumhi tumhala mala tyala tila tujha tuzha majha
    majhi mazha mazhi maze majhe aapan aapla aaplya zala jhala jhali zhali jhale zhale nahiye hoto hotis asel aste asto ahes aahes karto
    karte karun karaycha nako pahije pahijet sathi saathi madhe madhye khup khoop aata udya zhopla yetoy yete yenar jaycha jaato jevan
    tyamule pudhe nantar mage bagh sanga sangto kaay bolto bolte rahto rahte ani hote hoti ghari gharich karan kela keli kele gela geli
    tevha tyachi tyacha tyanchi tichi ticha amchya majhya mazya tujhya tuzya aaji mule mulga mulgi alo aalo aalya
"""
_ROMANIZED_HINDI = """
    hain nahin kya kyun kyon mujhe mujhko tumhe hum aur bhi woh raha rahi rahe hoon karo karna karke mera meri tera kuch abhi accha achha
    bahut phir jab kaise kaisa kahan liye wala wali unka uska iska yahan wahan chahiye hota hoti tumhara humara apna apni sabse lekin agar
    matlab pata chalo bolo batao karta karti gaya gayi gaye diya kyunki itni itna usne maine subah bhai hua hui poora laga tha thi
"""
_ROMANIZED_BOTH = frozenset("nahi nahin ki ka ke ko se ne na ho te ti ha he mi tu tar pan kay kal ghar mala tula mein main".split())
"""Further words, which many languages have: they count for the share, but not as evidence on their own."""
"""Words of Marathi and Hindi in Latin letters, as people write them in messages."""
_ROMANIZED = {"mr-Latn": frozenset(_ROMANIZED_MARATHI.split()), "hi-Latn": frozenset(_ROMANIZED_HINDI.split())}
_ROMANIZED_SHARE = 0.2
"""Share of these words above which a text is romanized Marathi or Hindi. Other languages have single words in common with them."""

_SEVERAL_WORDS = 12

_HINDI_SHARE = 0.2
"""A single Hindi word in a longer sentence is usually part of a name ("स्वनिधी से समृद्धी" योजना)."""

_MARATHI_SIGNS = re.compile("ळ|ऱ|ॲ|\u0930\u094d\u200d|(?:च्या|साठी|मध्ये|तील|ांना|ण्याची|ण्यात|वून|ायचं|तोय|लेली|णार)(?![\u0900-\u0963])")
"""Letters and endings that Hindi does not have."""


_SURELY_ENGLISH = 0.4
"""Share of English function words above which py3langid is not used. English text has 0.35 to 0.5, Dutch up to 0.25."""

_ENOUGH_ENGLISH = 0.2

_SHORT_WORDS = 3
"""Fewer words in Latin script are names as often as text."""

_OTHER_DEVANAGARI_CHARACTERS = 60
_FEW_WORDS = 0.1
"""Devanagari of this length with fewer Marathi and Hindi words may be Nepali."""


def detect(text: str) -> str:
    """ISO 639 code of the language of `text`; "mr-Latn" and "hi-Latn" if it is romanized; "und" without letters.

    Devanagari is Marathi unless its words are Hindi, or it has no Marathi words and py3langid is sure of Nepali. Two words
    in Latin script count as English, because they are often names.
    """
    text = text[:CHARACTERS_LOOKED_AT]
    devanagari, latin = _letters(text, "deva"), _letters(text, "latn")
    if not text.isascii() and _ANY_OTHER_SCRIPT.search(text):
        others = {name: _letters(text, name) for name in _OTHERS}
        best = max(others, key=lambda name: others[name])
        if others[best] > devanagari + latin:
            return _in_script(text, best)
    if devanagari + latin == 0:
        return "und"
    # A Devanagari sentence with many Latin product names is still Marathi.
    if devanagari < 0.4 * (devanagari + latin):
        return _in_latin(text)
    words = [word.strip(_PUNCTUATION) for word in text.split()]
    marathi = sum(word in _MARATHI_WORDS for word in words) + len(_MARATHI_SIGNS.findall(text))
    hindi = sum(word in _HINDI_WORDS for word in words)
    if max(marathi, hindi) < _FEW_WORDS * len(words) and devanagari >= _OTHER_DEVANAGARI_CHARACTERS:
        code, sure = _classify(text, "deva")
        if code == "ne" and sure > _SURE:  # py3langid takes old Marathi verse for Sanskrit
            return "ne"
    return "hi" if hindi > marathi and (hindi > 1 or hindi >= _HINDI_SHARE * len(words)) else "mr"


def identify(text: str) -> str:
    """ISO 639 code of the language of `text` by py3langid alone, among all languages."""
    return _classifier("").classify(text)[0] if text.strip() else "und"


_NO_WORDS = re.compile(r"\[\w+\]|\bhttps?://\S+|\bwww\.\S+|\S+@\S+")
"""Addresses and mask placeholders do not indicate a language."""

_SURE = 0.5


def _in_script(text: str, script: str) -> str:
    if script == "hani":
        return "ja" if len(_KANA.findall(text)) > 0.05 * _letters(text, "hani") else "zh"
    if script == "beng":
        return "as" if _ASSAMESE.search(text) else "bn"
    if script in _SEVERAL_LANGUAGES:
        return _classify(text, script)[0]
    return _LANGUAGE_OF_SCRIPT[script]


def _in_latin(text: str) -> str:
    text = _NO_WORDS.sub(" ", text)
    words = [word.strip(_PUNCTUATION).lower() for word in text.split()]
    words = [word for word in words if word and not word.isdigit()]
    english = sum(word in ENGLISH_WORDS for word in words)
    if english >= _SURELY_ENGLISH * len(words) and english > 1:
        return "en"
    if len(words) < _SHORT_WORDS and text.isascii():
        return "en"
    if romanized := _romanized(words):
        return romanized
    if text.isascii() and not english and _is_typed_at_random(words):
        return "und"
    ranked = dict(_classifier("latn").rank(text))
    code = next(iter(ranked))
    nearly = _NEARLY_WITH_WORDS if english >= _ENOUGH_ENGLISH * len(words) else _NEARLY
    if ranked["en"] > nearly * ranked[code] or (text.isascii() and ranked[code] < _LATIN_SURE):
        return "en"
    return "nb" if code == "no" else code


def _romanized(words: Sequence[str]) -> str | None:
    """The code of romanized Marathi or Hindi if enough different words are of one of them; "und" if it may be either."""
    found = {code: {word for word in words if word in common} for code, common in _ROMANIZED.items()}
    total = sum(word in _ROMANIZED_BOTH or any(word in common for common in _ROMANIZED.values()) for word in words)
    if total < _ROMANIZED_SHARE * len(words) or sum(map(len, found.values())) < (3 if len(words) >= _SEVERAL_WORDS else 2):
        return None
    marathi, hindi = len(found["mr-Latn"]), len(found["hi-Latn"])
    return "und" if marathi == hindi else "mr-Latn" if marathi > hindi else "hi-Latn"


def _is_typed_at_random(words: Sequence[str]) -> bool:
    """Whether most neighbouring letters are neighbours on a keyboard too ("asdf"), as in no language."""
    pairs = [pair for word in words for pair in itertools.pairwise(word) if pair[0].isalpha() and pair[1].isalpha()]
    return len(pairs) >= _ENOUGH_PAIRS and sum(pair in _KEYBOARD_PAIRS for pair in pairs) >= _KEYBOARD_SHARE * len(pairs)


_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_KEYBOARD_PAIRS = frozenset(pair for row in _ROWS for order in (row, row[::-1]) for pair in itertools.pairwise(order))
_ENOUGH_PAIRS = 12
_KEYBOARD_SHARE = 0.65
"""Of 12 and more pairs of letters in messages of programs in 100 languages, at most 0.62 are neighbours on a keyboard ("QWERTY")."""

_NEARLY = 0.6
_NEARLY_WITH_WORDS = 0.1
"""A text counts as English if py3langid gives English this share of the probability of its first choice."""
_LATIN_SURE = 0.2


def _classify(text: str, script: str) -> tuple[str, float]:
    """The likeliest language that is written in `script`, and its probability."""
    code, probability = _classifier(script).classify(text)
    return ("nb" if code == "no" else code), float(probability)


@functools.cache
def _model() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@functools.cache
def _classifier(script: str) -> "LanguageIdentifier":
    """py3langid limited to the languages of a script; "" for all languages in language_names.py."""
    classifier = copy.copy(_model())
    named = {code for code in ENGLISH_NAMES if not script or SCRIPT_OF[code] == script}
    classifier.set_languages(sorted(named & set(classifier.labels)))
    return classifier


def is_in_other_script(text: str, languages: Sequence[str]) -> bool:
    """Whether most letters of `text` belong to a script that none of `languages` uses.

    A code without a known script allows every script.
    """
    allowed = {{"jpan": "hani"}.get(SCRIPT_OF.get(language, language), SCRIPT_OF.get(language, language)) for language in languages}
    if not allowed <= _ONE_SCRIPT.keys():
        return False
    both = "deva" in allowed and "latn" in allowed
    if both and (text.isascii() or not _ANY_OTHER_SCRIPT.search(text)):
        return False
    counts = {name: _letters(text, name) for name in _ONE_SCRIPT}
    return sum(count for name, count in counts.items() if name in allowed) < 0.5 * sum(counts.values())


def has_script(text: str, script: str) -> bool:
    """Whether `text` has a letter of a script of `SCRIPT_OF`."""
    pattern = _ONE_SCRIPT.get("hani" if script == "jpan" else script)
    return pattern is not None and any(character.isalpha() for letters in pattern.findall(text) for character in letters)


def main_script(text: str) -> str:
    """The script of most letters of `text`, as in `SCRIPT_OF`; "" if there are no letters."""
    counts = {name: _letters(text, name) for name in _ONE_SCRIPT}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else ""


def _letters(text: str, script: str) -> int:
    return sum(map(len, _ONE_SCRIPT[script].findall(text)))
