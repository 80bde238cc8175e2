"""Questions with answers of people, on which no model trains: from the validation text, or from the package where it has too few."""

import json
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from bulletlm.data.language import detect, has_script
from bulletlm.text.chat import encode_prompt
from bulletlm.text.documents import Document
from bulletlm.text.tokenizer import Tokenizer

MOST = 60
"""Questions in each language at most."""
FEWEST = 20
"""With fewer held-out questions in a language, those of the package are asked too; with fewer of both, none."""

PACKAGED = Path(__file__).parent
"""It has questions.LANGUAGE.jsonl: everyday questions, each with one good answer among many."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A question, and the answer of a person.

    Attributes:
        question, answer: as people read them.
        language: code of their language.
        question_ids: the prompt of the question, token ids.
        answer_ids: tokens of the answer.
    """

    question: str
    answer: str
    language: str
    question_ids: Sequence[int]
    answer_ids: Sequence[int]


def choose_pairs(held_out: Sequence[Document], languages: Collection[str], tokenizer: Tokenizer, context: int, seed: int) -> list[Pair]:
    """Up to MOST questions in each language, the same ones for every model of a run.

    Translations are left out: their answers have most of their words from the question, so they show something else.

    Args:
        held_out: documents of the validation text.
        languages: languages of the training text.
        tokenizer: of the models.
        context: tokens that the models read at most; longer questions and answers are left out.
        seed: decides which questions of many are taken.
    """
    chosen: list[Pair] = []
    for language in sorted(languages):
        found = _fitting(_conversations(held_out, language), language, tokenizer, context)
        if len(found) < FEWEST:
            found |= _fitting(_packaged(language), language, tokenizer, context)
        if len(found) >= FEWEST:
            chosen += sorted(found.values(), key=lambda pair: _order(pair, seed))[:MOST]
    return chosen


def _order(pair: Pair, seed: int) -> tuple[int, str]:
    return zlib.crc32(f"{seed} {pair.question}".encode("utf-8", "surrogatepass")), pair.question


def _fitting(pairs: Sequence[tuple[str, str]], language: str, tokenizer: Tokenizer, context: int) -> dict[str, Pair]:
    """By their question; the first answer to a question counts."""
    found: dict[str, Pair] = {}
    for question, answer in pairs:
        ids = encode_prompt(tokenizer, [{"role": "user", "content": question}])
        answer_ids = tokenizer.encode(answer)
        if answer_ids and len(ids) + len(answer_ids) <= context and question not in found:
            found[question] = Pair(question=question, answer=answer, language=language, question_ids=ids, answer_ids=answer_ids)
    return found


def _conversations(documents: Sequence[Document], language: str) -> list[tuple[str, str]]:
    """The first questions of conversations with their answers, without translations."""
    found = []
    for document in documents:
        messages = document.get("messages") or []
        if document["language"] != language or len(messages) < 2 or (messages[0]["role"], messages[1]["role"]) != ("user", "assistant"):
            continue
        question, answer = messages[0]["content"], messages[1]["content"]
        if detect(question) == language and not (has_script(question, "deva") and has_script(question, "latn")):
            found.append((question, answer))
    return found


def _packaged(language: str) -> list[tuple[str, str]]:
    path = PACKAGED / f"questions.{language}.jsonl"
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["prompt"], row["answer"]) for row in rows]
