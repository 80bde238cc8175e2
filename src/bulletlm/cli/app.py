"""The `bullet` command line: each command parses its arguments, calls one function and prints the result.

Heavy imports stay inside the commands, so that `bullet --help` and light commands start in a fraction of a second.
"""

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Group, Parameter

from bulletlm import __version__
from bulletlm.cli import measure
from bulletlm.cli.arguments import (
    USUAL,
    ConfigPath,
    Json,
    MaxMb,
    ModelFile,
    ModelPath,
    Restart,
    Settings,
    TextOrConfig,
    Verbosity,
)
from bulletlm.cli.chat import chat
from bulletlm.cli.complete import (
    complete_any_model,
    complete_configuration,
    complete_model,
    complete_run,
    complete_run_or_configuration,
    finish_script,
)
from bulletlm.cli.fast_start import ALIASES, fail, report_errors
from bulletlm.cli.generate import generate
from bulletlm.cli.models import find_model, find_run
from bulletlm.cli.score import score
from bulletlm.errors import ConfigError
from bulletlm.terminal import echo, escape_json, printable_json

if TYPE_CHECKING:
    from bulletlm.train.distributed.group import ProcessGroup


class CommandLine(App):
    """The command line, with completion scripts that treat folders as shells do."""

    def generate_completion(
        self, *, prog_name: str | None = None, shell: Literal["zsh", "bash", "fish", "powershell"] | None = None
    ) -> str:
        """The completion script for a shell; see `finish_script`."""
        return finish_script(super().generate_completion(prog_name=prog_name, shell=shell), shell or "")


app = CommandLine(
    name="bullet",
    help="From raw text to a small 4-bit language model, on an ordinary computer.",
    version=__version__,
    version_flags=("--version", "-V"),
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # __main__ says what Ctrl-C leaves behind
)

MAKE = Group("Make a model", sort_key=1)
STAGE_ORDER = ("data", "tokenizer", "train", "export", "qat", "build", "evaluate")
STAGES = Group("One stage of a run (earlier stages run first if they are not up to date)", sort_key=2)
USE = Group("Use a model", sort_key=3)
LOOK = Group("Inspect", sort_key=4)


@app.command(group=MAKE)
def run(
    *words: TextOrConfig,
    hours: Annotated[
        float | None, Parameter(help="Time for the whole command, if text is given instead of a configuration; default: 0.25.")
    ] = None,
    max_mb: MaxMb = None,
    restart: Restart = False,
    json: Json = False,
    verbosity: Verbosity = USUAL,
) -> None:
    """Make a model from text: clean, tokenize, train, quantize, evaluate. Stages that are up to date are skipped.

    Given folders or files of text, it chooses the settings for this text, this machine and the time, says what it chose, and writes
    them to runs/NAME/recipe.jsonc. Given a configuration, it does what that says.

    Example: bullet run my-texts --hours 1
    Example: bullet run my-texts --max-mb 1
    Example: bullet run demo
    """
    from bulletlm.cli.inputs import find_configuration, split_words

    paths, settings = split_words(words, "run")
    config = find_configuration(paths)
    if config is None:
        from bulletlm.cli.from_text import recipe_for_text

        config, settings = recipe_for_text(paths, settings, hours, max_mb, restart, verbosity.progress()), []
    elif hours is not None:
        raise ConfigError(
            f"--hours needs text, not a configuration; for a configuration use bullet plan {shlex.quote(paths[0])} --hours {hours:g} "
            "--write NEW.jsonc"
        )
    else:
        _refuse_max_mb(max_mb)
    folder = _stages(config, tuple(settings), "evaluate", restart, verbosity)
    _print_results(folder, folder / "report.json", as_json=json, beside=_model_beside(config))


def _print_results(folder: Path, report: Path, *, as_json: bool, beside: Path | None = None) -> None:
    """Print `report`, a JSON file of the run `folder`, or the summary of the run; for `beside` see `print_summary`."""
    if as_json:
        print(escape_json(report.read_text(encoding="utf-8")), end="")
        return
    from bulletlm.cli.output import print_summary

    print_summary(folder, beside=beside)


def _refuse_max_mb(max_mb: float | None) -> None:
    """Refuse --max-mb beside a configuration, which decides the shape itself."""
    if max_mb is not None:
        raise ConfigError(
            "--max-mb needs text, not a configuration; `bullet config CONFIG` prints the size of the file that a configuration gives"
        )


def _model_beside(config: Path) -> Path | None:
    """The packaged model for the demo of the package, which shows what to expect of longer training; None for all other runs."""
    from bulletlm.config.recipes import RECIPES
    from bulletlm.formats.packaged import packaged_model

    return packaged_model() if config == RECIPES / "demo.jsonc" else None


def _stage_command(stage: str, summary: str, output: str) -> None:
    """Register the command that runs the stages up to `stage` and prints the path of `output`, a name in the run folder."""

    def command(config: ConfigPath, /, *settings: Settings, restart: Restart = False, verbosity: Verbosity = USUAL) -> None:
        echo(_stages(config, settings, stage, restart, verbosity) / output)

    command.__doc__ = f"{summary}\n\nEarlier stages run first if they are not up to date. Example: bullet {stage} demo"
    app.command(command, name=stage, group=STAGES, sort_key=STAGE_ORDER.index(stage))


_stage_command("data", "Read, clean, deduplicate and split the text.", "data")


@app.command(group=STAGES, sort_key=STAGE_ORDER.index("tokenizer"))
def tokenizer(
    config: ConfigPath,
    /,
    *settings: Settings,
    compare: Annotated[
        bool, Parameter(help="Also compare vocabularies of 2,000, 4,000 and 8,000 tokens on this text.", negative="")
    ] = False,
    restart: Restart = False,
    verbosity: Verbosity = USUAL,
) -> None:
    """Train the tokenizer.

    Earlier stages run first if they are not up to date. Example: bullet tokenizer demo --compare
    """
    folder = _stages(config, settings, "tokenizer", restart, verbosity) / "tokenizer"
    if compare:
        from bulletlm.config.loader import load_config
        from bulletlm.data.sizes import compare_sizes, print_sizes
        from bulletlm.pipeline.run_folder import WrittenFiles

        print_sizes(compare_sizes(load_config(config, settings), verbosity.progress()), folder / "compare.json")
        WrittenFiles(folder.parent).record("tokenizer/compare.json")
    else:
        echo(folder)


@app.command(group=STAGES, sort_key=STAGE_ORDER.index("train"))
def train(
    config: ConfigPath,
    /,
    *settings: Settings,
    prove_resume: Annotated[
        bool,
        Parameter(
            help="Do not train. Prove instead that a run with these settings that is killed and resumed gives the same bytes.",
            negative="",
        ),
    ] = False,
    restart: Restart = False,
    verbosity: Verbosity = USUAL,
) -> None:
    """Train the model, or resume training from the last checkpoint.

    Earlier stages run first if they are not up to date. Ctrl-C, or a file named stop in the run folder, saves a checkpoint and
    stops. Example: bullet train demo --prove-resume
    """
    if prove_resume:
        from bulletlm.config.loader import load_config
        from bulletlm.train.prove import prove_resume as prove

        workers = load_config(config, settings).train.workers or 1
        echo(prove(_stages(config, settings, "tokens", restart, verbosity), workers, verbosity.progress()))
    else:
        echo(_stages(config, settings, "train", restart, verbosity) / "checkpoints/best")


_stage_command("export", "Write the best checkpoint as FP32 .npy files.", "export/npy")


@app.command(group=STAGES, sort_key=STAGE_ORDER.index("qat"))
def qat(
    run: Annotated[Path, Parameter(help="The name or the folder of a trained run.", completer=complete_run)],
    /,
    *settings: Settings,
    steps: Annotated[int | None, Parameter(help="Steps of quantization-aware training; default: the run's own qat.steps.")] = None,
    json: Json = False,
    verbosity: Verbosity = USUAL,
) -> None:
    """Fine-tune the 4-bit weights of a finished run with its FP32 model as the teacher, then build and evaluate again.

    Example: bullet qat demo --steps 300
    """
    from bulletlm.pipeline.runner import finish_run

    run = find_run(run)
    flags = (*settings, *((f"--qat.steps={steps}",) if steps is not None else ()))
    finish_run(run, flags, verbosity.progress())
    _print_results(run, run / "qat" / "report.json", as_json=json)


@app.command(group=STAGES, sort_key=STAGE_ORDER.index("build"))
def build(
    *words: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True,
            help="A configuration file and settings; or a run folder or a folder of .npy tensors and the options of bullet-builder.",
            completer=complete_run_or_configuration,
        ),
    ],
    restart: Restart = False,
    verbosity: Verbosity = USUAL,
) -> None:
    """Quantize the model and write it to one .bullet file.

    Earlier stages run first if they are not up to date. Example: bullet build demo

    With a run folder or a folder of .npy tensors instead of a configuration, this command is the same as bullet-builder and takes
    its options: bullet build runs/demo --quant BQ8 --out demo8.bullet
    """
    from bulletlm.cli.builder import app as builder
    from bulletlm.cli.builder import is_model_folder
    from bulletlm.config.recipes import find_recipe

    # A configuration comes first, before its settings. Only bullet-builder accepts its folder after the options.
    places = words if words and words[0].startswith("-") else words[:1]
    is_folder = any(is_model_folder(find_run(Path(word))) for word in places if not word.startswith("-"))
    # `demo` is a recipe, and may be a run too: settings, which bullet-builder does not know, belong to the recipe.
    if is_folder and not (find_recipe(words[0]) and builder.parse_known_args([*words])[2]):
        builder([*words], exit_on_error=False, print_error=False)
        return
    if not words or words[0].startswith("-"):
        raise ConfigError("bullet build needs a configuration, a run folder or a folder of .npy tensors: bullet build demo")
    echo(_stages(Path(words[0]), words[1:], "build", restart, verbosity) / "model.bullet")


@app.command(group=STAGES, sort_key=STAGE_ORDER.index("evaluate"))
def evaluate(
    config: Annotated[
        Path,
        Parameter(
            help="A configuration, a recipe of the package, or the name or folder of a trained run.",
            completer=complete_run_or_configuration,
        ),
    ],
    /,
    *settings: Settings,
    checkpoints: Annotated[
        bool, Parameter(help="List the kept checkpoints of a run with their losses and checks of their answers.", negative="")
    ] = False,
    use: Annotated[
        str | None, Parameter(help="Export, build and evaluate this checkpoint of a run, such as step-2500; best is the usual one.")
    ] = None,
    restart: Restart = False,
    json: Json = False,
    verbosity: Verbosity = USUAL,
) -> None:
    """Compare the model file with the FP32 model, judge both, and write the report.

    For a configuration, earlier stages run first if they are not up to date. For a trained run, the stages after training run again
    where the settings changed.

    Example: bullet evaluate demo
    Example: bullet evaluate runs/demo --checkpoints
    Example: bullet evaluate runs/demo --use step-1000 --lang mr
    """
    from bulletlm.pipeline.run_record import is_run_folder
    from bulletlm.pipeline.runner import finish_run

    folder = find_run(config)
    if checkpoints and use is not None:
        raise ConfigError("--checkpoints only lists the checkpoints, and --use evaluates one: give one of them")
    if not is_run_folder(folder):
        if checkpoints or use is not None:
            raise ConfigError(f"{'--checkpoints' if checkpoints else '--use'} needs the folder of a trained run, such as runs/demo")
        folder = _stages(config, settings, "evaluate", restart, verbosity)
        if json:
            _print_results(folder, folder / "report.json", as_json=True)
        else:
            echo(folder / "report.html")
        return
    if restart:
        raise ConfigError(f"--restart needs a configuration: bullet run {shlex.quote(str(folder / 'config.json'))} --restart")
    if checkpoints:
        from bulletlm.cli.checkpoints import print_checkpoints

        print_checkpoints(folder, settings, verbosity.progress(), as_json=json)
        return
    flags = (*settings, *((f"--evaluate.checkpoint={use}",) if use is not None else ()))
    finish_run(folder, flags, verbosity.progress())
    _print_results(folder, folder / "report.json", as_json=json)


@app.command(group=LOOK)
def config(
    *words: Annotated[
        str,
        Parameter(allow_leading_hyphen=True, help="A configuration file (optional), then settings.", completer=complete_configuration),
    ],
) -> None:
    """Print the resolved configuration and the facts derived from it: parameters, file size, tokens per step.

    Of a run that starts from a model, the shape is that of the model.

    Example: bullet config seed --layers=4
    """
    from bulletlm.config.loader import load_config
    from bulletlm.config.starter import print_config
    from bulletlm.pipeline.start import resolve
    from bulletlm.progress import ConsoleProgress

    file = words[0] if words and not words[0].startswith("--") else None
    print_config(resolve(load_config(file, words[1:] if file else words), ConsoleProgress())[0])


@app.command(group=MAKE)
def plan(
    *words: TextOrConfig,
    hours: Annotated[
        float | None, Parameter(help="Also find the model shape and number of steps with the lowest expected loss within this time.")
    ] = None,
    max_mb: MaxMb = None,
    seconds: Annotated[float, Parameter(help="How long to measure this machine, in seconds.")] = 30.0,
    write: Annotated[Path | None, Parameter(help="Write the configuration of the best run to this file (needs --hours).")] = None,
    json: Json = False,
) -> None:
    """Estimate time, memory and loss of a run on this machine, or find the best run for a number of hours.

    Given folders or files of text instead of a configuration, it says what `bullet run` would choose for them.

    Example: bullet plan my-texts --hours 1
    Example: bullet plan seed --set data.sources=[my-texts] --hours 8 --write eight-hours.json
    """
    from bulletlm.cli.inputs import find_configuration, split_words

    paths, settings = split_words(words, "plan")
    config = find_configuration(paths)
    if config is None:
        from bulletlm.cli.from_text import print_choice

        print_choice(paths, settings, hours, max_mb, write, as_json=json)
        return
    _refuse_max_mb(max_mb)
    from bulletlm.extras import require

    require("train", "measuring training")
    from bulletlm.hardware import park_idle_threads

    park_idle_threads()
    from bulletlm.config.loader import load_config
    from bulletlm.pipeline.plan import make_plan, print_json, print_plan
    from bulletlm.progress import ConsoleProgress

    loaded = load_config(config, settings)
    result = make_plan(loaded, hours, seconds, write, ConsoleProgress())
    if json:
        print_json(result)
    else:
        print_plan(result)


@app.command(group=MAKE)
def init(path: Annotated[Path, Parameter(help="The file to write.")] = Path("bullet.jsonc"), /) -> None:
    """Write a starter configuration with every setting, its default and its description.

    Example: bullet init my-model.jsonc
    """
    from bulletlm.config.starter import write_starter_config

    write_starter_config(path)
    echo(f"wrote {path}: set data.sources to your texts, then run: bullet run {path}")


@app.command(group=LOOK)
def doctor(json: Json = False) -> None:
    """Check this machine: processor, memory, disk, libraries, and what is missing.

    Example: bullet doctor
    """
    from bulletlm.cli.doctor import print_doctor

    print_doctor(as_json=json)


def _register(command: Callable[..., None]) -> None:
    """Register a command that fast_start.py also starts; its options are its plain annotations, their help is in its docstring."""
    short = {long: alias for alias, long in ALIASES.items()}
    ours = FunctionType(command.__code__, command.__globals__, command.__name__, command.__defaults__)
    ours.__doc__, ours.__kwdefaults__, ours.__annotations__ = command.__doc__, command.__kwdefaults__, dict(command.__annotations__)
    for name, kind in command.__annotations__.items():
        option = f"--{name}".replace("_", "-")
        if option in short:
            ours.__annotations__[name] = Annotated[kind, Parameter(name=[option, short[option]])]
        elif name == "file":
            ours.__annotations__[name] = Annotated[kind, Parameter(completer=complete_model)]
        elif kind in ("bool", "tuple[str, ...]"):
            ours.__annotations__[name] = Annotated[bool if kind == "bool" else tuple[str, ...], Parameter(negative="")]
    app.command(ours, group=USE)


_register(generate)
_register(chat)


@app.command(group=USE)
def bench(
    file: ModelFile,
    /,
    *,
    against: Annotated[Literal["llama.cpp"] | None, Parameter(help="Also measure this program with the same weights.")] = None,
    tokens: Annotated[int | None, Parameter(help="Tokens in prompts and answers; default: 128, or the context if that is shorter.")] = None,
    rounds: Annotated[int, Parameter(help="Number of measurements of each job; medians are printed.")] = 9,
    json: Json = False,
) -> None:
    """Measure how fast a model runs on this machine: decode, prefill, start-up time, memory.

    Example: bullet bench demo --against llama.cpp
    """
    from bulletlm.evaluate.speed import bench as measure
    from bulletlm.evaluate.speed import print_bench

    result = measure(find_model(file), against, tokens, rounds)
    if json:
        print(printable_json(result))
    else:
        print_bench(result)


@app.command(group=USE)
def serve(
    file: ModelPath,
    /,
    *,
    host: Annotated[str, Parameter(help="Address to listen at. Every address except this computer's own needs a key.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None, Parameter(help="Key that clients must send. In BULLET_API_KEY, other users of this computer cannot see it.")
    ] = None,
    cors: Annotated[
        tuple[str, ...], Parameter(help="Origin of a web page that may send requests, such as http://localhost:3000; can be repeated.")
    ] = (),
    allowed_host: Annotated[
        tuple[str, ...],
        Parameter(help="Further name that clients may use for this computer, such as host.docker.internal; can be repeated."),
    ] = (),
    name: Annotated[str | None, Parameter(help="The model's name for clients; by default the one in the file.")] = None,
    threads: Annotated[int | None, Parameter(help="Threads that compute; by default one per core.")] = None,
    turbo: Annotated[bool, Parameter(help="8-bit activations in the native engine: faster, slightly less exact.", negative="")] = False,
    concurrency: Annotated[int, Parameter(help="Answers generated at once; each keeps its own KV cache.")] = 16,
    queue: Annotated[int, Parameter(help="Answers that may wait; more are refused (429).")] = 64,
    timeout: Annotated[float, Parameter(help="Seconds for one request; then its answer ends where it is.")] = 120.0,
    max_request_bytes: Annotated[int, Parameter(help="Largest size of a request.")] = 1_000_000,
    max_prompt_tokens: Annotated[int | None, Parameter(help="Longest prompt; by default the model's context length.")] = None,
    connections: Annotated[int, Parameter(help="Connections open at once; more are refused (503).")] = 256,
    overflow: Annotated[
        Literal["drop", "error"],
        Parameter(help="A conversation longer than the context: leave out its oldest messages, or answer with an error."),
    ] = "drop",
) -> None:
    """Serve a model over HTTP with OpenAI's interface; by default to programs on this computer only.

    Example: bullet serve demo
    """
    from bulletlm.serve.options import ServeOptions
    from bulletlm.serve.server import serve as run_server

    options = ServeOptions(
        host=host,
        port=port,
        api_key=api_key,
        cors=cors,
        allowed_hosts=allowed_host,
        name=name,
        threads=threads,
        turbo=turbo,
        concurrency=concurrency,
        queue=queue,
        timeout=timeout,
        max_request_bytes=max_request_bytes,
        max_prompt_tokens=max_prompt_tokens,
        connections=connections,
        overflow=overflow,
    )
    run_server(find_model(file), options)


@app.command(group=MAKE)
def dashboard(
    folder: Annotated[Path, Parameter(help="The folder to work in: runs are in its subfolder runs, uploaded texts in uploads.")] = Path(),
    /,
    *,
    host: Annotated[str, Parameter(help="Address to listen at. Every address except this computer's own needs a token.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port; 0 takes a free one.")] = 8090,
    token: Annotated[
        str | None,
        Parameter(help="What a user must enter. In BULLET_DASHBOARD_TOKEN, other users of this computer cannot see it."),
    ] = None,
    allow: Annotated[tuple[Path, ...], Parameter(help="Another folder from which texts may be read; can be repeated.", negative="")] = (),
    open: Annotated[bool, Parameter(help="Open the page in the browser.")] = True,
) -> None:
    """Open the dashboard: start, watch, compare and try models in a web browser. It needs the extra `dashboard`.

    Example: bullet dashboard
    """
    from bulletlm.dashboard.options import dashboard_options

    options = dashboard_options(folder, allow, host, port, token, open)
    from bulletlm.dashboard.app import serve as run_dashboard

    run_dashboard(options)


@app.command(group=USE)
def convert(
    source: Annotated[
        Path,
        Parameter(
            help="The name of a run or model here, a .bullet file (version 1 or 2), a .gguf file, a Hugging Face or .npy folder.",
            completer=complete_any_model,
        ),
    ],
    target: Annotated[
        Path, Parameter(help="What to write: NAME.bullet, NAME.gguf, NAME.html (a chat page), or a folder with hf or npy in its name.")
    ],
    /,
    *,
    to: Annotated[
        Literal["bullet", "gguf", "hf", "npy", "html"] | None, Parameter(help="The target format, if its name does not show it.")
    ] = None,
    format: Annotated[Literal["v1", "v2"], Parameter(help="Version of the .bullet file to write.")] = "v2",
    quant: Annotated[
        Literal["BQ4", "BQ8", "F16", "F32"] | None,
        Parameter(help="Weight type of the matrices. Default: unchanged, but FP32 sources become BQ4 in a .bullet file."),
    ] = None,
    like: Annotated[Path | None, Parameter(help="For version 1: a model of the same shape whose tokenizer to use.")] = None,
    force: Annotated[bool, Parameter(help="Replace an existing target, and the NAME.Modelfile of a GGUF.", negative="")] = False,
) -> None:
    """Convert a model to another format: for llama.cpp, Ollama or transformers, and back; or to a page that runs it in a browser.

    Example: bullet convert demo demo.gguf
    Example: bullet convert demo demo.html
    """
    from bulletlm.formats.convert import ConvertOptions
    from bulletlm.formats.convert import convert as convert_model

    source, like = find_model(source, other_folders=True), find_model(like) if like else None
    result = convert_model(source, target, ConvertOptions(to=to, version=int(format[1]), quant=quant, like=like, force=force))
    for note in result.notes:
        echo(f"note: {note}", to_stderr=True)
    size = f", {target.stat().st_size / 1e6:.3g} MB" if target.is_file() else ""
    echo(f"{source} ({result.source_kind}) -> {target} ({result.target_kind}{size})")


@app.command(name="list", group=LOOK)
def list_models(*, json: Json = False) -> None:
    """List the models and runs in this folder: name, kind, parameters, size, date and state.

    Other commands accept these names instead of paths. Example: bullet list
    """
    from bulletlm.cli.listing import print_list

    print_list(as_json=json)


@app.command(name="help", group=LOOK)
def show_help(
    command: Annotated[
        str, Parameter(help="The command to explain; without it, all commands are listed.", completer=lambda _: _commands())
    ] = "",
    /,
) -> None:
    """Explain a command, or list all commands.

    Example: bullet help run
    """
    names = _commands()
    if command and command not in names:
        near = get_close_matches(command, names, n=1)
        raise ConfigError(f"there is no command {command}: " + (f"did you mean {near[0]}?" if near else "bullet help lists all commands"))
    app.help_print([command] if command else [])


def _commands() -> list[str]:
    """The names of all commands."""
    return [name for name in app if not name.startswith("-")]


@app.command(group=LOOK)
def info(
    file: ModelFile,
    /,
    *,
    tensors: Annotated[bool, Parameter(help="List every tensor.", negative="")] = False,
    json: Json = False,
) -> None:
    """Print the facts about a .bullet file: shape, size, training, licence.

    Example: bullet info demo
    """
    from bulletlm.cli.output import print_info

    print_info(find_model(file), tensors=tensors, as_json=json)


@app.command(group=LOOK)
def verify(file: ModelFile, /) -> None:
    """Check a .bullet file: checksum, structure, and that every number is finite.

    Example: bullet verify demo
    """
    from bulletlm.formats.bullet.reader import open_bullet

    path = find_model(file)
    open_bullet(path).verify()
    echo(f"{path}: valid")


app.command(measure.benchmark, group=LOOK)
app.command(measure.compare, group=LOOK)
app.command(measure.card, group=LOOK)
app.command(score, group=LOOK)


def _stages(config: Path, settings: tuple[str, ...], until: str, restart: bool, verbosity: Verbosity) -> Path:
    """Run the stages of a configuration up to `until`; returns the run folder."""
    from bulletlm.config.loader import load_config
    from bulletlm.pipeline.runner import run_stages

    progress = verbosity.progress()
    with _process_group() as group:
        return run_stages(load_config(config, settings), until, progress, restart=restart, group=group).folder


@contextlib.contextmanager
def _process_group() -> "Iterator[ProcessGroup | None]":
    """The process group that torchrun started, or None. Only the main process returns; the others train with it, then exit."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield None
        return
    from bulletlm.hardware import park_idle_threads

    park_idle_threads()
    from bulletlm.train.distributed.launch import torchrun_group

    with torchrun_group() as group:
        yield group


app.register_install_completion_command(
    group=LOOK,
    help="Make your shell (bash, zsh, fish or PowerShell) complete commands, options, and the names of models, runs and recipes.",
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point. A user's mistake gives one line and exit code 1 or 2; only a bug in BulletLM shows a traceback."""

    def run_app() -> None:
        try:
            app(arguments, exit_on_error=False, print_error=False)
        except CycloptsError as error:
            fail(" ".join(str(error).split()) + "; see bullet --help", 2)

    report_errors(run_app)
