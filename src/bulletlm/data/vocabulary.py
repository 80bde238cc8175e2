"""The tokenizer stage: learn the vocabulary from train.jsonl and say how well it fits val.jsonl."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulletlm.data.documents import read_documents, texts_of
from bulletlm.data.language import detect
from bulletlm.files import atomic_folder, write_json
from bulletlm.progress import Progress
from bulletlm.tokenizer import Tokenizer, tokenizer_report, train_tokenizer

if TYPE_CHECKING:
    from bulletlm.config import TokenizerConfig


def prepare_tokenizer(config: "TokenizerConfig", seed: int, data_dir: Path, out_dir: Path, progress: Progress) -> dict[str, Any]:
    """Train on the documents of `data_dir`/train.jsonl; write tokenizer.model and report.json; give the report.

    The figures of the report are measured on val.jsonl, text that the tokenizer has not seen.

    Raises:
        ConfigError: the text cannot fill the vocabulary. BulletError: the rows are missing or damaged.
    """
    proto = train_tokenizer(_texts(data_dir / "train.jsonl"), config.vocab_size, seed, progress)
    held_out: dict[str, list[str]] = {}
    for document in read_documents(data_dir / "val.jsonl"):
        for text in texts_of(document):
            # A translation request holds two languages, one in each message.
            language = detect(text) if "messages" in document else document["language"]
            held_out.setdefault(language, []).append(text)
    report = {"measured_on": "val.jsonl", **tokenizer_report(Tokenizer(proto), dict(sorted(held_out.items())))}
    with atomic_folder(out_dir) as folder:
        (folder / "tokenizer.model").write_bytes(proto)
        write_json(folder / "report.json", report)
    return report


def _texts(path: Path) -> Iterator[str]:
    for document in read_documents(path):
        yield from texts_of(document)
