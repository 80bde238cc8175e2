"""Trains a vocabulary: a sentencepiece BPE that keeps each Devanagari akshara (a letter with its combining marks) whole.

Plain BPE learns pieces such as `्या` that begin in the middle of an akshara: one token in seven of Marathi
text. Here an akshara such as `क्ष्मी` is one symbol while the merges are learned, so pieces begin and end between
aksharas. One token in a hundred still begins inside one, in rare aksharas. The number of tokens does not grow in Marathi
and grows by 1 % in English; the result is an ordinary sentencepiece model that every sentencepiece reader encodes in the same way.
"""

import hashlib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from bulletlm.errors import ConfigError, DataError
from bulletlm.progress import Progress
from bulletlm.text.sentencepiece_proto import piece_texts, with_pieces
from bulletlm.text.tokenizer import BOS, EOS, FIRST_PIECE, SPACE_MARK, SPECIAL_TOKENS, UNK, USER

CHARACTER_COVERAGE = 0.9995
"""Share of the text whose characters get their own token; rarer characters are encoded as bytes."""

AKSHARA_COVERAGE = 0.985
"""Share of the Devanagari text whose aksharas are kept whole. A larger share leaves fewer merges and gains little."""

SAMPLE_CHARACTERS = 100_000_000
"""More text than this does not improve a vocabulary; larger corpora are sampled."""

_LONGEST_WORD = 256
"""Characters after which a word without spaces is cut."""

_STAND_INS = range(0x20000, 0x2A6DE)
"""Rare Chinese characters that stand for aksharas during training: one script, so that sentencepiece merges them
with each other and with nothing else."""

_CONSONANT = "[\u0915-\u0939\u0958-\u095f\u0978-\u097f]\u093c?"
_AKSHARA = re.compile(
    f"(?:{_CONSONANT}(?:\u094d\u200d?{_CONSONANT})*(?:\u094d[\u200c\u200d]?)?|[\u0904-\u0914\u0950\u0960\u0961\u0972-\u0977])"
    "[\u0900-\u0903\u093a-\u093c\u093e-\u094c\u094e\u094f\u0951-\u0957\u0962\u0963]*"
)
"""A Devanagari akshara: consonants joined by virama, or a vowel, with the combining marks that belong to it."""

_ALWAYS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()-",
    "अआइईउऊऋएऐओऔऑॲकखगघङचछजझञटठडढणतथदधनपफबभमयरलवशषसहळऱािीुूृेैोौॅॉंःँ़्०१२३४५६७८९।॥₹",
)
"""Characters of Latin and of Marathi that get a token once their script occurs, however rare in the sample."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, seed: int, progress: Progress, *, at_most: bool = False) -> bytes:
    """Train a vocabulary of exactly `vocab_size` pieces; return the sentencepiece model.

    The bytes depend only on the texts, the size and the seed.

    Args:
        texts: in Unicode NFC; paragraphs are separated by line breaks.
        vocab_size: number of pieces, with special and byte tokens.
        seed: chooses the sample of a corpus that is larger than SAMPLE_CHARACTERS.
        progress: shows bars.
        at_most: a text with too few different words for `vocab_size` gives the largest vocabulary that it can fill.

    Raises:
        DataError: there is no text.
        ConfigError: `vocab_size` is too small for the fixed tokens; or the text has too few different words for it, and not `at_most`:
            the message names the largest size.
    """
    if vocab_size < FIRST_PIECE + 100:
        raise ConfigError(
            f"tokenizer.vocab_size {vocab_size} is too small: {FIRST_PIECE} tokens are fixed, so take {FIRST_PIECE + 100} or more"
        )
    with progress.task("tokenizer: words", None) as task:
        words = _count_words(_sample(texts, seed, task.advance))
    if not words:
        raise DataError("there is no text to train a tokenizer on: check data.sources")
    with progress.task("tokenizer: merges", None):
        size = vocab_size
        proto, largest = _train(words, size)
        while proto is None:  # fewer tokens also means fewer whole aksharas, so the next size may be too large again
            size = largest
            proto, largest = _train(words, size)
    if size < vocab_size and not at_most:
        raise ConfigError(f"tokenizer.vocab_size {vocab_size} is more than this text can fill: take {size} or less, or add text")
    return proto


def model_of_pieces(learned: Iterable[tuple[str, float]]) -> bytes:
    """The sentencepiece model of a vocabulary that is only known as a list, as other file formats keep it.

    Args:
        learned: text and score of the pieces after the special and byte tokens.

    Returns:
        The same bytes that `train_tokenizer` gave when it learned these pieces.
    """
    # Everything except the pieces is the same in all our models, so the model may be trained on any text.
    return with_pieces(_sentencepiece_bpe({"a": 1}, FIRST_PIECE + 1), learned)


def _sample(texts: Iterable[str], seed: int, advance: Callable[[int], object]) -> list[str]:
    """At most SAMPLE_CHARACTERS of text: the texts with the smallest hashes, whatever their order.

    `advance` receives the characters of each text that was read.
    """
    kept: list[tuple[int, str]] = []
    total, limit = 0, 1 << 64
    key = seed.to_bytes(8, "little")
    for text in texts:
        advance(len(text))
        if len(text) * 4 > SAMPLE_CHARACTERS:
            text = text[: SAMPLE_CHARACTERS // 4]
        rank = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest(), "little")
        if rank >= limit:
            continue
        kept.append((rank, text))
        total += len(text)
        while total > SAMPLE_CHARACTERS:
            limit //= 2
            kept = [item for item in kept if item[0] < limit]
            total = sum(len(text) for _, text in kept)
    return [text for _, text in kept]


def _count_words(texts: Iterable[str]) -> dict[str, int]:
    """How often each word occurs; a word keeps the space before it, and digits stand alone."""
    first, spaced = Counter[str](), Counter[str]()
    for text in texts:
        for line in text.split("\n"):
            start, *rest = line.split(" ")
            first[start] += 1
            spaced.update(rest)
    words = Counter[str]()
    for counts, prefix in ((first, ""), (spaced, " ")):
        for word, count in counts.items():
            for part in re.split(r"(\d)", prefix + word):
                for at in range(0, len(part), _LONGEST_WORD):
                    words[part[at : at + _LONGEST_WORD]] += count
    del words[""]
    return dict(sorted(words.items()))


def _train(words: Mapping[str, int], vocab_size: int) -> tuple[bytes | None, int]:
    """The sentencepiece model and `vocab_size`; or None and a size that these words may be able to fill."""
    room = vocab_size - FIRST_PIECE
    alphabet = _alphabet(words, room * 2 // 3)
    aksharas, starts = _whole_aksharas(words, alphabet, (room - len(alphabet)) // 3)
    stand_ins = {akshara: chr(_STAND_INS[n]) for n, akshara in enumerate(aksharas)}
    parts = _replace_aksharas(words, alphabet, stand_ins)
    symbols = len(set().union(*parts)) if parts else 0
    wanted = room - len(alphabet) - len(starts)
    spare = 64  # a few merges may be equal to a whole akshara
    proto = _sentencepiece_bpe(parts, FIRST_PIECE + symbols + wanted + spare) if parts else b""
    back = {ord(stand_in): akshara for akshara, stand_in in stand_ins.items()}
    learned = [text.translate(back) for text in piece_texts(proto)[FIRST_PIECE:] if len(text) > 1]
    have = {*alphabet, *starts}
    merges = [text for text in dict.fromkeys(learned) if text.replace(SPACE_MARK, " ") not in have][:wanted]
    if len(merges) < wanted:
        return None, FIRST_PIECE + len(alphabet) + len(starts) + len(merges)
    texts = [*starts, *merges, *(c.replace(" ", SPACE_MARK) for c in alphabet)]
    return with_pieces(proto, [(text, -float(rank)) for rank, text in enumerate(texts)]), vocab_size


def _alphabet(words: Mapping[str, int], room: int) -> list[str]:
    """The characters that get a token: the most common ones, and all basic characters of each script."""
    counts = Counter[str]()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    for basics in _ALWAYS:
        if any(c in counts and c.isalpha() for c in basics):
            counts.update(dict.fromkeys(basics, 0))
    counts[" "] += 1  # every vocabulary needs the space, even if the texts have none
    always = set("".join(_ALWAYS)) | {" "}
    order = sorted((c for c in counts if _may_be_token(c)), key=lambda c: (c != " ", -counts[c], c))
    total, seen, alphabet = sum(counts.values()), 0, []
    for character in order:
        if seen < CHARACTER_COVERAGE * total or character in always:
            alphabet.append(character)
        seen += counts[character]
    return alphabet[: max(room, 1)]


def _may_be_token(character: str) -> bool:
    """Control characters, and characters with a meaning inside sentencepiece, are left to the byte tokens."""
    if character in "\u200c\u200d":
        return True
    return not (unicodedata.category(character).startswith("C") or character in "\u2581\u2585\u2047" or ord(character) in _STAND_INS)


def _whole_aksharas(words: Mapping[str, int], alphabet: Sequence[str], room: int) -> tuple[list[str], list[str]]:
    """Aksharas to keep whole, and the pieces that build them up character by character (at most `room`).

    Because every prefix of an akshara is in the vocabulary before all merges, an encoder that merges the best
    pair first always produces the whole akshara.
    """
    known = set(alphabet)
    counts = Counter[str]()
    for word, count in words.items():
        for akshara in _AKSHARA.findall(word):
            counts[akshara] += count
    total, seen = sum(counts.values()), 0
    aksharas: list[str] = []
    starts = Counter[str]()
    for akshara, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if not known.issuperset(akshara):
            continue
        beginnings = [akshara[:n] for n in range(2, len(akshara) + 1)]
        if len(akshara) > 1 and (seen >= AKSHARA_COVERAGE * total or len(starts.keys() | beginnings) > room):
            continue
        seen += count
        aksharas.append(akshara)
        starts.update(dict.fromkeys(beginnings, count))
    return aksharas, sorted(starts, key=lambda start: (-starts[start], start))


def _replace_aksharas(words: Mapping[str, int], alphabet: Sequence[str], stand_ins: Mapping[str, str]) -> dict[str, int]:
    """Words with one symbol for each akshara, cut where an akshara or character is not in the vocabulary."""
    marks = "\u0900-\u0903\u093a-\u093c\u093e-\u094f\u0951-\u0957\u0962\u0963\u200c\u200d"
    usable = "".join(sorted(c for c in {*alphabet, *stand_ins.values()} if not re.match(f"[{marks}]", c)))
    unusable = re.compile(f"[^{re.escape(usable)}]+")
    parts = Counter[str]()
    for word, count in words.items():
        word = _AKSHARA.sub(lambda match: stand_ins.get(match[0], "\t"), word)
        for part in unusable.split(word):
            parts[part] += count
    del parts[""]
    return dict(parts)


def _sentencepiece_bpe(parts: Mapping[str, int], vocab_size: int) -> bytes:
    """The model that sentencepiece trains on parts of words and how often each occurs; it has `vocab_size` pieces at most."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"{part}\t{count}" for part, count in parts.items()]),
        input_format="tsv",
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        max_sentence_length=_LONGEST_WORD * 8,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        split_digits=True,
        byte_fallback=True,
        unk_id=UNK,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        control_symbols=list(SPECIAL_TOKENS[USER:]),
        num_threads=1,  # written into the model, so it must not vary
        minloglevel=2,
    )
    return model.getvalue()
