"""Facts of the training text that both models are asked for: does quantization make the model forget or invent?"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bulletlm.evaluate.checks import contains_answer
from bulletlm.evaluate.prompts import Prompt
from bulletlm.evaluate.training_text import real_words
from bulletlm.text.chat import encode_prompt
from bulletlm.text.documents import Document
from bulletlm.text.tokenizer import BOS, Tokenizer

COUNT = 50
MOST_TOKENS = 32
"""Tokens of an answer at most."""

_QUESTION_WORDS = 25
_ANSWER_WORDS = 12
_SENTENCE_WORDS = (6, 25)
_LEFT_OUT = 2
"""Words at the end of a sentence that the model has to complete."""
_SENTENCE = re.compile(r"[^.!?।॥\n]+[.!?।॥]")


@dataclass(frozen=True)
class Fact:
    """A question with a known answer.

    Attributes:
        question: as people read it.
        expected: the answer.
        ids: the prompt, token ids.
        kind: "prompt" (with `answer` in the prompt file), "question" (a conversation of the training text) or "sentence" (the beginning
            of a sentence of the training text, whose last words are the answer).
    """

    question: str
    expected: str
    ids: list[int]
    kind: str

    def is_right(self, text: str) -> bool:
        """Whether a model's `text` has the answer."""
        return contains_answer(text, self.expected)


def choose_facts(prompts: Sequence[Prompt], documents: Sequence[Document], tokenizer: Tokenizer, context: int, seed: int) -> list[Fact]:
    """The prompts that carry an answer, and COUNT facts of the training text: questions with short answers, or else sentences.

    Args:
        prompts: of the report.
        documents: of the training text.
        tokenizer: of the model.
        context: tokens that the model reads at most.
        seed: decides which facts of many are taken.
    """
    asked = [
        Fact(each.prompt, each.answer, encode_prompt(tokenizer, [{"role": "user", "content": each.prompt}]), "prompt")
        for each in prompts
        if each.answer is not None
    ]
    questions = _chosen(_questions(documents), seed)
    chosen = questions if len(questions) >= COUNT // 2 else _chosen(_sentences(documents), seed)
    for question, expected, kind in chosen:
        if kind == "question":
            ids = encode_prompt(tokenizer, [{"role": "user", "content": question}])
        else:
            ids = [BOS, *tokenizer.encode(question)]
        if len(ids) + MOST_TOKENS <= context:
            asked.append(Fact(question, expected, ids, kind))
    return asked


def _chosen(found: Iterator[tuple[str, str, str]], seed: int) -> list[tuple[str, str, str]]:
    """COUNT of the facts, independent of their order; the first answer of a question counts."""
    answers: dict[str, tuple[str, str, str]] = {}
    for fact in found:
        answers.setdefault(fact[0], fact)
    return sorted(answers.values(), key=lambda fact: (zlib.crc32(f"{seed} {fact[0]}".encode("utf-8", "surrogatepass")), fact[0]))[:COUNT]


def _questions(documents: Sequence[Document]) -> Iterator[tuple[str, str, str]]:
    for document in documents:
        messages = document.get("messages") or []
        if len(messages) < 2 or (messages[0]["role"], messages[1]["role"]) != ("user", "assistant"):
            continue
        question, answer = messages[0]["content"], messages[1]["content"]
        short = len(question.split()) <= _QUESTION_WORDS and 1 <= len(real_words(answer)) <= _ANSWER_WORDS
        if short and question.rstrip().endswith("?"):
            yield question, answer, "question"


def _sentences(documents: Sequence[Document]) -> Iterator[tuple[str, str, str]]:
    for document in documents:
        for sentence in _SENTENCE.findall(document.get("text") or ""):
            words = sentence.split()
            if _SENTENCE_WORDS[0] <= len(words) <= _SENTENCE_WORDS[1]:
                yield " ".join(words[:-_LEFT_OUT]), " ".join(words[-_LEFT_OUT:]), "sentence"
