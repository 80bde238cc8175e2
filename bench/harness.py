"""Runs minimal pairs and multiple choice through the lm-evaluation-harness, and compares its results with BulletLM's, item by item.

The harness runs the exported Hugging Face folder on transformers, with its own definitions of BLiMP and MultiBLiMP, in a virtual
environment of its own (build/harness), into which this script installs it. The items are made of the packaged corpus: a sentence against
the same sentence with two words exchanged, and a question with four answers; --blimp and --multiblimp name the real files.

    python bench/harness.py runs/demo/model.bullet
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np

from bulletlm.evaluate.benchmark import run_benchmark, sentence_bits
from bulletlm.evaluate.benchmark_tasks import Pair, Question, Task, read_tasks
from bulletlm.evaluate.language_models import open_model
from bulletlm.formats.convert import ConvertOptions, convert
from bulletlm.progress import ConsoleProgress

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "src/bulletlm/data/sample"
HARNESS = "lm_eval==0.4.13"
TOLERANCE = 2e-3
"""Largest difference of a sentence's log-probability, in nats; both compute in float32, in another order."""

DEFINITIONS = {
    "bullet_blimp": "include: {tasks}/blimp/_template_yaml\ntask: bullet_blimp\n{data}",
    "bullet_multiblimp": "include: {tasks}/multiblimp/_template_yaml\ntask: bullet_multiblimp\n{data}",
    "bullet_choice": (
        "task: bullet_choice\noutput_type: multiple_choice\ntest_split: train\ndoc_to_text: '{{{{question}}}}'\n"
        "doc_to_choice: '{{{{choices}}}}'\ndoc_to_target: answer\nmetric_list:\n- metric: acc\n- metric: acc_norm\n{data}"
    ),
}
DATA = "dataset_path: json\ndataset_name: null\ndataset_kwargs:\n  data_files:\n    train: {file}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a .bullet file, or the export/npy folder of a run")
    parser.add_argument("--blimp", type=Path, help="a .jsonl file of BLiMP")
    parser.add_argument("--multiblimp", type=Path, help="data.tsv of a language of MultiBLiMP")
    parser.add_argument("--items", type=int, default=200, help="items of each task that is made of the corpus")
    parser.add_argument("--python", type=Path, help="Python of an environment that has the harness already")
    arguments = parser.parse_args()
    python = arguments.python or install(ROOT / "build" / "harness")
    model = open_model(arguments.model)

    def fits(text: str) -> bool:
        return len(model.encode(text)) + 2 <= model.context  # the harness cuts a longer text off, or fails

    pairs, questions = made_items(arguments.items)
    pairs = [pair for pair in pairs if fits(f" {pair.good}") and fits(f" {pair.bad}")]
    questions = [question for question in questions if all(fits(f"{question.context} {option}") for option in question.options)]
    tasks = {
        "bullet_blimp": read_tasks(arguments.blimp)[0] if arguments.blimp else Task(name="pairs", kind="pairs", language="en", items=pairs),
        "bullet_multiblimp": read_tasks(arguments.multiblimp)[0]
        if arguments.multiblimp
        else Task(name="pairs", kind="pairs", language="mr", items=pairs),
        "bullet_choice": Task(name="choice", kind="choice", language="en", items=questions, delimiter=" "),
    }
    tasks = {name: task for name, task in tasks.items() if task.items}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        convert(arguments.model, folder / "model-hf", ConvertOptions(to="hf"))
        results, samples = run_harness(python, folder, tasks)
        failed = False
        for name, task in tasks.items():
            task = Task(**{**task.__dict__, "delimiter": "" if name == "bullet_multiblimp" else " "})
            [ours] = run_benchmark([model], [task], ConsoleProgress())
            theirs = 100 * results[name]["acc,none"]
            value = ours["models"][0]["value"]
            line = f"{name:<18} harness {theirs:7.3f}   bullet {value:7.3f}"
            wrong = abs(theirs - value) > 1e-9
            if task.kind == "choice":
                normalized = ours["models"][0]["details"]["normalised"]
                line += f"   normalized: harness {100 * results[name]['acc_norm,none']:7.3f}   bullet {normalized:7.3f}"
                wrong |= abs(100 * results[name]["acc_norm,none"] - normalized) > 1e-9
            else:
                texts = [task.delimiter + text for pair in task.items for text in (pair.good, pair.bad)]
                nats = -sentence_bits(model, texts).reshape(-1, 2) * np.log(2)
                largest = float(np.abs(nats - np.array(samples[name])).max())
                line += f"   largest difference of a sentence: {largest:.2e} nats"
                wrong |= largest > TOLERANCE
            print(line + ("   DIFFERENT" if wrong else "   equal"))
            failed |= wrong
    sys.exit(failed)


def install(folder: Path) -> Path:
    """Python of an environment with the harness; it is made the first time."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        print(f"installing {HARNESS} into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True)
        versions = ["--constraint", str(ROOT / "constraints.txt")]
        packages = [HARNESS, "torch", "transformers", "datasets", "sentencepiece", "protobuf", "accelerate"]
        # The harness pins python-dateutil lower than constraints.txt does, through pytablewriter; only these must be equal.
        subprocess.run([python, "-m", "pip", "install", "--quiet", *versions, "torch", "transformers"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def made_items(count: int) -> tuple[list[Pair], list[Question]]:
    """Minimal pairs in both languages and questions, made of the packaged corpus; the same in every run."""
    rng = random.Random(1)
    lines = [
        line
        for name in ("stories.en.txt", "stories.mr.txt")
        for line in (CORPUS / name).read_text(encoding="utf-8").splitlines()[:count]
        if 4 <= len(line.split()) <= 20
    ]
    pairs = []
    for line in rng.sample(lines, min(count, len(lines))):
        words = line.split()
        at = rng.randrange(len(words) - 1)
        words[at], words[at + 1] = words[at + 1], words[at]
        if " ".join(words) != " ".join(line.split()):
            pairs.append(Pair(" ".join(line.split()), " ".join(words)))
    rows = [
        json.loads(line)["messages"][:2]
        for line in (CORPUS / "conversations.en.jsonl").read_text(encoding="utf-8").splitlines()[: 2 * count]
    ]
    turns = [(a["content"], " ".join(b["content"].split()[:5])) for a, b in (row for row in rows if len(row) == 2)]
    questions = []
    for question, answer in turns[:count]:
        options = [answer, *rng.sample([other for _, other in turns if other != answer], 3)]
        rng.shuffle(options)
        questions.append(Question(question, tuple(options), options.index(answer)))
    return pairs, questions


def run_harness(python: Path, folder: Path, tasks: dict[str, Task]) -> tuple[dict[str, Any], dict[str, list[list[float]]]]:
    """The harness's results by task, and the log-probabilities of the choices of each item, in the order of the items."""
    where = subprocess.run(
        [python, "-c", "import lm_eval.tasks; print(lm_eval.tasks.__path__[0])"], check=True, capture_output=True, text=True
    ).stdout.strip()
    definitions = folder / "tasks"
    definitions.mkdir()
    for name, task in tasks.items():
        if task.kind == "choice":
            rows = [{"question": item.context, "choices": list(item.options), "answer": item.answer} for item in task.items]
        else:
            good, bad = ("sentence_good", "sentence_bad") if name == "bullet_blimp" else ("sen", "wrong_sen")
            rows = [{good: item.good, bad: item.bad} for item in task.items]
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        (definitions / f"{name}.yaml").write_text(DEFINITIONS[name].format(tasks=where, data=DATA.format(file=data)), encoding="utf-8")
    out = folder / "out"
    command = [python, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={folder / 'model-hf'},dtype=float32"]
    command += ["--tasks", ",".join(tasks), "--include_path", definitions, "--device", "cpu", "--batch_size", "8"]
    command += ["--output_path", out, "--log_samples"]
    subprocess.run([str(word) for word in command], check=True)
    [summary] = out.rglob("results_*.json")
    results = json.loads(summary.read_text(encoding="utf-8"))["results"]
    samples = {}
    for name in tasks:
        [file] = out.rglob(f"samples_{name}_*.jsonl")
        rows = sorted((json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()), key=lambda row: row["doc_id"])
        samples[name] = [[float(response[0][0]) for response in row["resps"]] for row in rows]
    return results, samples


if __name__ == "__main__":
    main()
