"""The `bullet-builder` command: FP32 .npy tensors in, one `.bullet` file out. `bullet build FOLDER` is the same."""

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from cyclopts import App, CycloptsError, Parameter

from bulletlm import __version__
from bulletlm.errors import BulletError, ConfigError, DataError
from bulletlm.formats.npy import MANIFEST

if TYPE_CHECKING:
    from bulletlm.config.schema import QuantConfig
    from bulletlm.data.tokens import TokenFile

app = App(name="bullet-builder", version=__version__, help_format="plaintext", result_action="return_value")

WeightType = Literal["BQ4", "BQ8", "F16", "F32"]

SEED = 42
"""Decides which tokens are used for calibration unless somebody asks for others."""


@app.default
def build(
    folder: Annotated[Path, Parameter(help="A folder of FP32 .npy tensors with manifest.json and tokenizer.model, or a run folder.")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="The file to write.")] = Path("model.bullet"),
    quant: Annotated[WeightType, Parameter(help="Type of the matrices.")] = "BQ4",
    embedding: Annotated[
        WeightType | None, Parameter(help="Type of the embedding and output matrix; default: BQ8 with BQ4, else like the matrices.")
    ] = None,
    keep: Annotated[
        tuple[str, ...], Parameter(help='Another type for some matrices: "layers.0.*=BQ8"; may be given several times.', negative="")
    ] = (),
    method: Annotated[
        Literal["none", "search", "gptq"] | None,
        Parameter(help="Fit BQ4 to the calibration text: not at all, scales only, or everything (GPTQ, the default)."),
    ] = None,
    calibration: Annotated[
        Path | None,
        Parameter(
            help="Representative tokens of this tokenizer, uint16 little endian (uint32 above 65,536 tokens); a run folder has its own."
        ),
    ] = None,
    calibration_tokens: Annotated[int | None, Parameter(help="How many of them to use; default: 40,000.")] = None,
    qat: Annotated[
        bool,
        Parameter(
            help="Take the weights that QAT made of the run, if it did so for these types; else round the FP32 weights, which any "
            "option about calibration asks for too."
        ),
    ] = True,
    validation: Annotated[Path | None, Parameter(help="Held-out tokens to measure on, same format; a run folder has its own.")] = None,
    seed: Annotated[int | None, Parameter(help="Decides which tokens are used; default: 42.")] = None,
    report: Annotated[Path | None, Parameter(help="Write the error of every tensor, and what it alone costs, to this JSON file.")] = None,
    format: Annotated[Literal["v1", "v2"], Parameter(help="Version of the file; v1 has four bits for everything.")] = "v2",
    compat: Annotated[bool, Parameter(help="Say which other programs can run the model, and how.", negative="")] = False,
    json: Annotated[bool, Parameter(help="Print what the file says about its quantisation as JSON.", negative="")] = False,
) -> None:
    """Quantise FP32 .npy tensors into one .bullet file.

    Example: bullet-builder --quant BQ4 --calibration tokens.bin --out model.bullet export/npy
    """
    from pydantic import ValidationError

    from bulletlm.config.schema import QuantConfig
    from bulletlm.data.tokens import open_tokens
    from bulletlm.formats.npy import read_npy
    from bulletlm.pipeline.build import build_bullet, summary
    from bulletlm.progress import ConsoleProgress
    from bulletlm.quant.types import weight_types

    run, folder = _locate(folder)
    try:
        given = {"calibration": method, "calibration_tokens": calibration_tokens, "seed": seed}
        given = {name: value for name, value in given.items() if value is not None}
        config = QuantConfig(weights=quant, embedding=embedding, keep=list(keep), **given)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{str(first['loc'][0]).replace('_', '-')} {first['input']}: {first['msg']}") from None
    vocab_size = read_npy(folder)[0].vocab_size
    text, held_out = None, None
    if calibration:
        text = _as_token_file(calibration, vocab_size)
    elif run:
        text = open_tokens(run / "tokens", "train")
    if validation:
        held_out = _as_token_file(validation, vocab_size)
    elif run:
        held_out = open_tokens(run / "tokens", "val")
    trained = _trained(run, config) if run and qat and format == "v2" else None
    words = {"--method": method, "--calibration": calibration, "--calibration-tokens": calibration_tokens, "--seed": seed}
    asked = [word for word, value in words.items() if value is not None]
    if trained and asked:
        print(f"note: {', '.join(asked)}: the FP32 weights are calibrated anew, and what QAT made of them is left out", file=sys.stderr)
        trained = None
    quantised = build_bullet(folder, out, config, SEED, text, held_out, ConsoleProgress(), report, int(format[1]), trained)
    if compat:
        from bulletlm.formats.convert import compatibility

        shape = read_npy(folder)[0]
        for note in compatibility(shape, weight_types(shape, quant, embedding, keep), int(format[1])):
            print(f"note: {note}", file=sys.stderr)
    if json:
        print(json_module.dumps(quantised, ensure_ascii=False, indent=2))
    else:
        print(f"{out} ({out.stat().st_size:,} bytes)\n{summary(quantised)}")


def is_model_folder(folder: Path) -> bool:
    """Whether `bullet-builder` can make a file of this folder: .npy tensors, or a run that has them."""
    return (folder / MANIFEST).is_file() or (folder / "export" / "npy").is_dir()


def _locate(folder: Path) -> tuple[Path | None, Path]:
    """The run folder, if it is one, and the folder with the tensors."""
    if not (folder / MANIFEST).exists() and (folder / "export" / "npy").is_dir():
        return folder, folder / "export" / "npy"
    return None, folder


def _trained(run: Path, config: "QuantConfig") -> Path | None:
    """The file that QAT made, if it has the types that are asked for."""
    from bulletlm.formats.bullet.reader import open_bullet
    from bulletlm.quant.types import weight_types

    path = run / "qat" / "model.bullet"
    if not path.exists():
        return None
    file = open_bullet(path)
    types = weight_types(file.shape, config.weights, config.embedding, config.keep)
    return path if types == {name: file.type(name) for name in file.tensors} else None


def _read_tokens(path: Path, vocab_size: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    try:
        size = path.stat().st_size
        if not size or size % dtype.itemsize:
            raise DataError(
                f"{path} has {size:,} bytes, which is no whole number of {dtype.name} tokens: write them as tokens/train.bin is"
            )
        return np.memmap(path, dtype, mode="r")
    except OSError as error:
        raise DataError(f"cannot read the tokens {path}: {error.strerror}") from None


def _as_token_file(path: Path, vocab_size: int) -> "TokenFile":
    """Tokens of which nothing is known but themselves, as one document."""
    from bulletlm.data.tokens import DocumentRange, TokenFile

    tokens = _read_tokens(path, vocab_size)
    document: DocumentRange = {"start": 0, "end": len(tokens), "bytes": 0, "language": "und", "source": path.name}
    return TokenFile(tokens, None, {"documents": [document]})


def main(arguments: list[str] | None = None) -> None:
    """Entry point: a user's mistake is one line and exit code 1 or 2; only our own bugs show a traceback."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except BulletError as error:
        _fail(str(error), error.exit_code)
    except CycloptsError as error:
        _fail(" ".join(str(error).split()) + "; see bullet-builder --help", 2)
    except KeyboardInterrupt:
        _fail("stopped; nothing was written", 130)


def _fail(message: str, code: int) -> None:
    print(f"bullet-builder: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
