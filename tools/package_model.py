"""Put the model of a finished run, the report of the run and the curve of its training into the package.

    python tools/package_model.py runs/second --after runs/first

It writes src/bulletlm/models/NAME.bullet, NAME.report.html and NAME.metrics.jsonl, where NAME is the name in the model. An earlier model
of this name is replaced. The curve has every validation and every 100th training step of the run, after those of the runs from which it
goes on (`--after`, the first run first); "part" numbers the runs.
Cite the sources of its text in src/bulletlm/models too, where their licences ask for it.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from bulletlm.errors import BulletError
from bulletlm.files import atomic_file, read_json
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.packaged import MODELS
from bulletlm.formats.provenance import has_paths, is_private

LARGEST_MODEL, LARGEST_REPORT = 9_000_000, 300_000
"""Bytes: every installation downloads both."""
EVERY = 100
"""Training steps from one row of the curve to the next."""


def thinned(curves: Sequence[Path]) -> str:
    """The lines that show the curves of runs: every validation, every 100th training step, and the end, with the number of the run."""
    lines = []
    for part, metrics in enumerate(curves, 1):
        for row in map(json.loads, metrics.read_text(encoding="utf-8").splitlines()):
            if row["event"] in ("eval", "rollback", "end") or (row["event"] == "train" and not row["step"] % EVERY):
                lines.append(json.dumps({**row, "part": part}))
    return "\n".join(lines) + "\n"


def package_model(run: Path, models: Path, after: Sequence[Path] = ()) -> list[Path]:
    """Write the model, the report and the curve of a run into a folder; returns the files that were written.

    Args:
        run: folder of a finished run.
        models: folder that receives the files.
        after: folders, or metrics.jsonl files, of the runs from which it goes on, the first run first.

    Raises:
        BulletError: the run is not finished, its report is of another model, a file is too large, or the model must not be given away.
    """
    model, page, report = run / "model.bullet", run / "report.html", run / "report.json"
    file = open_bullet(model)
    file.verify()
    if is_private(file.metadata) or has_paths(file.metadata):
        raise BulletError(f"{model} was trained on private messages or names files of this computer: it cannot be part of the package")
    if read_json(report)["quantised"] != file.metadata.get("quantised"):
        raise BulletError(f"{report} is of another model: run bullet evaluate {run}")
    for path, largest in ((model, LARGEST_MODEL), (page, LARGEST_REPORT)):
        if path.stat().st_size > largest:
            raise BulletError(f"{path} has {path.stat().st_size:,} bytes, and the package takes at most {largest:,}")
    name = str(file.metadata["name"])
    contents = {
        f"{name}.bullet": model.read_bytes(),
        f"{name}.report.html": page.read_bytes(),
        f"{name}.metrics.jsonl": thinned([path / "metrics.jsonl" if path.is_dir() else path for path in (*after, run)]).encode(),
    }
    for file_name, content in contents.items():
        with atomic_file(models / file_name) as out:
            out.write(content)
    return [models / file_name for file_name in contents]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--after", type=Path, action="append", default=[], help="a run from which it goes on, or its metrics.jsonl")
    args = parser.parse_args()
    try:
        for path in package_model(args.run, MODELS, args.after):
            print(f"{path}  {path.stat().st_size:,} bytes")
    except (BulletError, OSError) as error:
        raise SystemExit(f"package_model: {error}") from None


if __name__ == "__main__":
    main()
