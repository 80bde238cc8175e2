"""Times the comparison of FP32 and 4-bit: 10,000 validation tokens through both models, with all figures of the report.

The weights are random numbers in the shape of a recipe, since the time does not depend on their values. The aim is 20 seconds on two
cores for the shape of the recipe seed.

    python bench/evaluate.py --recipe=src/bulletlm/recipes/seed.jsonc --tokens=10000
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from bulletlm.config.loader import load_config
from bulletlm.data.tokens import open_tokens, write_tokens
from bulletlm.evaluate.compare import compare
from bulletlm.formats.bullet.writer import ModelContents, write_bullet
from bulletlm.formats.npy import write_npy
from bulletlm.hardware import available_cores
from bulletlm.progress import SilentProgress
from bulletlm.quant.types import standard_types
from bulletlm.runtime import load
from bulletlm.text.documents import Document, to_line
from bulletlm.text.tokenizer import Tokenizer
from bulletlm.text.train_tokenizer import train_tokenizer

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "src/bulletlm/data/sample"
SEED = ROOT / "src/bulletlm/recipes/seed.jsonc"
AIM_SECONDS = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=SEED, help="configuration whose model shape is timed")
    parser.add_argument("--tokens", type=int, default=10_000, help="validation tokens")
    parser.add_argument("--rounds", type=int, default=3, help="measurements; the median counts")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    config = load_config(arguments.recipe)
    texts = [part for name in ("stories.mr.txt", "stories.en.txt") for part in (CORPUS / name).read_text(encoding="utf-8").split("\n\n")]
    tokenizer = Tokenizer(train_tokenizer(texts, config.tokenizer.vocab_size, 1, SilentProgress(), at_most=True))
    shape = config.model.shape(tokenizer.vocab_size)
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(extents, dtype=np.float32) * np.float32(0.02) + np.float32(len(extents) == 1)
        for name, extents in shape.tensors().items()
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "data").mkdir()
        documents: list[Document] = []
        count = 0
        for number, text in enumerate(texts * 100):
            if count >= arguments.tokens:
                break
            ids = tokenizer.encode(text)[: arguments.tokens - count]
            documents.append({"id": str(number), "source": "sample", "language": "mr", "text": tokenizer.decode(ids)})
            count += len(ids)
        for split in ("train", "val"):
            (folder / "data" / f"{split}.jsonl").write_bytes(b"".join(map(to_line, documents)))
        write_tokens(folder / "data", tokenizer, "all", folder / "tokens", SilentProgress())
        write_npy(folder / "npy", shape, tensors, tokenizer.proto, {})
        contents = ModelContents(
            shape=shape,
            tensors=tensors,
            types=standard_types(shape),
            tokenizer_proto=tokenizer.proto,
            pieces=tokenizer.pieces(),
            metadata={},
        )
        write_bullet(folder / "model.bullet", contents)
        seconds, processor = [], []
        for _ in range(arguments.rounds):
            started, used = time.perf_counter(), time.process_time()
            result = compare(load(folder / "npy"), load(folder / "model.bullet"), open_tokens(folder / "tokens", "val"), SilentProgress())
            seconds.append(time.perf_counter() - started)
            processor.append(time.process_time() - used)
    figures = {
        "recipe": arguments.recipe.name,
        "parameters": shape.n_parameters,
        "cores": available_cores(),
        "tokens": result.a.tokens,
        "seconds": round(float(np.median(seconds)), 3),
        "processor_seconds": round(float(np.median(processor)), 3),
        "aim_seconds": AIM_SECONDS,
    }
    if arguments.json:
        print(json.dumps(figures))
    else:
        print(
            f"{figures['tokens']:,} tokens, FP32 and 4-bit, {shape.n_parameters / 1e6:.1f}M parameters, {figures['cores']} cores: "
            f"{figures['seconds']:.2f} s, {figures['processor_seconds']:.2f} s of processor time (medians of {arguments.rounds}; "
            f"the aim is {AIM_SECONDS:g} s on two cores)"
        )


if __name__ == "__main__":
    main()
