"""The BPE encoder of a loaded model: gives the same ids as sentencepiece, without the sentencepiece library.

Importing sentencepiece and loading its model takes more time and memory than the rest of a short answer.
"""

import heapq
from collections.abc import Sequence

from bulletlm.errors import DataError, FormatError
from bulletlm.text.pieces import NORMAL, Piece
from bulletlm.text.tokenizer import FIRST_BYTE, SPACE_MARK, SPECIAL_TOKENS, Tokenizer, token_bytes


class Vocabulary(Tokenizer):
    """A tokenizer made from the list of its pieces, as a `.bullet` file has it.

    Args:
        pieces: text, score and type in the order of the ids. Among adjacent pairs that form a piece, the pair with the
            highest score is merged first (byte pair encoding).
        proto: the same vocabulary as a sentencepiece model; stored but not used.

    Raises:
        FormatError: the first pieces are not the special and byte tokens that BulletLM uses.
    """

    def __init__(self, pieces: Sequence[Piece], proto: bytes) -> None:
        self.proto = proto
        self.vocab_size = len(pieces)
        self._pieces = pieces
        for i, text in enumerate([*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))]):
            if i >= len(pieces) or pieces[i].text != text:
                raise FormatError(f"the tokenizer is not one of BulletLM: token {i} should be {text}")
        self._bytes = [token_bytes(i, piece.text) for i, piece in enumerate(pieces)]
        self._ids = {piece.text: i for i, piece in enumerate(pieces) if piece.type == NORMAL}
        self._space_mark = [FIRST_BYTE + byte for byte in SPACE_MARK.encode()]
        # If spaces occur only at the beginning of pieces, each word can be encoded separately.
        self._by_words = not any(SPACE_MARK in text[1:] for text in self._ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts."""
        try:
            return [self._encode_around_space_marks(text) for text in texts]
        except UnicodeEncodeError:
            raise DataError("the text holds half of a surrogate pair, which no encoding can store: remove it") from None

    def pieces(self) -> list[Piece]:
        """The vocabulary in the order of its ids."""
        return [Piece(*piece) for piece in self._pieces]

    def _encode_around_space_marks(self, text: str) -> list[int]:
        ids: list[int] = []
        for n, part in enumerate(text.split(SPACE_MARK)):
            if n:
                ids += self._space_mark
            first, *spaced = part.split(" ") if self._by_words else [part.replace(" ", SPACE_MARK)]
            for word in (first, *(SPACE_MARK + word for word in spaced)):
                for symbol in self._joined(list(word)):
                    token = self._ids.get(symbol)
                    if token is None:
                        ids += [FIRST_BYTE + byte for byte in symbol.encode()]
                    else:
                        ids.append(token)
        return ids

    def _joined(self, symbols: list[str]) -> list[str]:
        """Merge characters to pieces, the best pair first, the leftmost of equal pairs; n log n steps."""
        count = len(symbols)
        before, after = list(range(-1, count - 1)), list(range(1, count + 1))
        pairs: list[tuple[float, int, str]] = []

        def propose(left: int, right: int) -> None:
            if left >= 0 and right < count:
                pair = symbols[left] + symbols[right]
                if (token := self._ids.get(pair)) is not None:
                    heapq.heappush(pairs, (-self._pieces[token].score, left, pair))

        for left in range(count - 1):
            propose(left, left + 1)
        while pairs:
            _, left, pair = heapq.heappop(pairs)
            right = after[left]
            if not symbols[left] or right >= count or symbols[left] + symbols[right] != pair:
                continue  # one of the two has been merged with another symbol
            symbols[left], symbols[right] = pair, ""
            after[left] = after[right]
            if after[left] < count:
                before[after[left]] = left
            propose(before[left], left)
            propose(left, after[left])
        return [symbol for symbol in symbols if symbol]
