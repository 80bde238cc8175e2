"""Text to token numbers and back: a sentencepiece BPE that keeps Devanagari letters with their signs.

Plain BPE learns pieces such as `्या` that begin in the middle of a letter: one token in seven of Marathi
text. Here a Devanagari letter with all its signs (an akshara such as `क्ष्मी`) is one symbol while the merges
are learned, so pieces begin and end between letters; one token in a hundred is left, in rare letters. The
price is nothing in Marathi and 1 % more tokens in English; the result is an ordinary sentencepiece model that
any sentencepiece reader encodes alike.

Every Unicode string comes back exactly: what is not in the vocabulary is spelled in UTF-8 byte tokens.
Needs neither torch nor pydantic; sentencepiece and numpy are imported where they are needed.
"""

import io
import re
import struct
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bulletlm.errors import BulletError, ConfigError, DataError, FormatError
from bulletlm.progress import Progress

UNK, BOS, EOS, USER, ASSISTANT, END = range(6)
"""Ids of the special tokens: <unk> <s> </s> <|user|> <|assistant|> <|end|>."""

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>")
FIRST_BYTE = len(SPECIAL_TOKENS)
"""Byte b is token FIRST_BYTE + b."""

FIRST_PIECE = FIRST_BYTE + 256

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
"""Piece types, numbered as in sentencepiece and ggml."""

SPACE_MARK = "\u2581"
"""sentencepiece writes a space as this character, so the character itself is spelled in bytes."""

CHARACTER_COVERAGE = 0.9995
"""Share of the text whose characters get a token of their own; rarer ones are spelled in bytes."""

LETTER_COVERAGE = 0.985
"""Share of the Devanagari text whose letter-with-signs is kept whole. More costs merges and gains little."""

SAMPLE_CHARACTERS = 100_000_000
"""A vocabulary does not get better from more text than this; larger corpora are sampled."""

_LONGEST_WORD = 256
_STAND_INS = range(0x20000, 0x2A6DE)
"""Rare Chinese characters that stand for Devanagari letters during training: one script, so that
sentencepiece merges them with each other and with nothing else."""

_CONSONANT = "[\u0915-\u0939\u0958-\u095f\u0978-\u097f]\u093c?"
_LETTER = re.compile(
    f"(?:{_CONSONANT}(?:\u094d\u200d?{_CONSONANT})*(?:\u094d[\u200c\u200d]?)?|[\u0904-\u0914\u0950\u0960\u0961\u0972-\u0977])"
    "[\u0900-\u0903\u093a-\u093c\u093e-\u094c\u094e\u094f\u0951-\u0957\u0962\u0963]*"
)
"""A Devanagari letter: consonants joined by virama, or a vowel, with the signs that belong to it."""

_ALWAYS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()-",
    "अआइईउऊऋएऐओऔऑॲकखगघङचछजझञटठडढणतथदधनपफबभमयरलवशषसहळऱािीुूृेैोौॅॉंःँ़्०१२३४५६७८९।॥₹",
)
"""Characters of Latin and of Marathi that get a token once their script occurs, however rare in the sample."""


class Piece(NamedTuple):
    """One entry of the vocabulary; `text` writes spaces as U+2581 and bytes as <0x00>."""

    text: str
    score: float
    type: int


class Tokenizer:
    """Encodes and decodes with a trained vocabulary.

    Raises:
        FormatError: the bytes are not a sentencepiece model of ours.
    """

    def __init__(self, model_proto: bytes) -> None:
        import sentencepiece

        self.proto = model_proto
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(model_proto)
            self.vocab_size: int = self._model.vocab_size()
            texts: list[str] = [self._model.id_to_piece(i) for i in range(self.vocab_size)]
        except (RuntimeError, UnicodeDecodeError) as error:
            # The library's messages quote the file, which may hold control characters, and a lot of them.
            reason = "".join(c if c.isprintable() else "?" for c in str(error)[:200])
            raise FormatError(f"the tokenizer is not a sentencepiece model ({reason}): train it again") from None
        expected = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))]
        found = texts[:FIRST_PIECE]
        if found != expected:
            wrong = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(found))
            raise FormatError(
                f"the tokenizer is not one of BulletLM: token {wrong} should be {expected[wrong]}; train it with `bullet tokenizer`"
            )
        self._bytes = [token_bytes(i, text) for i, text in enumerate(texts)]
        self._space_mark = [FIRST_BYTE + byte for byte in SPACE_MARK.encode()]

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read tokenizer.model.

        Raises:
            BulletError: no such file. FormatError: not a model of ours.
        """
        try:
            proto = Path(path).read_bytes()
        except OSError as error:
            raise BulletError(f"cannot read the tokenizer {path} ({error.strerror}): run `bullet tokenizer` first") from None
        try:
            return cls(proto)
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from None

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens; `decode` gives the same text back exactly.

        Text that looks like a special token ("<|user|>") stays text.

        Raises:
            DataError: `text` holds half of a surrogate pair, which is not Unicode text.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts; several times faster than one by one."""
        try:
            ids: list[list[int]] = self._model.encode([text.encode() for text in texts], num_threads=1)
        except UnicodeEncodeError:
            raise DataError("the text holds half of a surrogate pair, which no encoding can store: remove it") from None
        for i, text in enumerate(texts):
            if SPACE_MARK in text:
                ids[i] = self._encode_around_space_marks(text)
        return ids

    def _encode_around_space_marks(self, text: str) -> list[int]:
        ids: list[int] = []
        for n, part in enumerate(text.split(SPACE_MARK)):
            if n:
                ids += self._space_mark
            ids += self._model.encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens are skipped, incomplete UTF-8 becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 bytes of `ids`, which may begin or end inside a character."""
        table = self._bytes
        return b"".join([table[i] for i in ids])

    def pieces(self) -> list[Piece]:
        """The vocabulary in the order of its ids."""
        return [Piece(self._model.id_to_piece(i), self._model.get_score(i), _type_of(i)) for i in range(self.vocab_size)]


def token_bytes(i: int, text: str) -> bytes:
    """The UTF-8 bytes that token `i`, the piece `text`, stands for."""
    kind = _type_of(i)
    if kind == BYTE:
        return bytes([i - FIRST_BYTE])
    return text.replace(SPACE_MARK, " ").encode() if kind == NORMAL else b""


def _type_of(i: int) -> int:
    if i == UNK:
        return UNKNOWN
    if i < FIRST_BYTE:
        return CONTROL
    return BYTE if i < FIRST_PIECE else NORMAL


def train_tokenizer(texts: Iterable[str], vocab_size: int, seed: int, progress: Progress) -> bytes:
    """Learn a vocabulary of exactly `vocab_size` pieces from `texts` (NFC); give the sentencepiece model.

    The bytes depend only on the texts, the size and the seed (which chooses the sample of a very large corpus).

    Raises:
        DataError: there is no text.
        ConfigError: the text has too few different words for `vocab_size`; the message names the largest size.
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
        proto, size = _train(words, vocab_size)
        if proto is None:
            # Fewer tokens also means fewer whole letters, so the largest size is found by asking again.
            while True:
                smaller = size
                proto, size = _train(words, smaller)
                if proto is not None:
                    break
            raise ConfigError(f"tokenizer.vocab_size {vocab_size} is more than this text can fill: take {smaller} or less, or add text")
    return proto


def model_of_pieces(learned: Iterable[tuple[str, float]]) -> bytes:
    """The sentencepiece model of a vocabulary that is only known as a list, as other file formats keep it.

    Args:
        learned: text and score of the pieces after the special and byte tokens.

    Returns:
        The same bytes that `train_tokenizer` gave when it learned these pieces.
    """
    # Everything but the pieces is the same in all our models, so any training will do.
    return _with_pieces(_sentencepiece_bpe({"a": 1}, FIRST_PIECE + 1), learned)


def _sample(texts: Iterable[str], seed: int, advance: Any) -> list[str]:
    """At most SAMPLE_CHARACTERS of text: the texts with the smallest hashes, whatever their order."""
    import hashlib

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
    """The model and `vocab_size`; or None and how many pieces there were to be had."""
    room = vocab_size - FIRST_PIECE
    alphabet = _alphabet(words, room * 2 // 3)
    letters, starts = _whole_letters(words, alphabet, (room - len(alphabet)) // 3)
    stand_ins = {letter: chr(_STAND_INS[n]) for n, letter in enumerate(letters)}
    parts = _replace_letters(words, alphabet, stand_ins)
    symbols = len(set().union(*parts)) if parts else 0
    wanted = room - len(alphabet) - len(starts)
    spare = 64  # a few merges may spell what a letter already is
    proto = _sentencepiece_bpe(parts, FIRST_PIECE + symbols + wanted + spare) if parts else b""
    back = {ord(stand_in): letter for letter, stand_in in stand_ins.items()}
    learned = [text.translate(back) for text in _piece_texts(proto)[FIRST_PIECE:] if len(text) > 1]
    have = {*alphabet, *starts}
    merges = [text for text in dict.fromkeys(learned) if text.replace(SPACE_MARK, " ") not in have][:wanted]
    if len(merges) < wanted:
        return None, FIRST_PIECE + len(alphabet) + len(starts) + len(merges)
    texts = [*starts, *merges, *(c.replace(" ", SPACE_MARK) for c in alphabet)]
    return _with_pieces(proto, [(text, -float(rank)) for rank, text in enumerate(texts)]), vocab_size


def _alphabet(words: Mapping[str, int], room: int) -> list[str]:
    """The characters that get a token: the commonest ones, and all of a script's basic ones."""
    counts = Counter[str]()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    for basics in _ALWAYS:
        if any(c in counts and c.isalpha() for c in basics):
            counts.update(dict.fromkeys(basics, 0))
    counts[" "] += 1  # every vocabulary needs it, also one of texts without a space
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


def _whole_letters(words: Mapping[str, int], alphabet: Sequence[str], room: int) -> tuple[list[str], list[str]]:
    """Devanagari letters to keep whole, and the pieces that build them up sign by sign (at most `room`).

    With every beginning of a letter in the vocabulary, before all merges, an encoder that joins the best
    pair first always arrives at the whole letter.
    """
    known = set(alphabet)
    counts = Counter[str]()
    for word, count in words.items():
        for letter in _LETTER.findall(word):
            counts[letter] += count
    total, seen = sum(counts.values()), 0
    letters: list[str] = []
    starts = Counter[str]()
    for letter, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if not known.issuperset(letter):
            continue
        beginnings = [letter[:n] for n in range(2, len(letter) + 1)]
        if len(letter) > 1 and (seen >= LETTER_COVERAGE * total or len(starts.keys() | beginnings) > room):
            continue
        seen += count
        letters.append(letter)
        starts.update(dict.fromkeys(beginnings, count))
    return letters, sorted(starts, key=lambda start: (-starts[start], start))


def _replace_letters(words: Mapping[str, int], alphabet: Sequence[str], stand_ins: Mapping[str, str]) -> dict[str, int]:
    """Words with one symbol a letter, cut where a letter or character is not in the vocabulary."""
    marks = "\u0900-\u0903\u093a-\u093c\u093e-\u094f\u0951-\u0957\u0962\u0963\u200c\u200d"
    usable = "".join(sorted(c for c in {*alphabet, *stand_ins.values()} if not re.match(f"[{marks}]", c)))
    unusable = re.compile(f"[^{re.escape(usable)}]+")
    parts = Counter[str]()
    for word, count in words.items():
        word = _LETTER.sub(lambda match: stand_ins.get(match[0], "\t"), word)
        for part in unusable.split(word):
            parts[part] += count
    del parts[""]
    return dict(parts)


def _sentencepiece_bpe(parts: Mapping[str, int], vocab_size: int) -> bytes:
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


# The model is a protocol buffer. Changing its list of pieces takes the thirty lines below; the alternative is
# the protobuf package and a generated module. Layout: sentencepiece_model.proto, message ModelProto.
_PIECES, _TRAINER_SPEC, _TRAINER_VOCAB_SIZE = 1, 2, 4


def _with_pieces(proto: bytes, pieces: Iterable[tuple[str, float]]) -> bytes:
    """`proto` with its pieces after the special and byte tokens replaced by these texts and scores."""
    out = [_field(number, 2, value) for number, value in _fields(proto) if number == _PIECES][:FIRST_PIECE]
    for text, score in pieces:
        out.append(_field(_PIECES, 2, _field(1, 2, text.encode()) + _field(2, 5, struct.pack("<f", score))))
    for number, value in _fields(proto):
        if number == _TRAINER_SPEC:
            value = _set_vocab_size(value, len(out))
        if number != _PIECES:
            out.append(_field(number, 2, value))
    return b"".join(out)


def _set_vocab_size(trainer_spec: bytes, size: int) -> bytes:
    key = _TRAINER_VOCAB_SIZE << 3
    at = 0
    while trainer_spec[at] != key:
        at = _skip(trainer_spec, at)
    return trainer_spec[: at + 1] + _varint(size) + trainer_spec[_skip(trainer_spec, at) :]


def _piece_texts(proto: bytes) -> list[str]:
    return [next(value for field, value in _fields(piece) if field == 1).decode() for number, piece in _fields(proto) if number == _PIECES]


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each length-delimited field."""
    at = 0
    while at < len(message):
        key, start = _read_varint(message, at)
        end = _skip(message, at)
        if key & 7 == 2:
            _, start = _read_varint(message, start)
            yield key >> 3, message[start:end]
        at = end


def _skip(message: bytes, at: int) -> int:
    """Where the field that begins at `at` ends."""
    key, at = _read_varint(message, at)
    if key & 7 == 0:
        return _read_varint(message, at)[1]
    if key & 7 == 2:
        length, at = _read_varint(message, at)
        return at + length
    return at + (8 if key & 7 == 1 else 4)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 128:
            return value, at


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, wire_type: int, content: bytes) -> bytes:
    return _varint(number << 3 | wire_type) + (_varint(len(content)) if wire_type == 2 else b"") + content


def tokenizer_report(tokenizer: Tokenizer, texts_by_language: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """How well the vocabulary fits each language.

    Per language: characters, bytes (UTF-8), words (split at white space), tokens, tokens_per_word, bytes_per_token,
    chars_per_token, share_starting_with_mark (tokens that begin with a combining sign, cut from its letter) and
    share_in_bytes (characters other than control characters that are not in the vocabulary).
    """
    import numpy as np

    pieces = tokenizer.pieces()
    starts_with_mark = np.array([p.type == NORMAL and unicodedata.category(p.text[0]).startswith("M") for p in pieces])
    # A character outside the vocabulary shows as its first byte; 0x80-0xBF are the bytes that follow.
    first_bytes = np.zeros(len(pieces), dtype=bool)
    first_bytes[[FIRST_BYTE + byte for byte in range(256) if byte >= 0xC2 or 0x20 <= byte < 0x7F]] = True
    languages = {}
    for language, texts in texts_by_language.items():
        characters = size = words = tokens = marks = in_bytes = 0
        for text in texts:
            ids = np.array(tokenizer.encode(text), dtype=np.int64)
            characters += len(text)
            size += len(text.encode())
            words += len(text.split())
            tokens += len(ids)
            marks += int(starts_with_mark[ids].sum())
            in_bytes += int(first_bytes[ids].sum())
        if tokens:
            languages[language] = {
                "characters": characters,
                "bytes": size,
                "words": words,
                "tokens": tokens,
                "tokens_per_word": round(tokens / max(words, 1), 4),
                "bytes_per_token": round(size / tokens, 4),
                "chars_per_token": round(characters / tokens, 4),
                "share_starting_with_mark": round(marks / tokens, 6),
                "share_in_bytes": round(in_bytes / characters, 6),
            }
    normal = [p.text for p in pieces if p.type == NORMAL]
    single = sum(len(text) == 1 for text in normal)
    return {
        "vocab_size": tokenizer.vocab_size,
        "pieces": {"special": FIRST_BYTE, "bytes": 256, "characters": single, "longer": len(normal) - single},
        "longest_pieces": [text.replace(SPACE_MARK, " ") for text in sorted(normal, key=lambda text: (-len(text), text))[:20]],
        "languages": languages,
    }
