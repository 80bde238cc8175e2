"""`bullet tokenizer --compare`: compares vocabularies of 2,000, 4,000 and 8,000 tokens on the text of a run."""

import time
from pathlib import Path
from typing import Any

from bulletlm.config.schema import Config
from bulletlm.data.vocabulary import balanced_shares, held_out_texts, training_texts
from bulletlm.errors import ConfigError
from bulletlm.files import write_json
from bulletlm.progress import Progress
from bulletlm.terminal import printable
from bulletlm.text.documents import read_documents
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.text.tokenizer_report import tokenizer_report
from bulletlm.text.train_tokenizer import train_tokenizer

SIZES = (2_000, 4_000, 8_000)


def compare_sizes(config: Config, progress: Progress) -> dict[str, Any]:
    """Train vocabularies of SIZES and of the configured size on the run's data; write tokenizer/compare.json and return its content.

    Each row has `vocab_size`, `train_seconds`, `embedding_parameters` and `embedding_share` (of the whole model's parameters) for
    the configured shape, `context_words` (words that fit into the configured context, by language) and `languages`, measured on
    val.jsonl as in tokenizer/report.json; or `problem` if there is too little text for that size.

    Raises:
        BulletError: the rows of the run are missing or damaged.
    """
    data = config.run_dir / "data"
    held_out = held_out_texts(data / "val.jsonl")
    shares = balanced_shares(read_documents(data / "train.jsonl"))
    rows = []
    for size in sorted({*SIZES, config.tokenizer.vocab_size}):
        shape = config.model.shape(size)
        embedding = size * shape.dim * (1 if shape.tied_embeddings else 2)
        row: dict[str, Any] = {
            "vocab_size": size,
            "embedding_parameters": embedding,
            "embedding_share": round(embedding / shape.n_parameters, 4),
        }
        started = time.monotonic()
        try:
            tokenizer = Tokenizer(train_tokenizer(training_texts(data / "train.jsonl", shares), size, config.seed, progress))
        except ConfigError as error:
            row["problem"] = str(error)
        else:
            row["train_seconds"] = round(time.monotonic() - started, 2)
            languages = tokenizer_report(tokenizer, held_out)["languages"]
            row["context_words"] = {name: round(shape.max_seq_len / each["tokens_per_word"]) for name, each in languages.items()}
            row["languages"] = languages
        rows.append(row)
    result = {"configured": config.tokenizer.vocab_size, "dim": config.model.dim, "context": config.model.max_seq_len, "rows": rows}
    write_json(config.run_dir / "tokenizer" / "compare.json", result)
    return result


def print_sizes(result: dict[str, Any], path: Path) -> None:
    """Print the comparison as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for heading in ("size", "embedding\nparameters", "of the\nmodel", "trained\nin"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("", "tokens\n/word", "bytes\n/token", "in\nbytes", "cut\nletters", "words in\ncontext"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result["rows"]:
        mark = " *" if row["vocab_size"] == result["configured"] else "  "
        seconds = f"{row['train_seconds']:.1f} s" if "problem" not in row else "-"
        first = [f"{row['vocab_size']:,}{mark}", f"{row['embedding_parameters']:,}", f"{row['embedding_share']:.0%}", seconds]
        for name, each in row.get("languages", {}).items():
            shares = [f"{each['share_in_bytes']:.2%}", f"{each['share_starting_with_mark']:.2%}"]
            words = f"{row['context_words'][name]:,}"
            table.add_row(*first, name, f"{each['tokens_per_word']:.2f}", f"{each['bytes_per_token']:.2f}", *shares, words)
            first = [""] * len(first)
        if "problem" in row:
            table.add_row(*first)
    console = Console(highlight=False)
    console.print(table)
    for row in result["rows"]:
        if "problem" in row:
            console.print(printable(row["problem"]), markup=False)
    console.print(
        f"\n* configured; parameters and context are those of dim {result['dim']} and {result['context']} tokens. Measured on val.jsonl.\n"
        "in bytes: characters spelled in bytes. cut letters: tokens that begin with a sign cut from its letter.",
        markup=False,
    )
    console.print(printable(str(path)), markup=False, soft_wrap=True)
