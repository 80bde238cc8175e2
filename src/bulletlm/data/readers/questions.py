"""Reads lists of questions and answers in text files, "Q: ... A: ..." or "प्रश्न: ... उत्तर: ...", as conversations."""

import re
from collections.abc import Iterator, Sequence

from bulletlm.data.readers.lines import line_blocks, lines_of
from bulletlm.data.readers.raw import BadRow, Block, Listener, RawDocument
from bulletlm.data.sources import SourceFile
from bulletlm.text.documents import Message

_PAIRS = (
    (("q", "question", "que", "ques"), ("a", "answer", "ans")),
    (("प्रश्न", "प्र"), ("उत्तर", "उ")),
    (("सवाल",), ("जवाब",)),
    (("user", "human"), ("assistant", "ai", "bot", "gpt")),
    (("pregunta", "p"), ("respuesta", "r")),
    (("frage", "f"), ("antwort", "a")),
    (("question", "q"), ("réponse", "r")),
    (("प्रश्न",), ("जवाब",)),
)
"""Labels of questions and of answers, in lower case."""

_LEAST_PAIRS = 3
_LEAST_SHARE = 0.8


def _label(names: Sequence[str]) -> "re.Pattern[str]":
    joined = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"^\s*(?:\*\*|#+\s*)?(?:{joined})\.?\s*(?:[0-9०-९]+|\([0-9०-९]+\))?\s*[:：.)-](?:\*\*)?\s*", re.IGNORECASE)


_PATTERNS = [(_label(questions), _label(answers), questions[0] in ("user",)) for questions, answers in _PAIRS]


def recognize(sample: str) -> int | None:
    """The index of the labels in the file if most of it consists of questions with answers, else None."""
    lines = [line for line in sample.split("\n") if line.strip()]
    for number, (question, answer, _) in enumerate(_PATTERNS):
        asked = answered = 0
        waiting = False
        for line in lines:
            if answer.match(line):
                answered += waiting
                waiting = False
            elif question.match(line):
                asked += 1
                waiting = True
        if answered >= _LEAST_PAIRS and answered + waiting >= _LEAST_SHARE * asked:
            labelled = sum(bool(question.match(line) or answer.match(line)) for line in lines)
            if labelled >= 0.2 * len(lines) and any(question.match(line) for line in lines[:20]):
                return number
    return None


def blocks(file: SourceFile, encoding: str, listener: Listener, labels: int) -> Iterator[Block | BadRow]:
    """Read the list in blocks; a block that ends at an empty line after a question separates it from its answer."""
    listener.taken_for(f"questions and answers ({_PAIRS[labels][0][0]}, {_PAIRS[labels][1][0]})")
    yield from line_blocks(file, encoding, listener, border=b"\n\n", plan=labels, kind="questions")


def documents(block: Block, seed: int) -> Iterator[RawDocument | BadRow]:
    """Each question with its answer; with "User" and "Assistant", messages without an empty line between them are one conversation."""
    question, answer, several = _PATTERNS[block.plan]
    file = block.file
    turns: list[tuple[int, str, list[str]]] = []
    other = RawDocument(file.name, block.first, file.language)
    empty = False

    def finish() -> Iterator[RawDocument | BadRow]:
        if not turns:
            return
        messages: list[Message] = [{"role": role, "content": "\n".join(lines).strip()} for _, role, lines in turns]
        if any(message["role"] == "assistant" for message in messages):
            yield RawDocument(file.name, turns[0][0], file.language, messages=messages)
        else:
            text = "\n".join(message["content"] for message in messages)
            yield BadRow(file.name, turns[0][0], "question_without_answer", text)
        turns.clear()

    for item in lines_of(block):
        if isinstance(item, BadRow):
            yield item
            continue
        number, line = item
        line = line.removeprefix("\ufeff")
        if not line.strip():
            empty = True
            continue
        role, label = "", answer.match(line)
        if label:
            role = "assistant"
        elif label := question.match(line):
            role = "user"
        if role == "user" and turns and (turns[-1][1] == "assistant") and (not several or empty):
            yield from finish()
        if role and (turns or role == "user"):
            turns.append((number, role, [line[label.end() :] if label else line]))
        elif turns and not (empty and turns[-1][1] == "assistant" and not several and _is_title(line)):
            turns[-1][2].append(line)
        else:
            yield from finish()
            other.paragraphs.append(line)
            other.lines.append(number)
        empty = False
    yield from finish()
    if other.paragraphs:
        other.line = other.lines[0]
        yield other


def _is_title(line: str) -> bool:
    """Whether a line after an empty line begins another part of the list."""
    return len(line) < 60 and not re.search(r"[.!?।…:][\"”’')]*$", line.strip())
