"""Measures what the packaged model must do: FLORES, translation, and its answers to the test questions.

    python bench/model.py runs/marathi-english --flores FOLDER             prints the table
    python bench/model.py runs/marathi-english --flores FOLDER --sheet SHEET.jsonl
                                                                           also writes the answers for people to grade, unlabelled
    python bench/model.py RUN/checkpoints/step-001000 --references         prints the loss of the reference answers only

FOLDER has FLORES in both languages (mar_Deva.dev and eng_Latn.dev, or flores-dev.mr and flores-dev.en), which no model of this
repository is trained on. The translations are those of bench/questions/translations.tsv, which the recipe holds out
(`data.held_out`). The questions of set A (src/bulletlm/evaluate/questions.*.jsonl) have intents that the corpus teaches, in other
wordings, those of set B (bench/questions) have new ones. Answers are greedy, from the 4-bit file of the run, with 100 tokens at most.
An invented word is in no training text; held-out text that people wrote is counted in the same way. The sheet also has the first two
sentences with which the model goes on after each of bench/questions/openings.mr.txt.

The names of the systems are in SHEET.key.json; bench/grades.py says what readers fill in, and counts it. `--other NAME=FILE.bullet` mixes
in another model's answers, and the reference answers are always among them.
"""

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
from itertools import product
from pathlib import Path

from bulletlm.data.language import detect
from bulletlm.evaluate.benchmark import run_benchmark, table
from bulletlm.evaluate.benchmark_tasks import load_suite
from bulletlm.evaluate.checks import is_in_language, is_loop
from bulletlm.evaluate.generation import Answer, answer_prompts, generate_all
from bulletlm.evaluate.intervals import proportion
from bulletlm.evaluate.language_models import BulletModel, log_probs, open_model
from bulletlm.evaluate.prompts import Prompt
from bulletlm.evaluate.question_pairs import PACKAGED
from bulletlm.evaluate.training_text import TrainingText, all_texts, real_words
from bulletlm.progress import SilentProgress
from bulletlm.runtime import Model, load
from bulletlm.runtime.sampling import Sampling
from bulletlm.text.chat import encode_prompt
from bulletlm.text.documents import read_documents
from bulletlm.text.tokenizer import BOS, END

QUESTIONS = Path(__file__).parent / "questions"
SETS = {"A": PACKAGED / "questions", "B": QUESTIONS / "new"}
OPENINGS = QUESTIONS / "openings.mr.txt"
TWO_SENTENCES = re.compile(r"(?:.*?[.?!।]+[\"”’)]*(?:\s+|$)){2}", re.DOTALL)
TOKENS = 100
GREEDY = Sampling(temperature=0.0, max_tokens=TOKENS, repetition_penalty=1.1)
FLORES_NAMES = {"flores-dev.mr": "mar_Deva.dev", "flores-dev.en": "eng_Latn.dev"}


def read_questions() -> list[tuple[str, Prompt]]:
    """The test questions of both sets and languages, with the name of their set."""
    found = []
    for name, path in SETS.items():
        for language in ("mr", "en"):
            for line in path.with_suffix(f".{language}.jsonl").read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                found.append((name, Prompt(row["prompt"], language, row["intent"], reference=row["answer"])))
    return found


def flores(model: Path, folder: Path) -> None:
    """Print the bits of second halves of FLORES sentences, among published scores."""
    with tempfile.TemporaryDirectory() as temporary:
        for file in sorted(folder.iterdir()):
            if file.name in FLORES_NAMES or file.name in FLORES_NAMES.values():
                shutil.copy(file, Path(temporary) / FLORES_NAMES.get(file.name, file.name))
        tasks = [task for task in load_suite("flores", Path(temporary)) if task.kind == "halves"]
        for result in run_benchmark([open_model(model)], tasks, SilentProgress()):
            print("\n".join(table(result)), end="\n\n")


def translation(model: Path) -> None:
    """Print chrF of the held-out translations."""
    tasks = [task for task in load_suite(str(QUESTIONS / "translations.tsv"), Path()) if task.kind == "translation"]
    for result in run_benchmark([open_model(model)], tasks, SilentProgress()):
        print("\n".join(table(result)), end="\n\n")


def references(model: Path, questions: list[tuple[str, Prompt]]) -> None:
    """Print the loss of the reference answers, each after its question, in nats per token."""
    opened = open_model(model)
    if not isinstance(opened, BulletModel):
        raise SystemExit(f"model: {model} is no model of BulletLM: name a run, a checkpoint or a .bullet file")
    tokenizer = opened.model.tokenizer
    for name, language in product(SETS, ("mr", "en")):
        prompts = [prompt for of, prompt in questions if (of, prompt.language) == (name, language)]
        answers = [[*tokenizer.encode(prompt.reference or ""), END] for prompt in prompts]
        before = [encode_prompt(tokenizer, [{"role": "user", "content": prompt.prompt}]) for prompt in prompts]
        found = log_probs(opened, [[*question, *answer] for question, answer in zip(before, answers, strict=True)])
        total = sum(scores[-len(answer) :].sum() for scores, answer in zip(found, answers, strict=True))
        print(f"loss of the reference answers, set {name}, {language}: {-total / sum(map(len, answers)):.3f} nats per token")


def behaviour(run: Path, questions: list[tuple[str, Prompt]], answers: list[Answer]) -> None:
    """Print the shares of answers in the right language and of loops, and the invented words beside those of people."""
    training = TrainingText(all_texts(read_documents(run / "data" / "train.jsonl")))
    held_out = list(read_documents(run / "data" / "val.jsonl"))
    right = [is_in_language(answer.text, prompt.language) for (_, prompt), answer in zip(questions, answers, strict=True)]
    loops = [is_loop(answer.text) for answer in answers]
    for name, flags in (("answer in the language of the question", right), ("no loop within 100 tokens", [not loop for loop in loops])):
        share = proportion(sum(map(bool, flags)), len(flags))
        print(f"{name:42} {100 * share.value:5.1f} %   (95 %: {100 * share.low:.1f} to {100 * share.high:.1f}; {len(flags)} answers)")
    for language in ("mr", "en"):
        written = [word for (_, p), a in zip(questions, answers, strict=True) if p.language == language for word in real_words(a.text)]
        people = [word for text in all_texts(held_out) if detect(text) == language for word in real_words(text)]
        ours, theirs = (100 * float(training.unknown(words).mean()) for words in (written, people))
        print(f"invented words, {language}: {ours:.1f} % of {len(written):,}; in held-out text of people {theirs:.1f} % of {len(people):,}")


def continuations(model: Model, openings: list[str]) -> list[str]:
    """Each opening with the text that follows, up to the end of the second sentence; greedy."""
    prompts = [[BOS, *model.tokenizer.encode(opening)] for opening in openings]
    found = []
    for ids, more in zip(prompts, generate_all(model, prompts, GREEDY, SilentProgress(), "Going on"), strict=True):
        text = model.tokenizer.decode([*ids[1:], *more])
        both = TWO_SENTENCES.match(text)
        found.append(both[0].strip() if both else text)
    return found


def write_sheet(path: Path, rows: list[dict[str, str]]) -> None:
    """Write answers in random order, and the key with their systems, sets and languages beside the sheet."""
    random.Random(7).shuffle(rows)
    key = {}
    with open(path, "w", encoding="utf-8") as sheet:
        for number, row in enumerate(rows):
            key[str(number)] = {name: row[name] for name in ("system", "set", "language")}
            shown = {"id": str(number), "question": row["question"], "answer": row["answer"], "good": None}
            sheet.write(json.dumps(shown, ensure_ascii=False) + "\n")
    path.with_suffix(".key.json").write_text(json.dumps(key) + "\n", encoding="utf-8")
    print(f"wrote {path}: {len(rows)} answers to grade")


def main() -> None:
    """Measure a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--flores", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--other", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--references", action="store_true")
    args = parser.parse_args()
    questions = read_questions()
    if args.references:
        references(args.run, questions)
        return
    file = args.run / "model.bullet"
    if args.flores:
        flores(file, args.flores)
    translation(file)
    references(file, questions)
    prompts = [prompt for _, prompt in questions]
    answers = answer_prompts(load(file), prompts, GREEDY, 42, SilentProgress())
    behaviour(args.run, questions, answers)
    if args.sheet:
        systems = {args.run.name: [answer.text for answer in answers], "reference": [prompt.reference or "" for prompt in prompts]}
        for other in args.other:
            name, _, path = other.partition("=")
            systems[name] = [answer.text for answer in answer_prompts(load(path), prompts, GREEDY, 42, SilentProgress())]
        rows = [
            {"question": prompt.prompt, "answer": answer, "system": system, "set": name, "language": prompt.language}
            for system, found in systems.items()
            for (name, prompt), answer in zip(questions, found, strict=True)
        ]
        openings = OPENINGS.read_text(encoding="utf-8").splitlines()
        for opening, text in zip(openings, continuations(load(file), openings), strict=True):
            rows.append({"question": opening, "answer": text, "system": args.run.name, "set": "openings", "language": "mr"})
        write_sheet(args.sheet, rows)


if __name__ == "__main__":
    sys.exit(main())
