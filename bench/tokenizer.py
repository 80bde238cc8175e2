"""Measures the effect of whole Devanagari letters and language balance on vocabularies: bench/tokenizer.py [--data DIR] [--json FILE]

Vocabularies of 4,000 tokens, learned from stories and courses in Marathi and stories in English, measured on conversations in
both languages that no vocabulary was trained on. The exit code is 1 if a target is missed.
"""

import argparse
import io
import itertools
import json
import lzma
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sentencepiece

from bulletlm.data.vocabulary import balanced_shares
from bulletlm.hardware import inspect_machine
from bulletlm.progress import SilentProgress
from bulletlm.text.normalize import normalize_line
from bulletlm.text.tokenizer import SPECIAL_TOKENS, Tokenizer
from bulletlm.text.tokenizer_report import tokenizer_report
from bulletlm.text.train_tokenizer import train_tokenizer

SIZE = 4_000


def plain_sentencepiece(texts: Iterable[str]) -> bytes:
    """Return the same settings without whole letters, as sentencepiece does by default."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=SIZE,
        character_coverage=0.9995,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        split_digits=True,
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        control_symbols=list(SPECIAL_TOKENS[3:]),
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def ours(texts: Iterable[str]) -> bytes:
    return train_tokenizer(texts, SIZE, 1, SilentProgress())


def lines(path: Path) -> list[str]:
    content = path.read_bytes()
    text = (lzma.decompress(content) if path.suffix == ".xz" else content).decode("utf-8")
    return [clean for line in text.splitlines() if (clean := normalize_line(line))]


def cut(texts: Sequence[str], characters: int) -> list[str]:
    """Return the texts in a fixed random order, up to a number of characters."""
    texts = list(texts)
    random.Random(1).shuffle(texts)
    total = itertools.accumulate(map(len, texts))
    return [text for text, so_far in zip(texts, total, strict=True) if so_far <= characters]


def measure(train: Callable[[Iterable[str]], bytes], texts: Sequence[str], held_out: dict[str, list[str]]) -> dict[str, Any]:
    started = time.perf_counter()
    tokenizer = Tokenizer(train(texts))
    seconds = time.perf_counter() - started
    for text in itertools.chain(*held_out.values()):
        if tokenizer.decode(tokenizer.encode(text)) != text:
            sys.exit(f"the round trip fails: {text!r}")
    languages = tokenizer_report(tokenizer, held_out)["languages"]
    return {
        "seconds": round(seconds, 2),
        **{f"{name}_tokens_per_character": round(each["tokens"] / each["characters"], 4) for name, each in languages.items()},
        **{f"{name}_tokens_per_word": each["tokens_per_word"] for name, each in languages.items()},
        "mr_cut_letters": languages["mr"]["share_starting_with_mark"],
        "mr_in_bytes": languages["mr"]["share_in_bytes"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data: Path = arguments.data
    marathi = lines(data / "mono/mr-stories.txt") + lines(data / "mono/mr-courses.txt.xz")
    english = lines(data / "mono/en-stories.txt")
    pairs = [line.split("\t") for line in (data / "parallel/en-mr-conversations.tsv").read_text(encoding="utf-8").splitlines()]
    held_out = {"en": [normalize_line(pair[0]) for pair in pairs], "mr": [normalize_line(pair[1]) for pair in pairs]}

    rows = []
    texts = cut(marathi, 800_000) + cut(english, 800_000)
    for name, train in (("plain sentencepiece", plain_sentencepiece), ("whole letters (ours)", ours)):
        rows.append({"table": "letters", "name": name, **measure(train, texts, held_out)})
    for mr_size, en_size in ((2_000_000, 200_000), (80_000, 800_000)):
        both = {"mr": cut(marathi, mr_size), "en": cut(english, en_size)}
        documents = ({"id": "", "source": "", "language": name, "text": text} for name, part in both.items() for text in part)
        shares = balanced_shares(documents)  # type: ignore[arg-type]
        for name in ("all of it", "in balance"):
            chosen = [
                cut(part, int(sum(map(len, part)) * (shares[language] if name == "in balance" else 1))) for language, part in both.items()
            ]
            label = f"mr {mr_size // 1000:,}k, en {en_size // 1000:,}k: {name}"
            rows.append({"table": "balance", "name": label, **measure(ours, chosen[0] + chosen[1], held_out)})

    columns = [key for key in rows[0] if key not in ("table", "name")]
    heads = [key.replace("_", " ").replace("tokens per character", "tok/char").replace("tokens per word", "tok/word") for key in columns]
    print(f"{'vocabulary of ' + format(SIZE, ','):36}", *(f"{head:>15}" for head in heads))
    for row in rows:
        print(f"{row['name']:36}", *(f"{row[key]:>15.4f}" for key in columns))
    plain, whole = rows[0], rows[1]
    bars = [
        ("Marathi tokens that begin inside a letter", whole["mr_cut_letters"], 0.02),
        ("Marathi tokens per character, against plain", whole["mr_tokens_per_character"] / plain["mr_tokens_per_character"], 1.01),
        ("English tokens per character, against plain", whole["en_tokens_per_character"] / plain["en_tokens_per_character"], 1.02),
    ]
    for name, value, target in bars:
        print(f"{'pass' if value <= target else 'FAIL'}  {name}: {value:.4f}, at most {target}")
    if arguments.json:
        machine = inspect_machine()
        result = {
            "machine": {"processor": machine.processor, "cores": machine.cores, "system": machine.system},
            "versions": {"python": sys.version.split()[0], "sentencepiece": version("sentencepiece"), "bulletlm": version("bulletlm")},
            "rows": rows,
            "bars": [{"name": name, "value": value, "target": target, "pass": value <= target} for name, value, target in bars],
        }
        arguments.json.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return 0 if all(value <= target for _, value, target in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
