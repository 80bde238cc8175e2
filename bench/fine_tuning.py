"""Compares a run from random weights with a run from a model, at equal wall-clock time, on text of three domains.

The domains are children's stories, health sentences (tico19) and conversations of the shared text collection, in Marathi and English.
Of each domain the last 40 KB are never trained on. A run gets 50 KB, 200 KB or 1 MB of the rest, as far as the domain has so much:

    bullet run TEXT --hours H --from none         the plan of `bullet run` itself
    bullet run TEXT --hours H --from BASE

The base has seen nothing of the domains. This command trains it: the recipe of the packaged model without these files, and without any
line of them that other files repeat.

    python bench/fine_tuning.py --train-base base --hours 1
    python bench/fine_tuning.py base/base/model.bullet --hours 0.17

For each run it prints bits per byte of the 4-bit model on the text that was kept back, the share of invented words in its
continuations of that text, and one continuation. An invented word is one that neither the domain nor the text of the package has.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from bulletlm.config.loader import read_values
from bulletlm.config.recipes import RECIPES
from bulletlm.evaluate.parent import other_text
from bulletlm.evaluate.perplexity import score
from bulletlm.evaluate.training_text import real_words
from bulletlm.files import write_json, write_text
from bulletlm.progress import ConsoleProgress, SilentProgress
from bulletlm.runtime import Sampling, generate, load
from bulletlm.text.chat import encode_prompt
from bulletlm.text.tokenizer import BOS, END, EOS

DATA = Path("../shared/data")
KEPT_BACK_BYTES = 40_000
SIZES = {"50 KB": 50_000, "200 KB": 200_000, "1 MB": 1_000_000}
PROMPTS = 20
PROMPT_WORDS = 8

DOMAINS = {
    "stories": ("mono/mr-stories.txt", "mono/en-stories.txt"),
    "health": ("parallel/en-mr-tico19.tsv",),
    "conversations": ("chat/mr-conversations.jsonl", "chat/en-conversations.jsonl"),
}
ALSO_LEFT_OUT = ("parallel/en-mr-stories.tsv", "parallel/en-mr-conversations.tsv", "chat/translate.jsonl.gz")
"""Files with the same text in another form."""


@dataclass(frozen=True)
class Row:
    """One run: bits per byte of text that was kept back, share of invented words, wall-clock minutes, and a continuation."""

    domain: str
    size: str
    start: str
    bits_per_byte: float
    invented: float
    minutes: float
    sample: str


def documents(domain: str, data: Path) -> list[list[str]]:
    """The documents of each file of a domain, as they stand in the file."""
    found = []
    for name in DOMAINS[domain]:
        text = (data / name).read_text(encoding="utf-8")
        blocks = [block + "\n\n" for block in text.split("\n\n")] if name.endswith(".txt") else text.splitlines(keepends=True)
        found.append([block for block in blocks if block.strip()])
    return found


def split(files: list[list[str]], size: int) -> tuple[list[str], list[str]]:
    """The first documents of all files up to `size` bytes, and the last ones of KEPT_BACK_BYTES, which do not overlap.

    Each file gives the same part of both, so that both have the same languages; the files take turns.
    """
    firsts, lasts = [], []
    for documents in files:
        kept, total = len(documents), 0
        while kept and total < KEPT_BACK_BYTES / len(files):
            kept -= 1
            total += len(documents[kept].encode())
        first, total = [], 0
        for document in documents[:kept]:
            if total >= size / len(files):
                break
            first.append(document)
            total += len(document.encode())
        firsts.append(first)
        lasts.append(documents[kept:])
    return _in_turn(firsts), _in_turn(lasts)


def _in_turn(files: list[list[str]]) -> list[str]:
    return [document for document in chain.from_iterable(zip_longest(*files)) if document]


def plain(document: str) -> str:
    """The words of a document, without the marks of its file format."""
    if document.startswith("{"):
        return " ".join(message["content"] for message in json.loads(document)["messages"])
    return document.replace("\t", " ")


def known_words(domain: str, data: Path) -> set[str]:
    """The words of the whole domain and of the text of the package."""
    package = Path(__file__).parents[1] / "src" / "bulletlm" / "data"
    texts = [plain(document) for document in chain.from_iterable(documents(domain, data))]
    texts += [path.read_text(encoding="utf-8") for folder in ("sample", "simple") for path in sorted((package / folder).glob("*.*"))]
    return {word for text in texts for word in real_words(text)}


def continuations(path: Path, kept: list[str]) -> list[str]:
    """What a model writes after the beginning of documents, or as the answer to the first message of a conversation."""
    model, found = load(path), []
    for document in kept[:PROMPTS]:
        if document.startswith("{"):
            ids = encode_prompt(model.tokenizer, [{"role": "user", "content": json.loads(document)["messages"][0]["content"]}])
        else:
            ids = [BOS, *model.tokenizer.encode(" ".join(plain(document).split()[:PROMPT_WORDS]))]
        ids = ids[-model.shape.max_seq_len // 2 :]
        found.append(model.tokenizer.decode(generate(model, ids, Sampling(temperature=0.7, max_tokens=60, seed=1), (END, EOS))))
    return found


def invented_share(texts: list[str], known: set[str]) -> float:
    words = [word for text in texts for word in real_words(text)]
    return sum(word not in known for word in words) / max(1, len(words))


def measure(model: Path, run_dir: Path, held_out: Path) -> float:
    """Bits per byte of a model on text that its run did not train on."""
    loaded = load(model)
    file = other_text(str(held_out), run_dir, 42, loaded.tokenizer, SilentProgress())
    assert file is not None
    bits = score(loaded.engine, file, loaded.tokenizer, SilentProgress()).total.bits_per_byte
    assert bits is not None
    return bits


def train_base(folder: Path, data: Path, hours: float, flags: list[str]) -> None:
    """Train a model that has seen nothing of the domains, with the recipe of the packaged model."""
    values = read_values(RECIPES / "marathi-english.jsonc")
    left_out = {*chain.from_iterable(DOMAINS.values()), *ALSO_LEFT_OUT}
    sources = []
    for source in values["data"]["sources"]:
        name = source["path"].removeprefix("corpus/")
        if name not in left_out:
            here = source["path"] in ("sample", "simple")
            sources.append(source if here else {**source, "path": str((data / name).absolute())})
    domains = [str((data / name).absolute()) for name in chain.from_iterable(DOMAINS.values())]
    values["data"] = {**values["data"], "sources": sources, "held_out": domains}
    values |= {"name": "base", "runs_dir": str(folder), "license": "unspecified"}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "base.json", values)
    steps = flags or [f"--total-steps={_steps(folder / 'base.json', hours)}"]
    subprocess.run([sys.executable, "-m", "bulletlm", "run", str(folder / "base.json"), *steps], check=True)


def _steps(config: Path, hours: float) -> int:
    """Optimizer steps for which there is time, by `bullet plan`."""
    from bulletlm.config.loader import load_config
    from bulletlm.pipeline.plan import Clock, measure

    loaded = load_config(config)
    shape = loaded.model.shape(loaded.tokenizer.vocab_size)
    return max(100, int(0.8 * 3600 * hours / Clock([measure(shape, loaded.train, 10)]).seconds(shape, loaded.train)))


def compare(base: Path, arguments: argparse.Namespace, folder: Path, flags: list[str]) -> list[Row]:
    """Train from random weights and from the base on every domain and size."""
    rows: list[Row] = []
    for domain in arguments.domains:
        files, known = documents(domain, arguments.data), known_words(domain, arguments.data)
        ending = Path(DOMAINS[domain][0]).suffix
        for size in arguments.sizes:
            texts, kept = split(files, SIZES[size])
            if sum(len(document.encode()) for document in texts) < 0.8 * SIZES[size]:
                print(f"{domain}: has less than {size}", file=sys.stderr)
                continue
            place = folder / f"{domain}-{size.replace(' ', '')}"
            place.mkdir(parents=True)
            write_text(place / f"text{ending}", "".join(texts))
            write_text(place / f"kept{ending}", "".join(kept))
            for start in ("none", str(base.absolute())):
                name = "scratch" if start == "none" else "base"
                command = [sys.executable, "-m", "bulletlm", "run", str(place / f"text{ending}"), "--hours", f"{arguments.hours:g}"]
                command += [f"--name={name}", f"--runs-dir={place}", f"--from={start}", "--license=CC-BY-4.0", *flags]
                begun = time.monotonic()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                minutes = (time.monotonic() - begun) / 60
                written = continuations(place / name / "model.bullet", kept)
                bits = measure(place / name / "model.bullet", place / name, place / f"kept{ending}")
                rows.append(Row(domain, size, name, bits, invented_share(written, known), minutes, written[0].replace("\n", " ")))
                print(_line(rows[-1]), flush=True)
            before = measure(base, place / "base", place / f"kept{ending}")
            written = continuations(base, kept)
            rows.append(Row(domain, size, "untrained base", before, invented_share(written, known), 0.0, written[0].replace("\n", " ")))
            print(_line(rows[-1]), flush=True)
    return rows


def _line(row: Row) -> str:
    figures = f"{row.bits_per_byte:.3f} bits/byte, {row.invented:.1%} invented words, {row.minutes:.1f} min"
    return f"{row.domain}, {row.size}, {row.start}: {figures}: {row.sample[:100]}"


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table, one line for each domain and size."""
    lines = [
        "| domain | text | bits/byte scratch | base before | base after | invented words scratch | base after | minutes scratch | base |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    by_place: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        by_place.setdefault((row.domain, row.size), {})[row.start] = row
    for (domain, size), found in by_place.items():
        scratch, after, before = found["scratch"], found["base"], found["untrained base"]
        lines.append(
            f"| {domain} | {size} | {scratch.bits_per_byte:.3f} | {before.bits_per_byte:.3f} | {after.bits_per_byte:.3f} "
            f"| {scratch.invented:.1%} | {after.invented:.1%} | {scratch.minutes:.1f} | {after.minutes:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", nargs="?", type=Path, help="the model to start from: a .bullet file or a run folder's model.bullet")
    parser.add_argument("--train-base", type=Path, metavar="FOLDER", help="train a base into FOLDER/base and stop")
    parser.add_argument("--data", type=Path, default=DATA, help="the shared text collection")
    parser.add_argument("--hours", type=float, default=0.17, help="time of each run, or of the base")
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--folder", type=Path, help="keep the runs here; default: a temporary folder")
    parser.add_argument("--quick", action="store_true", help="a few steps of micro models, to see that the script works")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    flags: list[str] = []
    if arguments.quick:
        flags = ["--total-steps=20", "--qat.steps=0", "--max-tokens=8", "--set", "data.mix.general=0"]
        arguments.domains, arguments.sizes = arguments.domains[:1], ["50 KB"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if arguments.train_base:
            train_base(arguments.train_base, arguments.data, arguments.hours, flags)
            return
        base = arguments.base
        if base is None:
            if not arguments.quick:
                parser.error("name a base, or train one with --train-base FOLDER")
            micro = ["--dim=64", "--layers=2", "--heads=2", "--vocab-size=800", "--seq-len=64"]
            command = [
                sys.executable,
                "-m",
                "bulletlm",
                "run",
                "sample",
                f"--runs-dir={folder}",
                "--name=micro",
                "--from=none",
                *micro,
                *flags,
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            base = folder / "micro" / "model.bullet"
        rows = compare(base, arguments, folder, flags)
    print(table(rows))
    if arguments.json:
        result: dict[str, Any] = {"hours": arguments.hours, "rows": [asdict(row) for row in rows]}
        write_json(arguments.json, result)
    ConsoleProgress().log("done")


if __name__ == "__main__":
    main()
