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


def translation(english: str, marathi: str, seed: int) -> tuple[str, str, str]:
    """Request, answer and language of the answer; direction and wording depend on the pair and the seed only."""
    digest = hashlib.blake2b(
        f"{english}\t{marathi}".encode("utf-8", "surrogatepass"), digest_size=8, key=seed.to_bytes(8, "little")
    ).digest()
    wording = digest[1] % len(_INTO_MARATHI)
    if digest[0] % 2:
        return _INTO_MARATHI[wording].format(english), marathi, "mr"
    return _INTO_ENGLISH[wording].format(marathi), english, "en"
