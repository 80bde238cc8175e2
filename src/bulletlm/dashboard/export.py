"""Writes a model in one format for download and checks what was written: python -m bulletlm.dashboard.export WORKSPACE MODEL FORMAT

It is a process of its own, so a page stays usable meanwhile. The last line of its output is JSON: {"file", "checks"} or {"error"}.
"""

import asyncio
import json
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, TypedDict

from bulletlm.dashboard.models import FOUR_BIT, model_path
from bulletlm.dashboard.processes import own_folder
from bulletlm.dashboard.workspace import Workspace
from bulletlm.errors import BulletError, ConfigError
from bulletlm.files import atomic_file, sha256_of_file, write_text

FORMATS = ("bullet", "html", "gguf", "hf", "npy", "card")
"""A .bullet file; one HTML page that runs the model; a GGUF and its Modelfile, a Hugging Face folder and a folder of .npy tensors, each
in a .zip; the model card alone."""

SINGLE_FILES = {"bullet": ".bullet", "html": ".html", "card": "-card.md"}
"""Formats of one file, and how its name ends; the others are packed."""

CHECKED_TOKENS = 24
"""Tokens of the sample that the written model must generate as the original does."""

CHECK_PROMPTS = ("नमस्कार", "Hello", "एका गावात", "Once")


Check = tuple[str, dict[str, str]]
"""What was checked, in English with names in braces, and what to put in their place."""


class Exported(TypedDict):
    """The file for download, relative to the dashboard's folder of the run, and the checks that it passed."""

    file: str
    bytes: int
    checks: list[Check]


def export(workspace: Workspace, name: str, format: str) -> Exported:
    """Write the model "RUN/VERSION" in a format, check it, and put it into RUN/dashboard/downloads.

    Raises:
        ConfigError: there is no such model or format.
        BulletError: it cannot be written, or a check failed.
    """
    if format not in FORMATS:
        raise ConfigError(f"{format!r} is no format: it must be one of {', '.join(FORMATS)}")
    source = model_path(workspace, name)
    run_name, _, version = name.rpartition("/")
    run = workspace.run_folder(run_name)
    downloads = own_folder(run) / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    stem = run.name if version == FOUR_BIT else f"{run.name}-{version}"
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".") as folder:
        made, checks = _write(source, Path(folder), stem, format, run)
        target = downloads / (f"{stem}{SINGLE_FILES[format]}" if format in SINGLE_FILES else f"{stem}-{format}.zip")
        if format in SINGLE_FILES:
            with atomic_file(target) as file, open(made, "rb") as written:
                shutil.copyfileobj(written, file)
            if sha256_of_file(target) != sha256_of_file(made):
                raise BulletError(f"{target.name} was not written completely: is the disk full?")
        else:
            _zip(made, target)
            checks.append(("the archive was read again", {}))
    return {"file": target.name, "bytes": target.stat().st_size, "checks": checks}


def _write(source: Path, folder: Path, stem: str, format: str, run: Path) -> tuple[Path, list[Check]]:
    """The written file or folder, and the checks that it passed."""
    from bulletlm.formats.bullet.reader import open_bullet
    from bulletlm.formats.convert import ConvertOptions, convert, read_model

    if format == "card":
        from bulletlm.evaluate.card import card_of

        target, card = folder / f"{stem}-card.md", card_of(source, file_name=f"{stem}.bullet")
        write_text(target, card)
        parameters = f"{read_model(source)[1].shape.n_parameters:,}"
        if target.read_text(encoding="utf-8") != card or parameters not in card:
            raise BulletError("the card does not describe this model: is the disk full?")
        return target, [("it was read again", {}), ("it describes this model of {parameters} parameters", {"parameters": parameters})]
    if format == "html":
        from bulletlm.formats.html.page import holds_model, write_page

        file, found = _write(source, folder, stem, "bullet", run)
        target, content = folder / f"{stem}.html", file.read_bytes()
        write_page(target, content, open_bullet(file).metadata)
        if not holds_model(target.read_bytes(), content):
            raise BulletError("the page does not hold the model: is the disk full?")
        return target, [*found, ("the page holds this model", {})]
    if format == "bullet":
        target = folder / f"{stem}.bullet"
        if source.is_file():
            shutil.copyfile(source, target)
        else:
            _quantize(source, target, run)
        open_bullet(target).verify()
        valid: Check = ("the checksum, the structure and all numbers are valid", {})
        if source.is_file():
            return target, [valid, _same_answers(source, target)]
        equal, count = _compare_answers(source, target)
        same = (
            "{equal} of {count} generated tokens are the same as with the FP32 weights; rounding changes some",
            {"equal": str(equal), "count": str(count)},
        )
        return target, [valid, same]
    target = folder / stem / f"{stem}.gguf" if format == "gguf" else folder / f"{stem}-{format}"
    if format == "gguf":
        target.parent.mkdir()
    convert(source, target, ConvertOptions(to=format))
    back = folder / "back.bullet"
    convert(target, back, ConvertOptions(to="bullet", quant=None if format == "gguf" else "F32"))
    checks: list[Check] = [("it was read again and all numbers are valid", {}), _same_answers(source, back)]
    return target.parent if format == "gguf" else target, checks


def _quantize(source: Path, target: Path, run: Path) -> None:
    """Round FP32 tensors to 4 bits in `target`, calibrated with the text of the run."""
    from bulletlm.config.schema import QuantConfig
    from bulletlm.data.tokens import open_tokens
    from bulletlm.pipeline.build import BuildOptions, build_bullet
    from bulletlm.progress import SilentProgress

    train, val = (open_tokens(run / "tokens", split) for split in ("train", "val"))
    build_bullet(source, target, BuildOptions(config=QuantConfig(), seed=42, calibration=train, validation=val), SilentProgress())


def _same_answers(a: Path, b: Path) -> Check:
    """Check that two models generate the same tokens, without sampling.

    Raises:
        BulletError: they do not.
    """
    equal, count = _compare_answers(a, b)
    if equal != count:
        raise BulletError("the written model does not generate the same tokens as the original, so it is not offered: report this")
    return "{count} generated tokens are the same as those of the original", {"count": str(count)}


def _compare_answers(a: Path, b: Path) -> tuple[int, int]:
    """How many tokens are equal, and how many were generated, without sampling."""
    from bulletlm.runtime import Sampling, Session, load
    from bulletlm.runtime.prompt import text_prompt

    first, second = load(a, engine="numpy"), load(b, engine="numpy")
    sampling = Sampling(temperature=0, max_tokens=CHECKED_TOKENS)
    equal = count = 0
    for text in CHECK_PROMPTS:
        answers = []
        for model in (first, second):
            prompt = text_prompt(model, text, CHECKED_TOKENS)
            answers.append([token.id for token in Session(model).generate(prompt.ids, sampling, stop_ids=())])
        equal += sum(x == y for x, y in zip(*answers, strict=True))
        count += len(answers[0])
    return equal, count


def _zip(folder: Path, target: Path) -> None:
    """Pack a folder, and read the archive again.

    Raises:
        BulletError: the archive is damaged, or the disk is full.
    """
    with atomic_file(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
    with zipfile.ZipFile(target) as archive:
        if (damaged := archive.testzip()) is not None:
            raise BulletError(f"{damaged} in {target.name} is damaged: is the disk full?")


async def export_in_process(workspace: Workspace, name: str, format: str) -> Exported:
    """`export` in a process of its own.

    Raises:
        BulletError: see `export`; or the process ended without an answer.
    """
    command = (sys.executable, "-P", "-m", "bulletlm.dashboard.export", str(workspace.folder), name, format)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    output, errors = await process.communicate()
    lines = output.decode().splitlines()
    if process.returncode or not lines:
        last = (errors.decode("utf-8", "replace").strip().splitlines() or ["it printed nothing"])[-1]
        raise BulletError(f"the export failed: {last}")
    result: Any = json.loads(lines[-1])
    if "error" in result:
        raise BulletError(str(result["error"]))
    exported: Exported = result
    return exported


def main(folder: str, name: str, format: str) -> None:
    """Print the result of `export` as JSON."""
    try:
        answer: Any = export(Workspace(Path(folder)), name, format)
    except BulletError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:4])
