"""The answers of a model to a list of prompts, and automatic checks of the answers."""

import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

from bulletlm.evaluate.prompts import Prompt
from bulletlm.evaluate.report_types import AnswerValues
from bulletlm.hardware import available_cores
from bulletlm.progress import Progress
from bulletlm.runtime import Model, NativeEngine, generate
from bulletlm.runtime.sampling import Sampling
from bulletlm.text.chat import encode_prompt
from bulletlm.text.tokenizer import END, EOS

SCRIPTS = {
    **dict.fromkeys(("mr", "hi", "ne", "sa", "kok"), "DEVANAGARI"),
    **dict.fromkeys(("en", "fr", "de", "es", "it", "pt", "id", "sw"), "LATIN"),
    "bn": "BENGALI",
    "gu": "GUJARATI",
    "kn": "KANNADA",
    "ml": "MALAYALAM",
    "pa": "GURMUKHI",
    "ta": "TAMIL",
    "te": "TELUGU",
    "ur": "ARABIC",
}
"""Language code -> the first word of the Unicode names of its letters."""


@dataclass(frozen=True)
class Answer:
    """One generation and its checks.

    Attributes:
        text: the answer without special tokens.
        tokens: number of generated tokens.
        ended: whether the model ended the answer itself; False if the token limit did.
        distinct_2, longest_repeat, script_share: see the functions with these names.
        ids: the generated tokens.
    """

    text: str
    tokens: int
    ended: bool
    distinct_2: float | None
    longest_repeat: int
    script_share: float | None
    ids: tuple[int, ...] = ()

    def to_dict(self) -> AnswerValues:
        """Plain values for JSON."""
        return {
            "text": self.text,
            "tokens": self.tokens,
            "ended": self.ended,
            "distinct_2": self.distinct_2,
            "longest_repeat": self.longest_repeat,
            "script_share": self.script_share,
        }


def answer_prompts(model: Model, prompts: list[Prompt], sampling: Sampling, seed: int, progress: Progress) -> list[Answer]:
    """Answer every prompt as the first message of a conversation.

    Each answer starts from the same seed, so it does not depend on the other prompts, and `bullet generate FILE -p PROMPT
    --seed SEED` reproduces it.

    Raises:
        BulletError: the weights are damaged.
    """
    seeded = replace(sampling, seed=seed)
    prepared = [encode_prompt(model.tokenizer, [{"role": "user", "content": prompt.prompt}]) for prompt in prompts]
    answers = []
    for prompt, generated in zip(prompts, generate_all(model, prepared, seeded, progress, "Answering prompts"), strict=True):
        text = model.tokenizer.decode(generated)
        answers.append(
            Answer(
                text=text,
                tokens=len(generated),
                ended=len(generated) < sampling.max_tokens,
                distinct_2=distinct_2(text),
                longest_repeat=longest_repeat(text),
                script_share=script_share(text, prompt.language),
                ids=tuple(generated),
            )
        )
    return answers


def generate_all(model: Model, prompts: Sequence[list[int]], sampling: Sampling, progress: Progress, title: str) -> list[list[int]]:
    """The tokens that follow each of `prompts` (token ids), each from a session of its own.

    The native engine computes several sessions at once; the tokens are the same as one after the other.

    Raises:
        BulletError: the weights are damaged.
    """
    workers = available_cores() if isinstance(model.engine, NativeEngine) else 1
    with progress.task(title, len(prompts)) as bar, ThreadPoolExecutor(workers) as pool:
        found = []
        for generated in pool.map(lambda ids: list(generate(model, ids, sampling, (END, EOS))), prompts):
            found.append(generated)
            bar.advance(1)
    return found


def distinct_2(text: str) -> float | None:
    """Share of distinct pairs of adjacent words (Li et al. 2016): 1 without repetition, None below two words."""
    words = text.split()
    pairs = list(pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else None


def longest_repeat(text: str) -> int:
    """Length of the longest sequence of words that occurs twice; the two occurrences may overlap, as in a loop."""
    words = text.split()
    longest = 0
    # common[j]: length of the common sequence that ends before word i and before word j, for i < j.
    common = [0] * (len(words) + 1)
    for i in range(1, len(words) + 1):
        for j in range(len(words), i, -1):
            common[j] = common[j - 1] + 1 if words[i - 1] == words[j - 1] else 0
            longest = max(longest, common[j])
    return longest


def script_share(text: str, language: str) -> float | None:
    """Share of letters and combining marks in the script of `language`; None without letters or if the script is not known."""
    script = SCRIPTS.get(language)
    letters = [c for c in text if unicodedata.category(c)[0] in "LM"]
    if script is None or not letters:
        return None
    return sum(unicodedata.name(c, "").startswith(script) for c in letters) / len(letters)


def mean_checks(answers: list[Answer]) -> dict[str, float | None]:
    """Means over all answers; None for a check that does not apply to any of them."""
    columns = {
        "ended": [float(answer.ended) for answer in answers],
        "tokens": [float(answer.tokens) for answer in answers],
        "distinct_2": [answer.distinct_2 for answer in answers if answer.distinct_2 is not None],
        "longest_repeat": [float(answer.longest_repeat) for answer in answers],
        "script_share": [answer.script_share for answer in answers if answer.script_share is not None],
    }
    return {name: sum(values) / len(values) if values else None for name, values in columns.items()}
