"""Measures how well the augmentation filters separate paraphrases from other sentences: python bench/augment.py [--data DIR] [--json FILE]

Real paraphrases (two translations of one sentence) should pass; two different sentences of the same length should not.
The exit code is 1 if a target is missed.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sacrebleu.metrics.chrf import CHRF

from bulletlm.config.schema import AugmentConfig
from bulletlm.data.augment.filters import RULES, Filters, ValidationGuard
from bulletlm.hardware import inspect_machine

PAIRS = 900


def judge(pairs: list[tuple[str, str]]) -> tuple[dict[str, float], list[float], float]:
    """Return the share that each rule drops, the chrF of every pair, and the milliseconds per sentence."""
    filters = Filters(AugmentConfig(), ValidationGuard([]))
    started = time.perf_counter()
    dropped = Counter(filters.objection(old, new) or "passes" for old, new in pairs)
    milliseconds = 1000 * (time.perf_counter() - started) / len(pairs)
    metric: Any = CHRF()
    scores = sorted(metric.sentence_score(new, [old]).score for old, new in pairs)
    return {rule: dropped[rule] / len(pairs) for rule in ("passes", *RULES) if dropped[rule]}, scores, milliseconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows, bars = [], []
    for language in ("mr", "en"):
        path = arguments.data / "paraphrase" / f"{language}-tatoeba.tsv"
        lines = random.Random(1).sample(path.read_text(encoding="utf-8").splitlines(), PAIRS)
        same = [tuple(line.split("\t")) for line in lines]
        ordered = sorted({pair[0] for pair in same}, key=lambda sentence: (len(sentence), sentence))
        for kind, pairs in (("paraphrases", same), ("different sentences", list(zip(ordered, ordered[7:], strict=False)))):
            shares, scores, milliseconds = judge(pairs)  # type: ignore[arg-type]
            percentiles = {f"chrf_p{p}": round(scores[int(len(scores) * p / 100)], 1) for p in (1, 5, 50, 95, 99)}
            rows.append(
                {"language": language, "pairs": kind, "n": len(pairs), "ms": round(milliseconds, 3), **percentiles, "shares": shares}
            )
            bars.append(
                (f"{language}: {kind} that pass", shares.get("passes", 0.0), 0.93 if kind == "paraphrases" else 0.05, kind == "paraphrases")
            )
    print(f"{'':28} {'n':>5} {'ms each':>8}   chrF at 1 / 5 / 50 / 95 / 99 %   passes, and what drops the others")
    for row in rows:
        chrf = " ".join(f"{row[f'chrf_p{p}']:6.1f}" for p in (1, 5, 50, 95, 99))
        shares = ", ".join(f"{rule} {share:.1%}" for rule, share in row["shares"].items())
        print(f"{row['language']} {row['pairs']:25} {row['n']:>5} {row['ms']:>8.2f}   {chrf}   {shares}")
    results = [
        {"name": name, "value": value, "target": target, "pass": value >= target if more else value <= target}
        for name, value, target, more in bars
    ]
    for bar in results:
        print(f"{'pass' if bar['pass'] else 'FAIL'}  {bar['name']}: {bar['value']:.1%} (bar {bar['target']:.0%})")
    if arguments.json:
        machine = inspect_machine()
        report = {
            "machine": {"processor": machine.processor, "cores": machine.cores, "system": machine.system},
            "versions": {"python": sys.version.split()[0], "sacrebleu": version("sacrebleu"), "bulletlm": version("bulletlm")},
            "rows": rows,
            "bars": results,
        }
        arguments.json.write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return 0 if all(bar["pass"] for bar in results) else 1


if __name__ == "__main__":
    sys.exit(main())
