"""Measures the speed of the data stage, and how time and memory grow with size: python bench/data.py [--data DIR] [--full] [--json FILE]

The input is real Marathi and English text; megabytes are its UTF-8 bytes. Seconds are CPU seconds, summed over all processes, so other
programs on the machine change them little. Each of our steps is compared with the usual alternative. Both run alternately (A B A B),
and the fastest round of each counts:

    cleaning    datatrove: ftfy, Gopher's repetition and quality rules (--datatrove PYTHON of an environment with
                `pip install datatrove ftfy indic-nlp-library nltk regex tokenizers`; skipped if it is not installed)
    dedup       datatrove's MinHash in its four steps
    tokenizer   Hugging Face tokenizers, byte-level BPE: training and encoding

The growth test runs the whole data stage on 10 MB and 100 MB (with --full also on 1 GB) in a separate process and measures its memory.
Its input is the real text, repeated with the words of each paragraph in another order, so that deduplication does not remove it.
The exit code is 1 if a target is missed.
"""

import argparse
import gzip
import json
import lzma
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MB = 1e6
SIZE = 4_000
ROUNDS = 2
FILES = [
    "mono/mr-legislature-qa.txt.xz",
    "mono/en-philosophy.txt.xz",
    "mono/mr-legislature-raw.txt.xz",
    "mono/en-fiction.txt.xz",
    "mono/mr-government.txt.xz",
    "mono/mr-saints.txt.xz",
    "mono/mr-courses.txt.xz",
    "mono/en-wiki.txt.gz",
    "mono/mr-stories.txt",
    "mono/en-stories.txt",
]


def read(path: Path) -> str:
    content = path.read_bytes()
    unpack = {".xz": lzma.decompress, ".gz": gzip.decompress}.get(path.suffix, bytes)
    return unpack(content).decode("utf-8")


def documents(data: Path, megabytes: float) -> Iterator[str]:
    """Yield documents from every file in turn, up to a size. From the second pass on, their words are in another order."""
    files = [[text for text in read(data / name).split("\n\n") if text.strip()] for name in FILES]
    size, times = 0.0, 0
    while True:
        times += 1
        # The sizes are in proportion, so that 10 MB have the same composition as the whole corpus.
        for step in range(1000):
            for texts in files:
                for text in texts[step * len(texts) // 1000 : (step + 1) * len(texts) // 1000]:
                    text = text if times == 1 else "\n".join(reordered(line, times) for line in text.split("\n"))
                    size += len(text.encode()) + 2
                    yield text
                    if size >= megabytes * MB:
                        return


def reordered(line: str, times: int) -> str:
    words = line.split(" ")
    return " ".join(word for start in range(times + 1) for word in words[start :: times + 1])


def write_corpus(data: Path, megabytes: float, path: Path) -> float:
    """Write a .txt of about this many megabytes; returns the exact number."""
    with open(path, "w", encoding="utf-8") as file:
        for text in documents(data, megabytes):
            file.write(text + "\n\n")
    return path.stat().st_size / MB


def best(functions: dict[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, float]:
    """Run the functions in turns and return the seconds of the fastest round of each."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            seconds[name].append(function())
    return {name: min(values) for name, values in seconds.items()}


def ours(corpus: Path, folder: Path) -> dict[str, Callable[[], float]]:
    """Time cleaning (rules and signals) and deduplication (signatures and repeats) in one process."""
    from bulletlm.config.schema import CleanConfig
    from bulletlm.data.clean_corpus import clean_files
    from bulletlm.data.dedup import find_repeats
    from bulletlm.data.log import Log
    from bulletlm.data.reading import BadRow, RawDocument, blocks
    from bulletlm.data.reading import documents as documents_of
    from bulletlm.data.rules import clean_document
    from bulletlm.data.signals import Batch, judge, sign
    from bulletlm.data.sources import SourceFile
    from bulletlm.progress import SilentProgress

    config, file = CleanConfig(preset="web"), SourceFile(corpus, corpus.name, ".txt", "auto", True, documents="blank_line")

    def clean() -> float:
        started = time.process_time()
        for block in blocks(file, lambda n: None, print):
            if not isinstance(block, BadRow):
                log = Log()
                raws = (raw for raw in documents_of(block, 1) if isinstance(raw, RawDocument))
                judge([kept for raw in raws if (kept := clean_document(raw, config, log))], config, log)
        return time.process_time() - started

    def dedup() -> float:
        cleaned = clean_files([file], config, 1, folder / "cleaned", 1, SilentProgress())
        batches = [[]]  # type: list[list[Any]]
        log = Log()
        for block in blocks(file, lambda n: None, print):
            if not isinstance(block, BadRow):
                raws = (raw for raw in documents_of(block, 1) if isinstance(raw, RawDocument))
                batches.append([kept for raw in raws if (kept := clean_document(raw, config, log))])
        started = time.process_time()
        for batch in batches:
            sign(Batch.of(batch))
        find_repeats(cleaned, config)
        return time.process_time() - started

    return {"clean": clean, "dedup": dedup}


def datatrove(corpus: Path, folder: Path, step: str) -> float:
    """Return the seconds that datatrove needs for one step. This runs in an environment with datatrove; bulletlm is not needed there."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.formatters import FTFYFormatter
    from datatrove.utils.hashing import HashConfig
    from loguru import logger

    logger.remove()
    texts = corpus.read_text(encoding="utf-8").split("\n\n")
    docs = [Document(text=text, id=str(n)) for n, text in enumerate(texts) if text.strip()]
    started = time.process_time()
    if step == "clean":
        language, common = "mar_Deva", ["आणि", "आहे", "या", "व", "हे", "the", "of", "and", "to"]
        data = FTFYFormatter().run(docs)
        data = GopherRepetitionFilter(language=language).run(data)
        data = GopherQualityFilter(language=language, stop_words=common).run(data)
        sum(1 for _ in data)
    else:
        # SHA-1, because datatrove's xxhash option does not work with the newest version of xxhash.
        hashing = HashConfig(hash_fc="sha1", precision=64)
        config, language = MinhashConfig(n_grams=3, num_buckets=16, hashes_per_bucket=6, hash_config=hashing), "mar_Deva"
        places = [str(folder / name) for name in ("signatures", "buckets", "remove")]
        MinhashDedupSignature(places[0], config=config, language=language).run(iter(docs), 0, 1)
        for bucket in range(config.num_buckets):
            MinhashDedupBuckets(places[0], places[1], config=config).run(None, bucket, config.num_buckets)
        MinhashDedupCluster(places[1], places[2], config=config).run(None, 0, 1)
        sum(1 for _ in MinhashDedupFilter(places[2]).run(iter(docs), 0, 1))
    return time.process_time() - started


def in_other_python(python: str, corpus: Path, step: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [python, __file__, "--peer", step, str(corpus), folder]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"datatrove failed: {result.stderr.strip().splitlines()[-1]}")
    return float(result.stdout.splitlines()[-1])


def has_datatrove(python: str) -> bool:
    return subprocess.run([python, "-c", "import datatrove, ftfy, indicnlp, tokenizers"], capture_output=True, check=False).returncode == 0


def tokenizers(texts: list[str]) -> dict[str, Callable[[], float]]:
    """Time training and encoding with our tokenizer and with Hugging Face's byte-level BPE. The round trips are checked."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tokenizers as hf

    from bulletlm.progress import SilentProgress
    from bulletlm.text.tokenizer import Tokenizer
    from bulletlm.text.train_tokenizer import train_tokenizer

    lines = [line for text in texts for line in text.split("\n") if line]
    made: dict[str, Any] = {}

    def train_ours() -> float:
        started = time.process_time()
        made["ours"] = Tokenizer(train_tokenizer(lines, SIZE, 1, SilentProgress()))
        return time.process_time() - started

    def train_hf() -> float:
        started = time.process_time()
        tokenizer = hf.Tokenizer(hf.models.BPE())
        tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = hf.decoders.ByteLevel()
        trainer = hf.trainers.BpeTrainer(vocab_size=SIZE, initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
        tokenizer.train_from_iterator(lines, trainer)
        made["hf"] = tokenizer
        return time.process_time() - started

    def encode_ours() -> float:
        started = time.process_time()
        ids = [made["ours"].encode_batch(texts[n : n + 512]) for n in range(0, len(texts), 512)]
        seconds = time.process_time() - started
        check([made["ours"].decode(row) for part in ids for row in part], "ours")
        made["ours tokens"] = sum(len(row) for part in ids for row in part)
        return seconds

    def encode_hf() -> float:
        started = time.process_time()
        rows = [row.ids for n in range(0, len(texts), 512) for row in made["hf"].encode_batch(texts[n : n + 512])]
        seconds = time.process_time() - started
        check([made["hf"].decode(row, skip_special_tokens=False) for row in rows], "Hugging Face's")
        made["hf tokens"] = sum(map(len, rows))
        return seconds

    def check(decoded: list[str], whose: str) -> None:
        wrong = next((one for one, other in zip(texts, decoded, strict=True) if one != other), None)
        if wrong is not None:
            sys.exit(f"the round trip of {whose} tokenizer fails: {wrong[:80]!r}")

    found = best({"train ours": train_ours, "train hf": train_hf})
    found |= best({"encode ours": encode_ours, "encode hf": encode_hf})
    return {**found, "ours tokens": made["ours tokens"], "hf tokens": made["hf tokens"]}


def stage(corpus: Path, out: Path, workers: int) -> dict[str, Any]:
    """Run the whole data stage in a separate process: CPU and wall seconds, and the peak memory of the process and its children."""
    import psutil

    code = (
        "import sys; from pathlib import Path; from bulletlm.config.schema import DataConfig; "
        "from bulletlm.data.prepare import prepare_data;"
        "from bulletlm.progress import SilentProgress;"
        "sources = [{'path': sys.argv[1], 'documents': 'blank_line'}];"
        "config = DataConfig(sources=sources, workers=int(sys.argv[3]), clean={'preset': 'web'});"
        "prepare_data(config, 1, Path(sys.argv[2]), SilentProgress())"
    )
    started, used, most = time.perf_counter(), children(), 0
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(corpus), str(out / "data"), str(workers)], stderr=subprocess.PIPE, text=True
    )
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        held = 0
        try:
            for each in [watched, *watched.children(recursive=True)]:
                held += each.memory_full_info().uss  # private memory only: the system can drop pages of mapped files at any time
        except psutil.Error:
            held = 0
        most = max(most, held)
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"the data stage failed: {process.stderr.read() if process.stderr else ''}")
    return {"seconds": children() - used, "wall_s": time.perf_counter() - started, "memory_mb": most / MB}


def children() -> float:
    """Return the CPU seconds of all child processes that have ended, and of their children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def same_files(one: Path, other: Path) -> bool:
    names = ("train.jsonl", "val.jsonl", "rejected.jsonl", "clean-report.json")
    return all((one / "data" / name).read_bytes() == (other / "data" / name).read_bytes() for name in names)


def planted(folder: Path, texts: list[str]) -> None:
    """Check that faults inserted into clean text are found, and that every removed document is reported."""
    from bulletlm.config.schema import DataConfig
    from bulletlm.data.prepare import prepare_data
    from bulletlm.progress import SilentProgress

    stories = [text.replace("\n", " ") for text in texts if len(text.split()) > 120 and len(text) < 5_000][:300]
    near = [" ".join("वेगळा" if n % 90 == 45 else word for n, word in enumerate(text.split())) for text in stories[:30]]
    path = folder / "planted.txt"
    path.write_text("\n\n".join([*stories, *stories[30:50], *near, "खरेदी करा " * 60]), encoding="utf-8")
    sources = [{"path": str(path), "documents": "blank_line"}]
    config = DataConfig(sources=sources, val_tokens=1000, clean={"preset": "web"})  # type: ignore[list-item, arg-type]
    report = prepare_data(config, 1, folder / "planted", SilentProgress())
    counts = {rule: entry.get("rejected", 0) for rule, entry in report["rules"].items()}
    rows = report["sources"][0]
    if counts.get("repeated_paragraph", 0) < 20 or counts.get("near_duplicate", 0) < 28 or not counts.get("repeated_words"):
        sys.exit(f"planted copies were not found: {counts}")
    if rows["rows_in"] - rows["rows_out"] != sum(counts.values()) or any(report["leaks"][kind] for kind in ("exact", "ngrams", "near")):
        sys.exit(f"the books do not balance: {rows}, {counts}, {report['leaks']}")


def print_signals(data: Path) -> None:
    """Print the statistics on which the thresholds of data.clean are based: the signals of documents of 50 words or more, for each file.

    Each cell has the smallest, the median and the largest value. The last columns are the shares of documents that Gopher's own
    limits and ours remove.
    """
    import numpy as np

    from bulletlm.config.schema import CleanConfig
    from bulletlm.data.log import Log
    from bulletlm.data.reading import RawDocument, read_documents
    from bulletlm.data.rules import clean_document
    from bulletlm.data.shingles import ngrams, repeated_share
    from bulletlm.data.signals import REPEATED_SEQUENCE, Batch, measure, quality
    from bulletlm.data.sources import SourceFile

    config = CleanConfig(preset="web")
    names = ("letters", "digits", "letter_words", "word_length", "common_words")
    print("| file | documents |", " | ".join(name.replace("_", " ") for name in names), "| repeated | Gopher | ours |")
    print("|---|---:|" + "---|" * len(names) + "---|---:|---:|")
    for path in sorted((data / "mono").glob("*.txt*")):
        file = SourceFile(path, path.name, ".txt", "auto", True, documents="blank_line")
        raws = [raw for raw in read_documents(file, 1, lambda n: None, print) if isinstance(raw, RawDocument)]
        batch = Batch.of([kept for raw in raws if (kept := clean_document(raw, config, Log()))])
        found = measure(batch)
        found["repeated"] = repeated_share(*ngrams(batch.flat, batch.document_starts, REPEATED_SEQUENCE))
        judged = found["words"] >= config.quality_words
        english = {"the", "be", "to", "of", "and", "that", "have", "with"}
        stop_words = [len(english & set(document.text.lower().split())) for document in batch.documents]
        gopher = (found["word_length"] < 3) | (found["word_length"] > 10) | (found["letter_words"] < 0.8) | (np.array(stop_words) < 2)
        ours = np.array([reason is not None for reason in quality(batch, config)]) | (found["repeated"] >= config.repeated_words)
        cells = [" ".join(f"{value:.2f}" for value in np.percentile(found[name][judged], [0, 50, 100])) for name in (*names, "repeated")]
        shares = [f"{100 * rule[judged].mean():.1f} %" for rule in (gopher, ours)]
        print(f"| {path.name} | {judged.sum():,} |", " | ".join([*cells, *shares]), "|", flush=True)


def print_languages(data: Path) -> None:
    """Print how many sentences of each language are detected correctly, by data/language.py and by py3langid if it is installed."""
    from bulletlm.data.language import detect

    ways: dict[str, Callable[[str], str]] = {"bulletlm": detect}
    try:
        import py3langid

        py3langid.set_languages(["mr", "hi", "en"])
        ways["py3langid"] = lambda text: py3langid.classify(text)[0]
    except ImportError:
        print("py3langid is not installed here: pip install py3langid")
    print("| file | sentences |", " | ".join(f"{name} {language}" for name in ways for language in ("en", "mr")), "|")
    print("|---|---:|" + "---:|" * 2 * len(ways))
    for path in sorted((data / "parallel").glob("*.tsv*")):
        rows = [line.split("\t") for line in read(path).split("\n") if line.count("\t") == 1]
        rows = rows[:: max(len(rows) // 1000, 1)]
        shares = [sum(way(row[n]) == ("en", "mr")[n] for row in rows) / len(rows) for way in ways.values() for n in (0, 1)]
        print(f"| {path.name} | {len(rows):,} |", " | ".join(f"{share:.1%}" for share in shares), "|", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--full", action="store_true", help="grow to 1 GB; takes some minutes")
    parser.add_argument("--signals", action="store_true", help="print only the statistics on which the quality thresholds are based")
    parser.add_argument("--languages", action="store_true", help="print only how often the language is detected correctly")
    parser.add_argument("--datatrove", default=sys.executable, metavar="PYTHON", help="a Python that has datatrove")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        step, corpus, place = arguments.peer
        print(datatrove(Path(corpus), Path(place), step))
        return 0
    if arguments.signals:
        print_signals(arguments.data)
        return 0
    if arguments.languages:
        print_languages(arguments.data)
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-data-") as folder:
        result = measure(arguments.data, Path(folder), arguments.full, arguments.datatrove)
    for bar in result["bars"]:
        sign = "at least" if bar["least"] else "at most"
        print(f"{'pass' if bar['pass'] else 'FAIL'}  {bar['name']}: {bar['value']:.2f}, {sign} {bar['target']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return 0 if all(bar["pass"] for bar in result["bars"]) else 1


def measure(data: Path, folder: Path, full: bool, python: str) -> dict[str, Any]:
    from importlib.metadata import version

    from bulletlm.data.workers import cores
    from bulletlm.hardware import inspect_machine

    rows: list[dict[str, Any]] = []

    def show(step: str, name: str, seconds: float, megabytes: float, **more: Any) -> float:
        speed = megabytes / seconds
        rows.append(
            {"step": step, "name": name, "mb": round(megabytes, 1), "seconds": round(seconds, 2), "mb_per_s": round(speed, 2), **more}
        )
        notes = "  ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in more.items())
        print(f"{step:12}{name:34}{megabytes:8.1f} MB{seconds:9.1f} s{speed:9.2f} MB/s  {notes}", flush=True)
        return speed

    texts = list(documents(data, 10))
    planted(folder, texts)
    corpus = folder / "corpus-10.txt"
    megabytes = write_corpus(data, 10, corpus)
    steps = ours(corpus, folder)
    bars: list[tuple[str, float, float, bool]] = []
    peer = has_datatrove(python)
    for step, title in (("clean", "cleaning"), ("dedup", "dedup")):
        functions = {"bulletlm, 1 process": steps[step]}
        if peer:
            functions["datatrove, 1 process"] = lambda step=step: in_other_python(python, corpus, step)  # type: ignore[misc]
        speeds = {name: show(title, name, seconds, megabytes) for name, seconds in best(functions).items()}
        if peer:
            bars.append((f"{title}, times datatrove", speeds["bulletlm, 1 process"] / speeds["datatrove, 1 process"], 2.0, True))
    if not peer:
        print("cleaning and dedup: datatrove is not installed here; give --datatrove PYTHON (see --help)")

    found = tokenizers(texts)
    size = sum(len(text.encode()) for text in texts) / MB
    speeds = {}
    for step, title in (("train", "tokenizer"), ("encode", "encoding")):
        for whose, name in (("ours", "bulletlm (sentencepiece BPE)"), ("hf", "tokenizers (byte-level BPE)")):
            tokens = {"tokens": found[f"{whose} tokens"]} if step == "encode" else {}
            speeds[step, whose] = show(title, name, found[f"{step} {whose}"], size, **tokens)
    bars.append(("tokenizer training, times Hugging Face", speeds["train", "ours"] / speeds["train", "hf"], 1.0, True))
    bars.append(("tokens for the text, times Hugging Face", found["ours tokens"] / found["hf tokens"], 0.8, False))

    workers = cores()
    grown = {}
    for wanted in (10, 100, 1000) if full else (10, 100):
        path = folder / f"corpus-{wanted}.txt"
        megabytes = write_corpus(data, wanted, path)
        taken = stage(path, folder / f"stage-{wanted}", workers)
        grown[wanted] = taken["seconds"] / megabytes
        show(
            "data stage",
            f"{workers} processes",
            taken["seconds"],
            megabytes,
            memory_mb=round(taken["memory_mb"]),
            wall_s=round(taken["wall_s"]),
        )
        last = taken["memory_mb"]
        if wanted == 10:
            stage(path, folder / "stage-10-alone", 1)
            if not same_files(folder / "stage-10", folder / "stage-10-alone"):
                sys.exit("one process and several write different files")
        shutil.rmtree(folder / f"stage-{wanted}")
        path.unlink()
    largest = max(grown)
    bars.append((f"memory for {largest:,} MB of text, MB", last, 4000, False))
    bars.append((f"CPU seconds a MB at {largest:,} MB, times those at 10 MB", grown[largest] / grown[10], 1.2, False))
    machine = inspect_machine()
    return {
        "machine": {"processor": machine.processor, "cores": machine.cores, "system": machine.system},
        "versions": {
            "python": sys.version.split()[0],
            **{name: version(name) for name in ("bulletlm", "numpy", "rensa", "sentencepiece", "tokenizers")},
        },
        "rows": rows,
        "bars": [
            {
                "name": name,
                "value": round(value, 3),
                "target": target,
                "least": least,
                "pass": value >= target if least else value <= target,
            }
            for name, value, target, least in bars
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
