"""Converts parallel sentences to conversations that ask for a translation."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations

from bulletlm.data.language_names import ENGLISH_NAMES

_IN_ENGLISH = ("Translate into {language}: {{}}", "How do you say this in {language}? {{}}", "What is this in {language}? {{}}")
_REQUESTS = {
    "mr": (
        "Translate into Marathi: {}",
        "How do you say this in Marathi? {}",
        "What is this in Marathi? {}",
        "मराठीत भाषांतर करा: {}",
        "हे मराठीत कसं म्हणायचं? {}",
        "या वाक्याचा मराठीत अर्थ सांगा: {}",
    ),
    "hi": (
        "Translate into Hindi: {}",
        "How do you say this in Hindi? {}",
        "What is this in Hindi? {}",
        "हिंदी में अनुवाद करें: {}",
        "इसे हिंदी में कैसे कहेंगे? {}",
        "इस वाक्य का हिंदी में अर्थ बताइए: {}",
    ),
}
_INTO_ENGLISH = {
    "mr": (
        "Translate into English: {}",
        "How do you say this in English? {}",
        "What does this mean in English? {}",
        "इंग्रजीत भाषांतर करा: {}",
        "हे इंग्रजीत कसं म्हणायचं? {}",
        "या वाक्याचा इंग्रजीत अर्थ सांगा: {}",
    ),
    "hi": (
        "Translate into English: {}",
        "How do you say this in English? {}",
        "What does this mean in English? {}",
        "अंग्रेज़ी में अनुवाद करें: {}",
        "इसे अंग्रेज़ी में कैसे कहेंगे? {}",
        "इस वाक्य का अंग्रेज़ी में अर्थ बताइए: {}",
    ),
}


def translations(texts: Mapping[str, str], seed: int) -> list[tuple[str, str, str]]:
    """Request, answer and language of the answer, for both directions of each pair of languages.

    The wording depends only on the texts and the seed. English is first in a pair, other languages are in the order of `texts`.

    Args:
        texts: language code -> the sentence in that language.
    """
    made = []
    for first, second in combinations(sorted(texts, key=lambda code: code != "en"), 2):
        pair = f"{texts[first]}\t{texts[second]}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(pair, digest_size=8, key=seed.to_bytes(8, "little")).digest()
        for choice, source, target in ((digest[0], first, second), (digest[1], second, first)):
            wordings = _wordings(source, target)
            made.append((wordings[choice % len(wordings)].format(texts[source]), texts[target], target))
    return made


def _wordings(source: str, target: str) -> Sequence[str]:
    if target == "en" and source in _INTO_ENGLISH:
        return _INTO_ENGLISH[source]
    if target in _REQUESTS:
        return _REQUESTS[target]
    return tuple(wording.format(language=ENGLISH_NAMES.get(target, target)) for wording in _IN_ENGLISH)
