"""Reads a BulletLM vocabulary from tokenizer.json, the only file that transformers writes when it saves a tokenizer.

The file lists texts and merges, and no scores. sentencepiece joins the pair whose piece has the highest score, the tokenizers
library the pair with the lowest rank: both encode alike if scores fall in the order in which pieces first appear in the merges.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bulletlm.errors import FormatError
from bulletlm.formats.bullet.header import parse_json, show
from bulletlm.formats.stored import brief
from bulletlm.text.sentencepiece_rules import fixed_text
from bulletlm.text.tokenizer import FIRST_PIECE, SPACE_MARK, SPECIAL_TOKENS


def read_tokenizer_json(content: bytes, where: str) -> list[tuple[str, float]]:
    """Text and score of the pieces after the special and byte tokens, in the order of their ids.

    Raises:
        FormatError: damaged, or not a tokenizer of BulletLM; the message names what differs.
    """
    values = parse_json(content, where)
    model = values.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise FormatError(f"{where}: model.type is {_shown(model, 'type')}: only tokenizers of BulletLM (BPE) are supported")
    texts = _texts(model.get("vocab"), where)
    for i in range(FIRST_PIECE):
        wanted = fixed_text(i)
        if i >= len(texts) or texts[i] != wanted:
            found = f'is "{brief(texts[i])}"' if i < len(texts) else "is missing"
            raise FormatError(f'{where}: token {i} {found}, but must be "{wanted}": only tokenizers of BulletLM are supported')
    _check_settings(values, model, where)
    _check_added(values.get("added_tokens"), len(texts), where)
    return _scored(texts[FIRST_PIECE:], _merges(model.get("merges"), where), where)


def _texts(vocab: Any, where: str) -> list[str]:
    if not isinstance(vocab, dict) or sorted(i for i in vocab.values() if type(i) is int) != list(range(len(vocab))):
        raise FormatError(f"{where}: model.vocab must give every text an id, from 0 on without a gap")
    return sorted(vocab, key=lambda text: vocab[text])


def _check_settings(values: Mapping[str, Any], model: Mapping[str, Any], where: str) -> None:
    """Check that every setting that affects the ids of a text has the same value as in our exports."""
    wanted: dict[str, tuple[Any, ...]] = {
        "byte_fallback": (True,),
        "dropout": (None, 0, 0.0),
        "continuing_subword_prefix": (None, ""),
        "end_of_word_suffix": (None, ""),
        "ignore_merges": (False, None),
    }
    for key, allowed in wanted.items():
        if model.get(key) not in allowed:
            raise FormatError(f"{where}: model.{key} is {_shown(model, key)}: only {show(allowed[0])} is supported")
    normalizer, splitter = values.get("normalizer"), values.get("pre_tokenizer")
    marks_spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
    if normalizer not in (None, marks_spaces, {"type": "Sequence", "normalizers": [marks_spaces]}):
        raise FormatError(f"{where}: normalizer is {show(normalizer)}: it changes text, and only tokenizers that keep it are supported")
    if splitter is None and normalizer is not None:
        return
    found = splitter if isinstance(splitter, dict) else {}
    plain = found.get("type") == "Metaspace" and found.get("replacement", SPACE_MARK) == SPACE_MARK and found.get("split") is False
    if not plain or found.get("prepend_scheme") != "never" or found.get("add_prefix_space", False) is not False:
        raise FormatError(f"{where}: pre_tokenizer is {show(splitter)}: only tokenizers that keep text unchanged are supported")


def _check_added(added: Any, size: int, where: str) -> None:
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise FormatError(f"{where}: added_tokens must be a list of objects")
    found = {token.get("content"): token for token in added}
    for token in added:
        text, i = token.get("content"), token.get("id")
        if type(i) is not int or not 0 <= i < len(SPECIAL_TOKENS) or text != SPECIAL_TOKENS[i]:
            what = "it is not in the vocabulary" if type(i) is int and i >= size else "only the six special tokens may be there"
            raise FormatError(f"{where}: the added token {show(text)} is not one of BulletLM's: {what}")
        if token.get("special") is not True or token.get("lstrip") or token.get("rstrip") or token.get("normalized"):
            raise FormatError(f"{where}: the added token {show(text)} must be special, and not stripped or normalized")
    for text in SPECIAL_TOKENS:
        if text not in found:
            raise FormatError(f"{where}: added_tokens lacks {show(text)}")


def _merges(merges: Any, where: str) -> list[tuple[str, str]]:
    """Pairs of texts; older files write a pair as one text with a space between."""
    if not isinstance(merges, list):
        raise FormatError(f"{where}: model.merges must be a list")
    pairs = []
    for n, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) and text for text in pair):
            raise FormatError(f"{where}: model.merges[{n}] is not a pair of texts")
        pairs.append((pair[0], pair[1]))
    return pairs


def _scored(texts: Sequence[str], merges: Sequence[tuple[str, str]], where: str) -> list[tuple[str, float]]:
    """Scores with which sentencepiece joins the same pairs in the same order."""
    known = set(texts)
    implied = {(text[:n], text[n:]) for text in texts for n in range(1, len(text)) if text[:n] in known and text[n:] in known}
    # Merges that give a special or byte token have no effect: such texts are found before, or are spelled in bytes.
    fixed = {fixed_text(i) for i in range(FIRST_PIECE)}
    merges = [(left, right) for left, right in merges if left + right not in fixed]
    given = set(merges)
    if given != implied:
        left, right = min(given ^ implied)
        state = "is not one of two pieces" if (left, right) in given else "is missing"
        raise FormatError(f'{where}: the merge of "{brief(left)}" and "{brief(right)}" {state}: only tokenizers of BulletLM are supported')
    order = list(dict.fromkeys(left + right for left, right in merges))
    ids = {text: i for i, text in enumerate(texts)}
    if [ids[text] for text in order] == sorted(ids[text] for text in order):
        return [(text, -float(i)) for i, text in enumerate(texts)]  # as training numbers them
    rank = {text: n for n, text in enumerate(order)}
    return [(text, -float(rank.get(text, len(order) + i))) for i, text in enumerate(texts)]


def _shown(values: Any, key: str) -> str:
    return show(values.get(key)) if isinstance(values, dict) else "missing"
