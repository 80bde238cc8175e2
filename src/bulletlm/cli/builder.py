"""The `bullet-builder` command: reads FP32 .npy tensors, writes one `.bullet` file. `bullet build FOLDER` is the same command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from cyclopts import App, CycloptsError, Parameter

from bulletlm import __version__
from bulletlm.cli.fast_start import fail, report_errors
from bulletlm.cli.models import find_run
from bulletlm.errors import ConfigError, DataError
from bulletlm.files import open_regular, refuse_other_file
from bulletlm.formats.npy import MANIFEST
from bulletlm.quant.types import WeightType
from bulletlm.terminal import echo, printable_json

if TYPE_CHECKING:
    from bulletlm.config.schema import QuantConfig
    from bulletlm.data.tokens import TokenFile

NAME = "bullet-builder"

app = App(name=NAME, version=__version__, help_format="plaintext", result_action="return_value", suppress_keyboard_interrupt=False)


SEED = 42
"""Default seed of the choice of calibration tokens."""


@app.default
def build(
    folder: Annotated[
        Path, Parameter(help="A folder of FP32 .npy tensors with manifest.json and tokenizer.model, or a run: its name or folder.")
    ],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="The file to write.")] = Path("model.bullet"),
    quant: Annotated[WeightType, Parameter(help="Type of the matrices.")] = "BQ4",
    embedding: Annotated[
        WeightType | None, Parameter(help="Type of the embedding and the output matrix; default: BQ8 with BQ4, else as --quant.")
    ] = None,
    keep: Annotated[
        tuple[str, ...], Parameter(help='Another type for some matrices: "layers.0.*=BQ8"; can be given several times.', negative="")
    ] = (),
    method: Annotated[
        Literal["none", "search", "gptq"] | None,
        Parameter(help="How BQ4 is calibrated: none (round to nearest), search (scales only), or gptq (default)."),
    ] = None,
    calibration: Annotated[
        Path | None,
        Parameter(
            help="A file of token ids, uint16 little endian (uint32 for vocabularies above 65,536); default: those of the run folder."
        ),
    ] = None,
    calibration_tokens: Annotated[int | None, Parameter(help="Number of calibration tokens to use; default: 40,000.")] = None,
    qat: Annotated[
        bool,
        Parameter(
            help="Use the weights that the run's QAT stage trained, if they have these types. Otherwise, and with any option about "
            "calibration, the FP32 weights are rounded."
        ),
    ] = True,
    validation: Annotated[
        Path | None, Parameter(help="Held-out tokens to measure on, in the same format; default: those of the run folder.")
    ] = None,
    seed: Annotated[int | None, Parameter(help="Seed of the choice of calibration tokens; default: 42.")] = None,
    report: Annotated[
        Path | None, Parameter(help="Write the quantization error of every tensor and its effect on the output to this JSON file.")
    ] = None,
    format: Annotated[Literal["v1", "v2"], Parameter(help="Version of the file; v1 stores every tensor in 4 bits.")] = "v2",
    compat: Annotated[bool, Parameter(help="Print which other programs can run the model, and how.", negative="")] = False,
    json: Annotated[bool, Parameter(help="Print what the file records about its quantization as JSON.", negative="")] = False,
) -> None:
    """Quantize FP32 .npy tensors and write them to one .bullet file.

    Example: bullet-builder --quant BQ4 --calibration tokens.bin --out model.bullet export/npy
    """
    from bulletlm.formats.bullet.version1 import is_v1
    from bulletlm.formats.npy import read_npy
    from bulletlm.pipeline.build import BuildOptions, build_bullet, summary
    from bulletlm.progress import ConsoleProgress

    run, folder = _locate(find_run(folder))
    refuse_other_file(out, lambda head: b'"bullet_version"' in head or is_v1(head), ".bullet file")
    if report:
        refuse_other_file(report, lambda head: head.startswith(b'{\n  "weights"'), "report of this command")
    given = {"calibration": method, "calibration_tokens": calibration_tokens, "seed": seed}
    config = _quant_config(weights=quant, embedding=embedding, keep=list(keep), **given)
    shape, version = read_npy(folder)[0], int(format[1])
    text = _tokens(calibration, run, "train", shape.vocab_size)
    held_out = _tokens(validation, run, "val", shape.vocab_size)
    trained = _trained(run, config) if run and qat and version == 2 else None
    words = {"--method": method, "--calibration": calibration, "--calibration-tokens": calibration_tokens, "--seed": seed}
    asked = [word for word, value in words.items() if value is not None]
    if trained and asked:
        echo(f"note: {', '.join(asked)}: the FP32 weights are calibrated again, and the QAT weights are not used", to_stderr=True)
        trained = None
    options = BuildOptions(config=config, seed=SEED, calibration=text, validation=held_out, report=report, version=version, trained=trained)
    quantized = build_bullet(folder, out, options, ConsoleProgress())
    if compat:
        from bulletlm.formats.convert import compatibility
        from bulletlm.quant.types import weight_types

        for note in compatibility(shape, weight_types(shape, quant, embedding, keep), version):
            echo(f"note: {note}", to_stderr=True)
    if json:
        print(printable_json(quantized))
    else:
        echo(f"{out} ({out.stat().st_size:,} bytes)\n{summary(quantized)}")


def is_model_folder(folder: Path) -> bool:
    """Whether `folder` is a folder of .npy tensors or a run folder that contains one."""
    return (folder / MANIFEST).is_file() or (folder / "export" / "npy").is_dir()


def _locate(folder: Path) -> tuple[Path | None, Path]:
    """The run folder (None if `folder` is not one) and the folder of tensors."""
    if not (folder / MANIFEST).exists() and (folder / "export" / "npy").is_dir():
        return folder, folder / "export" / "npy"
    return None, folder


def _quant_config(**settings: Any) -> "QuantConfig":
    """The settings of quant that were given; None stands for the default.

    Raises:
        ConfigError: a value is not possible; the message names the option.
    """
    from pydantic import ValidationError

    from bulletlm.config.messages import describe_error
    from bulletlm.config.schema import QuantConfig

    try:
        return QuantConfig(**{name: value for name, value in settings.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise ConfigError(describe_error({**first, "loc": (name,)}, [name], {name: first["input"]}, "")) from None


def _tokens(path: Path | None, run: Path | None, split: str, vocab_size: int) -> "TokenFile | None":
    """The tokens in `path`, or else those of the split "train" or "val" of a run folder; None without both."""
    from bulletlm.data.tokens import open_tokens

    if path:
        return _as_token_file(path, vocab_size)
    return open_tokens(run / "tokens", split) if run else None


def _trained(run: Path, config: "QuantConfig") -> Path | None:
    """The file with the weights that QAT trained, or None if there is none with the types of `config`."""
    from bulletlm.formats.bullet.reader import open_bullet
    from bulletlm.quant.types import weight_types

    path = run / "qat" / "model.bullet"
    if not path.exists():
        return None
    file = open_bullet(path)
    types = weight_types(file.shape, config.weights, config.embedding, config.keep)
    return path if types == {name: file.type(name) for name in file.tensors} else None


def _read_tokens(path: Path, vocab_size: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    """[tokens] uint16 or uint32, as `vocab_size` needs it, mapped from a raw file.

    Raises:
        DataError: the file cannot be read, is empty or has half a token at its end.
    """
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    try:
        with open_regular(path):
            size = path.stat().st_size
        if not size or size % dtype.itemsize:
            raise DataError(
                f"{path} has {size:,} bytes, which is not a whole number of {dtype.name} tokens: use the format of tokens/train.bin"
            )
        return np.memmap(path, dtype, mode="r")
    except OSError as error:
        raise DataError(f"cannot read the tokens {path}: {error.strerror}") from None


def _as_token_file(path: Path, vocab_size: int) -> "TokenFile":
    """A raw file of tokens as one document of unknown language."""
    from bulletlm.data.tokens import DocumentRange, TokenFile

    tokens = _read_tokens(path, vocab_size)
    document: DocumentRange = {"start": 0, "end": len(tokens), "bytes": 0, "language": "und", "source": path.name}
    return TokenFile(tokens, None, {"documents": [document]})


def main(arguments: list[str] | None = None) -> None:
    """Entry point. A user's mistake gives one line and exit code 1 or 2; only a bug in BulletLM shows a traceback."""

    def run_app() -> None:
        try:
            app(arguments, exit_on_error=False, print_error=False)
        except CycloptsError as error:
            fail(" ".join(str(error).split()) + "; see bullet-builder --help", 2, NAME)
        except KeyboardInterrupt:
            fail("stopped; nothing was written", 130, NAME)

    report_errors(run_app, NAME)


if __name__ == "__main__":
    main()
