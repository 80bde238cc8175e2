"""Arguments that several commands have: their help, and what the shell completes for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bulletlm.cli.complete import complete_any_model, complete_configuration, complete_model, complete_text
from bulletlm.errors import ConfigError

if TYPE_CHECKING:
    from bulletlm.progress import ConsoleProgress

Settings = Annotated[
    str,
    Parameter(
        allow_leading_hyphen=True,
        help="Settings that override the file: --layers=4 --lr 3e-4 --set data.sources=[my-texts]. `bullet config` lists all settings.",
    ),
]
ConfigPath = Annotated[
    Path,
    Parameter(
        help="A configuration (JSON with comments), or a recipe of the package: demo, quick, seed.", completer=complete_configuration
    ),
]
TextOrConfig = Annotated[
    str,
    Parameter(
        allow_leading_hyphen=True,
        help="Folders and files of text, or one configuration (JSON with comments) or recipe (demo, quick, seed); then settings that "
        "override what was chosen or configured: --name novel-2, --from MODEL (a model to start from; none: random weights), --layers=4, "
        "--lr 3e-4. `bullet config` lists all settings.",
        completer=complete_text,
    ),
]
_A_MODEL = "The name of a run or model here (`bullet list` shows them), or the path of a .bullet file"
ModelFile = Annotated[Path, Parameter(help=f"{_A_MODEL}.", completer=complete_model)]
ModelPath = Annotated[Path, Parameter(help=f"{_A_MODEL} or of the export/npy folder of a run.", completer=complete_model)]
Restart = Annotated[bool, Parameter(help="Delete the trained model and its checkpoints, and train from the beginning.", negative="")]
Json = Annotated[bool, Parameter(help="Print the result as JSON.", negative="")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Verbosity:
    """How much a command says about its progress."""

    verbose: Annotated[
        bool, Parameter(name=["--verbose", "-v"], help="Also show details: why a stage runs, and how long it takes.", negative="")
    ] = False
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], help="Show only warnings, errors and the result.", negative="")] = False

    def progress(self) -> "ConsoleProgress":
        """Bars and messages on standard error."""
        from bulletlm.progress import ConsoleProgress

        if self.verbose and self.quiet:
            raise ConfigError("--verbose and --quiet contradict each other: use one of them")
        return ConsoleProgress("debug" if self.verbose else "warning" if self.quiet else "info")


USUAL = Verbosity()

MaxMb = Annotated[
    float | None,
    Parameter(name="--max-mb", help="Largest size of the model file in MB (1,000,000 bytes), if text is given instead of a configuration."),
]

AnyModel = Annotated[
    Path,
    Parameter(
        help="The name of a run or model here, or a path: a run folder, a checkpoint, a .bullet or .gguf file, an export/npy folder, or a "
        "folder of transformers.",
        completer=complete_any_model,
    ),
]
