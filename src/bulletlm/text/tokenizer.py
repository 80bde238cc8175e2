"""The tokenizer: encodes text to token ids and decodes them without loss, with a vocabulary trained by train_tokenizer.py.

Every Unicode string is decoded exactly: characters that are not in the vocabulary are encoded as UTF-8 byte tokens.
This module needs neither torch nor pydantic; sentencepiece is imported only where it is needed.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from bulletlm.errors import BulletError, DataError, FormatError
from bulletlm.files import read_regular
from bulletlm.terminal import printable
from bulletlm.text.pieces import BYTE, CONTROL, NORMAL, UNKNOWN, Piece

UNK, BOS, EOS, USER, ASSISTANT, END = range(6)
"""Ids of the special tokens: <unk> <s> </s> <|user|> <|assistant|> <|end|>."""

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>")
FIRST_BYTE = len(SPECIAL_TOKENS)
"""Byte b is token FIRST_BYTE + b."""

FIRST_PIECE = FIRST_BYTE + 256

SPACE_MARK = "\u2581"
"""sentencepiece writes a space as this character, so the character itself is spelled in bytes."""


class Tokenizer:
    """Encodes and decodes with a trained vocabulary.

    Raises:
        FormatError: the bytes are not a sentencepiece model, or the model changes text, which BulletLM's models do not.
    """

    def __init__(self, model_proto: bytes) -> None:
        import sentencepiece

        from bulletlm.text.sentencepiece_rules import read_model_file

        self.proto = model_proto
        try:
            pieces = read_model_file(model_proto)
        except FormatError as error:
            raise FormatError(f"the tokenizer is not one of BulletLM: {error}") from None
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(model_proto)
            self.vocab_size: int = self._model.vocab_size()
            texts: list[str] = [self._model.id_to_piece(i) for i in range(self.vocab_size)]
        except (RuntimeError, UnicodeDecodeError) as error:
            raise FormatError(f"the tokenizer is not a sentencepiece model: {printable(str(error), limit=200)}") from None
        if texts != [piece.text for piece in pieces]:
            raise FormatError(
                "the tokenizer is not a sentencepiece model of BulletLM: the sentencepiece library reads other pieces from it"
            )
        self._bytes = [token_bytes(i, text) for i, text in enumerate(texts)]
        self._space_mark = [FIRST_BYTE + byte for byte in SPACE_MARK.encode()]

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read tokenizer.model.

        Raises:
            BulletError: the file does not exist. FormatError: it is not a BulletLM tokenizer.
        """
        try:
            proto = read_regular(path)
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
        return [Piece(self._model.id_to_piece(i), self._model.get_score(i), type_of_id(i)) for i in range(self.vocab_size)]


def token_bytes(i: int, text: str) -> bytes:
    """The UTF-8 bytes that token `i`, the piece `text`, represents."""
    kind = type_of_id(i)
    if kind == BYTE:
        return bytes([i - FIRST_BYTE])
    return text.replace(SPACE_MARK, " ").encode() if kind == NORMAL else b""


def type_of_id(i: int) -> int:
    """The piece type of token `i`, which is the same in every vocabulary."""
    if i == UNK:
        return UNKNOWN
    if i < FIRST_BYTE:
        return CONTROL
    return BYTE if i < FIRST_PIECE else NORMAL
