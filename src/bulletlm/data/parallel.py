"""Parallel sentences as requests for a translation."""

import hashlib

_INTO_MARATHI = (
    "Translate into Marathi: {}",
    "How do you say this in Marathi? {}",
    "What is this in Marathi? {}",
    "मराठीत भाषांतर करा: {}",
    "हे मराठीत कसं म्हणायचं? {}",
    "या वाक्याचा मराठीत अर्थ सांगा: {}",
)
_INTO_ENGLISH = (
    "Translate into English: {}",
    "How do you say this in English? {}",
    "What does this mean in English? {}",
    "इंग्रजीत भाषांतर करा: {}",
    "हे इंग्रजीत कसं म्हणायचं? {}",
    "या वाक्याचा इंग्रजीत अर्थ सांगा: {}",
)


def translations(english: str, marathi: str, seed: int) -> list[tuple[str, str, str]]:
    """Request, answer and language of the answer for both directions; the wording depends on the pair and the seed only."""
    pair = f"{english}\t{marathi}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(pair, digest_size=8, key=seed.to_bytes(8, "little")).digest()
    into_marathi = _INTO_MARATHI[digest[0] % len(_INTO_MARATHI)].format(english)
    into_english = _INTO_ENGLISH[digest[1] % len(_INTO_ENGLISH)].format(marathi)
    return [(into_marathi, marathi, "mr"), (into_english, english, "en")]
