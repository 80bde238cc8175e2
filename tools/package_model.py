"""Put the model of a finished run, and the report of the run, into the package.

    python tools/package_model.py runs/marathi-english

It writes src/bulletlm/models/NAME.bullet and NAME.report.html, where NAME is the name in the model. An earlier model of this name is
replaced. Cite the sources of its text in src/bulletlm/models too, where their licences ask for it.
"""

import argparse
from pathlib import Path

from bulletlm.errors import BulletError
from bulletlm.files import atomic_file, read_json
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.packaged import MODELS
from bulletlm.formats.provenance import has_paths, is_private

LARGEST_MODEL, LARGEST_REPORT = 9_000_000, 300_000
"""Bytes: every installation downloads both."""


def package_model(run: Path, models: Path) -> list[Path]:
    """Copy the model and the report of a run into a folder; returns the files that were written.

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
    written = [models / f"{name}.bullet", models / f"{name}.report.html"]
    for source, target in zip((model, page), written, strict=True):
        with atomic_file(target) as out:
            out.write(source.read_bytes())
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    try:
        for path in package_model(parser.parse_args().run, MODELS):
            print(f"{path}  {path.stat().st_size:,} bytes")
    except (BulletError, OSError) as error:
        raise SystemExit(f"package_model: {error}") from None


if __name__ == "__main__":
    main()
