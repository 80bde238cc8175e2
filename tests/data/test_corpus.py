"""The simple part of the embedded corpus keeps to docs/corpus-style.md, and the test questions are not in any text that is trained on."""

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from paths import ROOT, SAMPLE_CORPUS, SIMPLE_CORPUS

QUESTIONS = {
    **{f"known.{language}": ROOT / "src" / "bulletlm" / "evaluate" / f"questions.{language}.jsonl" for language in ("mr", "en")},
    **{f"new.{language}": ROOT / "bench" / "questions" / f"new.{language}.jsonl" for language in ("mr", "en")},
}
LANGUAGES = ("mr", "en")
# How the words begin that name the things most of the new questions are about.
NEW_THINGS = {
    "mr": """पेंग्विन ऑक्टोपस कांगारू पाणबुडी पॅराशूट डॉल्फिन शार्क डायनासोर जादूगार रोबो पासपोर्ट विमानतळ हॉकी स्केटिंग मॅरेथॉन पोस्टकार्ड
        हिमनदी सरकत्या जीवाश्म हिरा हेल्मेट अत्तर गिटार ब्रेल अग्निशाम चेन घोर शब्दकोड गोंदण टंक झोळी गणकयंत्र धूसर""",
    "en": """penguin octopus kangaroo submarine parachut dolphin shark dinosaur magician robot passport airport jigsaw hockey skating
        marathon postcard snowm igloo glacier escalator fossil diamond helmet perfume guitar circus popcorn wheelchair braille aquarium zip
        twins snor calculator blurr crossword tattoo typewriter hammock periscope puppet stilt kaleidoscope""",
}


def words(text: str) -> list[str]:
    """Word forms in lower case; combining marks belong to their word."""
    return re.findall(r"[\w\u0900-\u097f\u200d]+", text.lower())


def conversations(path: Path) -> Iterator[list[str]]:
    """The texts of each conversation of a .jsonl file: user, assistant, user, assistant ..."""
    for line in path.read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2), f"{path.name}: {line[:80]}"
        yield [message["content"] for message in messages]


@cache
def new_chats(language: str) -> tuple[tuple[str, ...], ...]:
    """The conversations of the simple part."""
    return tuple(tuple(texts) for path in sorted(SIMPLE_CORPUS.glob(f"chat-*.{language}.jsonl")) for texts in conversations(path))


def long_answers(language: str) -> list[tuple[str, ...]]:
    return [tuple(texts) for texts in conversations(SIMPLE_CORPUS / f"answers.{language}.jsonl")]


def stories(language: str) -> list[str]:
    return (SIMPLE_CORPUS / f"stories.{language}.txt").read_text(encoding="utf-8").strip().split("\n\n")


def exchanges(language: str) -> int:
    """Exchanges in all files of the corpus: one user message and one assistant message each."""
    paths = [*SAMPLE_CORPUS.glob(f"*.{language}.jsonl"), *SIMPLE_CORPUS.glob(f"chat-*.{language}.jsonl")]
    return sum(len(texts) // 2 for path in paths for texts in conversations(path))


def answers(language: str) -> list[str]:
    """Answers of the simple conversations."""
    return [text for texts in new_chats(language) for text in texts[1::2]]


def shingles(text: str, length: int) -> set[tuple[str, ...]]:
    """Sequences of `length` words."""
    found = words(text)
    return set(zip(*(found[start:] for start in range(length)), strict=False))


Shingles = set[tuple[str, ...]]
# Texts with their pairs of words, and the numbers of the texts in which each pair occurs.
Index = tuple[list[tuple[str, Shingles]], dict[tuple[str, ...], list[int]]]


def pairs_of_words(text: str) -> Shingles:
    return shingles(text, 2) or shingles(text, 1)


def add(index: Index, text: str) -> None:
    texts, where = index
    for pair in (own := pairs_of_words(text)):
        where.setdefault(pair, []).append(len(texts))
    texts.append((text, own))


def near(index: Index, text: str, similarity: float = 0.8) -> list[str]:
    """The texts of the index whose pairs of words have at least this Jaccard similarity to those of `text`."""
    texts, where = index
    own = pairs_of_words(text)
    shared = Counter(other for pair in own for other in where.get(pair, ()))
    return [texts[other][0] for other, count in shared.items() if count / len(own | texts[other][1]) >= similarity]


def near_duplicates(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of texts that are nearly the same."""
    index: Index = ([], {})
    pairs = []
    for text in texts:
        pairs += [(other, text) for other in near(index, text)]
        add(index, text)
    return pairs


@pytest.mark.parametrize(("language", "least"), [("mr", 4000), ("en", 2500)])
def test_there_are_enough_exchanges(language: str, least: int) -> None:
    assert exchanges(language) >= least


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_enough_long_answers(language: str) -> None:
    found = long_answers(language)
    lengths = [len(words(texts[1])) for texts in found]
    assert len(found) >= 300
    assert sum(60 <= length <= 120 for length in lengths) >= 0.95 * len(lengths)


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_enough_stories(language: str) -> None:
    found = stories(language)
    titles = Counter(story.split("\n")[0] for story in found)
    lengths = [len(words(story)) for story in found]
    assert len(found) >= 300
    assert sum(80 <= length <= 160 for length in lengths) >= 0.95 * len(lengths)
    assert max(titles.values()) <= 2


@pytest.mark.parametrize("language", LANGUAGES)
def test_common_words_cover_the_text(language: str) -> None:
    texts = [*(text for chat in new_chats(language) for text in chat), *(texts[1] for texts in long_answers(language)), *stories(language)]
    counts = Counter(word for text in texts for word in words(text))
    covered = sum(count for _, count in counts.most_common(2000)) / counts.total()
    assert covered >= 0.85, f"{covered:.1%}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_open_differently(language: str) -> None:
    openings = Counter(" ".join(words(answer)[:3]) for answer in answers(language))
    distinct = len(openings) / openings.total()
    assert distinct >= 0.6, f"{distinct:.0%}; most common: {openings.most_common(10)}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_phrase_returns_too_often(language: str) -> None:
    found = answers(language)
    phrases = Counter(shingle for answer in found for shingle in shingles(answer, 5))
    often = {" ".join(phrase): count for phrase, count in phrases.items() if count > 0.01 * len(found)}
    assert not often


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_few_near_duplicates(language: str) -> None:
    found = [" ".join(texts) for texts in new_chats(language)]
    pairs = near_duplicates(found)
    assert len(pairs) < 0.005 * len(found), pairs[:10]


def _forms(language: str) -> Counter[str]:
    """How often each word form in the script of the language occurs in the simple part."""
    texts = [*(text for chat in new_chats(language) for text in chat), *(text for texts in long_answers(language) for text in texts)]
    pattern = r"[\u0900-\u0963\u0970-\u097f\u200d]+" if language == "mr" else r"[A-Za-z]+(?:['’][A-Za-z]+)?"
    found = Counter(word for text in [*texts, *stories(language)] for word in re.findall(pattern, text))
    return Counter({word: count for word, count in found.items() if re.search(r"[A-Za-z\u0904-\u0939]", word)})


def _unknown_to_aspell(forms: Iterable[str], language: str) -> set[str] | None:
    """The forms that aspell does not know; None where aspell or its dictionary is not installed."""
    dictionary = {"mr": "mr", "en": "en_GB"}[language]
    if not shutil.which("aspell") or dictionary not in subprocess.run(["aspell", "dicts"], capture_output=True, text=True).stdout.split():
        return None
    plain = {form.replace("’", "'"): form for form in forms}
    command = ["aspell", "list", f"--lang={dictionary}", "--encoding=utf-8"]
    # A form alone in its line; aspell splits some forms of Marathi, whose parts are then no forms of the text.
    answer = subprocess.run(command, input="\n".join(plain), capture_output=True, text=True, check=True).stdout
    return {plain[word] for word in answer.split() if word in plain}


@pytest.mark.parametrize("language", LANGUAGES)
def test_spelling(language: str) -> None:
    """A form is known to aspell (where it is installed) or occurs twice in the corpus; every other one is in the list of checked forms."""
    forms = _forms(language)
    checked = set((Path(__file__).parent / f"spelling.{language}.txt").read_text(encoding="utf-8").split())
    unknown = _unknown_to_aspell(forms, language)
    if unknown is None:
        unknown = {form for form, count in forms.items() if count == 1}
    assert not sorted(unknown - checked), "read these forms; mend them, or add them to the list"
    assert not sorted(checked - set(forms)), "no longer in the text: take them out of the list"


def questions(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in QUESTIONS[name].read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("name", "count"), [("known.mr", 100), ("known.en", 100), ("new.mr", 50), ("new.en", 50)])
def test_the_sets_of_test_questions_are_whole(name: str, count: int) -> None:
    rows = questions(name)
    assert len(rows) == count
    assert len({row["prompt"] for row in rows}) == count
    assert all(row["intent"] and row["answer"] for row in rows)


@cache
def training_texts() -> tuple[str, ...]:
    """Every text of the repository that a model is trained on."""
    texts: list[str] = []
    for path in sorted([*SAMPLE_CORPUS.iterdir(), *SIMPLE_CORPUS.iterdir()]):
        if path.suffix == ".jsonl":
            texts += [text for conversation in conversations(path) for text in conversation]
        elif path.suffix == ".tsv":
            texts += [cell for line in path.read_text(encoding="utf-8").splitlines() for cell in line.split("\t")]
        elif path.suffix == ".txt":
            texts += [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    return tuple(texts)


@cache
def training_index() -> Index:
    index: Index = ([], {})
    for text in training_texts():
        add(index, text)
    return index


@cache
def training_eights() -> Shingles:
    return {shingle for text in training_texts() for shingle in shingles(text, 8)}


@pytest.mark.parametrize("name", list(QUESTIONS))
def test_no_test_question_is_trained_on(name: str) -> None:
    prompts = [row["prompt"] for row in questions(name)]
    assert [prompt for prompt in prompts if shingles(prompt, 8) & training_eights()] == []
    assert {prompt: found for prompt in prompts if (found := near(training_index(), prompt))} == {}
    assert near_duplicates(prompts) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_thing_of_the_new_questions_is_trained_on(language: str) -> None:
    def naming(texts: Iterable[str]) -> dict[str, set[str]]:
        found = {word for text in texts for word in words(text)}
        return {thing: {word for word in found if word.startswith(thing)} for thing in NEW_THINGS[language].split()}

    asked = naming(row["prompt"] for row in questions(f"new.{language}"))
    assert [thing for thing, found in asked.items() if not found] == [], "no longer asked about: take them out of the list"
    assert {thing: found for thing, found in naming(training_texts()).items() if found} == {}
