"""Adds the chat marks to a model whose tokenizer lacks them and is otherwise one of BulletLM's.

Such a tokenizer is a sentencepiece BPE model that keeps text unchanged, with the tokens <unk> <s> </s>, then the 256 bytes, then
learned pieces. The marks <|user|> <|assistant|> <|end|> go between </s> and the bytes, where BulletLM's models have them.
"""

import numpy as np

from bulletlm.formats.stored import EncodedTensor, Floats, StoredModel, as_floats
from bulletlm.shape import ModelShape
from bulletlm.text.sentencepiece_rules import pieces_without_marks
from bulletlm.text.tokenizer import END, FIRST_PIECE, USER
from bulletlm.text.train_tokenizer import model_of_pieces

MARKS = END - USER + 1


def add_chat_marks(model: StoredModel) -> StoredModel:
    """The model with three more tokens. Their rows of the embedding and of the output matrix are the mean of the learned pieces' rows.

    With the mean row, the new tokens are at first neither likely nor unlikely, and the other predictions hardly change.

    Args:
        model: a model whose tokenizer lacks the marks.

    Raises:
        FormatError: the tokenizer is not such a tokenizer; the message says why.
    """
    proto = model_of_pieces(pieces_without_marks(model.tokenizer_proto))
    shape = ModelShape(**{**model.shape.to_dict(), "vocab_size": model.shape.vocab_size + MARKS})
    tensors: dict[str, EncodedTensor] = dict(model.tensors)
    for name in ("token_embedding.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = _with_rows(as_floats(tensors[name]))
    note = "its tokenizer has no chat marks: <|user|>, <|assistant|> and <|end|> were added, each with the mean row of the vocabulary"
    return StoredModel(shape, tensors, proto, model.metadata, (*model.notes, note))


def _with_rows(matrix: Floats) -> Floats:
    """float32 (vocabulary, dim) -> (vocabulary + MARKS, dim)."""
    mean = matrix[FIRST_PIECE - MARKS :].mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.concatenate([matrix[:USER], np.repeat(mean[None], MARKS, axis=0), matrix[USER:]])
