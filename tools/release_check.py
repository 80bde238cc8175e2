"""Build the files of a release, install them as users do, use them, and print what they download and take on disk (`make release-check`).

    python tools/release_check.py                        all checks; the wheels are in dist/ afterwards
    python tools/release_check.py --only plain aarch64 --model FILE.bullet      some of them, with the files that are in dist/
    python tools/release_check.py --list                 the checks

Wheels are installed with the pins of constraints.txt. A failed check does not stop the others, and a program that hangs is killed. At the
end is a table: each check passed, failed, or was skipped because this machine lacks something, with its seconds and the reason. The exit
code is 1 if one failed. Besides the wheels, only the caches of pip and npm remain. The first Python that is found runs most checks.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import psutil
from build_wheels import ARCHITECTURES, missing_compilers
from check_results import CheckError, Result, Skipped, record, skip, step, table
from environments import CONSTRAINTS, NO_COMPILER, PYTHON_VERSIONS, Environment, Size, find_pythons, install_wheel
from programs import LONG_SECONDS, clean_environment, run_program, running_server

ROOT = Path(__file__).parents[1]

DOWNLOADED_MB, DISK_MB = 1e6, 1 << 20
"""Bytes of a megabyte, as pip and as du count."""

LIMITS_MB = {"": (40, 120)}
"""Largest download and size on disk of an extra, of the packages other than torch; "" is the installation without extras."""

NOT_FOR_USERS = ("bench", "clients", "dev", "export", "release")
"""Extras for work on this repository."""

SHORT_RUN = ["run", "demo", "--total-steps=20", "--dim=64", "--warmup=5", "--eval-every=20", "--qat.steps=0", "--train.threads=2"]

GENERATE = ["-p", "Good evening!", "--seed", "1", "--max-tokens", "40"]

NPM_CLIENTS = ("openai", "ollama", "ai", "@ai-sdk/openai")

TYPE_CHECK = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--types", "node"]
"""Options of TypeScript's compiler for a project that uses the library."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """What the checks use.

    Attributes:
        dist: the folder of the wheels and the source distribution.
        model: the .bullet file that the checks run. The check `train` writes it if it is not given.
        pythons: the interpreters by version, the oldest version first.
    """

    dist: Path
    model: Path
    pythons: dict[str, Path]

    @property
    def python(self) -> Path:
        """The interpreter for checks that need only one."""
        if not self.pythons:
            raise Skipped(f"there is no Python {' or '.join(PYTHON_VERSIONS)} that can make a virtual environment (Debian: python3-venv)")
        return next(iter(self.pythons.values()))

    @property
    def wheel(self) -> Path:
        """The wheel for this machine."""
        return newest_file(self.dist, f"bulletlm-*{platform.machine()}.whl")


def check_wheels(release: Release, folder: Path, results: list[Result]) -> None:
    """Build the source distribution and the wheels (tools/build_wheels.py)."""
    here, missing = platform.machine(), missing_compilers(ARCHITECTURES)
    with step(results, "wheels"):
        if here not in ARCHITECTURES:
            raise Skipped(f"this builds on {' or '.join(ARCHITECTURES)}, and not on {here}")
        if absent := missing_compilers([here]) or [name for name in ("build", "auditwheel") if importlib.util.find_spec(name) is None]:
            raise Skipped(f"this needs {' and '.join(absent)}: install gcc, and pip install '.[release]'")
        only = ["--only", here] if missing else []
        print(run_program([sys.executable, ROOT / "tools" / "build_wheels.py", release.dist, *only], timeout=LONG_SECONDS), end="")
    if missing:
        skip(results, "wheels, other processors", f"this needs {' and '.join(missing)} (Debian: apt-get install gcc-aarch64-linux-gnu)")


def check_checkout(release: Release, folder: Path, results: list[Result]) -> None:
    """Clone the last commit and do what README.md says: `make demo` and more (TORCH: what make installs as torch)."""
    place, activated = folder / "clone", ". .venv/bin/activate && "
    with step(results, "checkout, git clone"):
        if missing := [name for name in ("git", "make") if shutil.which(name) is None]:
            raise Skipped(f"this needs {' and '.join(missing)}")
        if not (ROOT / ".git").exists():
            raise Skipped("this needs the repository, not only its files")
        make = ["make", f"PYTHON={release.python}", f"TORCH={os.environ.get('TORCH', 'torch')}"]
        run_program(["git", "clone", "--quiet", ROOT, place])
    if results[-1].state != "passed":
        return
    commands: dict[str, tuple[list[str], str]] = {
        "make demo": ([*make, "demo"], ""),
        "make demo again": ([*make, "demo"], ""),
        "make chat": ([*make, "chat"], "नमस्कार\n"),
        "bullet doctor": (["sh", "-c", activated + "bullet doctor"], ""),
        "the extra documents": (["sh", "-c", activated + "pip install --constraint constraints.txt -e '.[documents]'"], ""),
        "make docs": ([*make, "docs"], ""),
        "make bench": ([*make, "bench"], ""),
    }
    for name, (command, text) in commands.items():
        with step(results, f"checkout, {name}"):
            if any(each.check == "checkout, make demo" and each.state != "passed" for each in results):
                raise Skipped("make demo did not pass")
            run_program(command, timeout=LONG_SECONDS, cwd=place, text=text)
    with step(results, "checkout, git status"):
        if changed := run_program(["git", "status", "--porcelain"], cwd=place):
            raise CheckError("the commands changed files of the repository", changed)


def check_train(release: Release, folder: Path, results: list[Result]) -> None:
    """Install the extra train, print its size, and train the small model that other checks run (not with --model)."""
    with step(results, "train"):
        environment, size = install_wheel(release.python, release.wheel, "train", folder)
        print_size("train", size)
        environment.bullet(*SHORT_RUN, cwd=folder)
        if not release.model.exists():
            shutil.copy2(folder / "runs" / "demo" / "model.bullet", release.model)


def check_extras(release: Release, folder: Path, results: list[Result]) -> None:
    """Install every other extra in an environment of its own, print its size, and serve a model with the extra serve."""
    for name in ["", *sorted(user_extras() - {"train"})]:
        with step(results, f"extras, {name or 'none'}"), inner_folder(folder) as place:
            environment, size = install_wheel(release.python, release.wheel, name, place)
            print_size(name, size)
            if name == "serve":
                check_server(environment, release.model, place)
            used_mb = (size.downloaded - size.torch_downloaded) / DOWNLOADED_MB, (size.installed - size.torch_installed) / DISK_MB
            for used, limit, where in zip(used_mb, LIMITS_MB.get(name, ()), ("to download", "on disk"), strict=False):
                if used > limit:
                    raise CheckError(f"{used:.1f} MB {where} without torch are more than {limit} MB")


def check_server(environment: Environment, model: Path, folder: Path) -> None:
    """Ask a server for its models."""
    command = [environment.folder / "bin" / "bullet", "serve", model, "--port", "0"]
    with running_server(command, r"http://\S+/v1", cwd=folder) as address:
        with urllib.request.urlopen(f"{address}/models", timeout=120) as answer:
            text = answer.read().decode()
        if not json.loads(text)["data"]:
            raise CheckError("bullet serve lists no model", text)


def check_plain(release: Release, folder: Path, results: list[Result]) -> None:
    """Use the installation without extras on every Python of pyenv and on PATH; the others name the extra that they need."""
    texts: dict[str, str] = {}
    for version in PYTHON_VERSIONS:
        with step(results, f"plain, Python {version}"), inner_folder(folder) as place:
            if version not in release.pythons:
                raise Skipped(f"there is no python{version} on PATH or in pyenv that can make a virtual environment")
            environment, size = install_wheel(release.pythons[version], release.wheel, "", place)
            print_size("", size)
            texts[version] = text = use_model(environment, release.model, place)
            error = environment.bullet_error("run", "demo", cwd=place)
            if f"-m pip install '{release.wheel}[train]'" not in error:
                raise CheckError("bullet run demo does not say how to install the extra", error)
            require_native(environment.bullet("doctor", "--json", cwd=place))
            first = next(iter(texts))
            if text != texts[first]:
                raise CheckError(f"the model gives another text than on Python {first}", f"{texts[first]}\n{text}")


def check_sdist(release: Release, folder: Path, results: list[Result]) -> None:
    """Install the source distribution without a compiler: models run in numpy."""
    with step(results, "sdist"):
        sdist = newest_file(release.dist, "bulletlm-*.tar.gz")
        environment = Environment(folder / "venv")
        run_program([release.python, "-m", "venv", environment.folder])
        variables = clean_environment(**NO_COMPILER, PATH=environment.folder / "bin")
        pip = [environment.folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-input", "--constraint", CONSTRAINTS]
        run_program([*pip, sdist], timeout=LONG_SECONDS, env=variables)
        use_model(environment, release.model, folder)
        runtime = json.loads(environment.bullet("doctor", "--json", cwd=folder))["runtime"]
        if "no C compiler" not in runtime:
            raise CheckError(f"bullet doctor does not say why the native engine is missing: {runtime}")


def check_aarch64(release: Release, folder: Path, results: list[Result]) -> None:
    """Run the wheel for aarch64 with Debian's Python for it, under qemu; the text must be the same as here."""
    with step(results, "aarch64"):
        qemu, os_release = shutil.which("qemu-aarch64-static"), Path("/etc/os-release")
        if qemu is None or not os_release.exists() or "ID=debian" not in os_release.read_text(encoding="utf-8").split():
            raise Skipped("this needs qemu-user-static, and Debian for its Python for aarch64")
        if missing := missing_compilers(["aarch64"]):
            raise Skipped(f"there is no wheel for aarch64 without {missing[0]} (apt-get install gcc-aarch64-linux-gnu)")
        wheel = newest_file(release.dist, "bulletlm-*aarch64.whl")
        environment, _ = install_wheel(release.python, release.wheel, "", folder)
        text = use_model(environment, release.model, folder)
        system, packages = folder / "aarch64", folder / "packages"
        version = unpack_debian_python(system)
        tags = [f"manylinux_2_{minor}_aarch64" for minor in range(40, 16, -1)] + ["manylinux2014_aarch64"]
        platforms = [word for tag in tags for word in ("--platform", tag)]
        where = ["--only-binary=:all:", "--python-version", version, "--implementation", "cp", *platforms, "--target", packages]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-compile", "--constraint", CONSTRAINTS]
        run_program([*pip, *where, wheel], timeout=LONG_SECONDS)
        python = [qemu, "-L", system, system / "usr" / "bin" / f"python{version}"]
        variables = {"PYTHONPATH": str(packages), "PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"}

        def bullet(*words: object) -> str:
            return run_program([*python, "-m", "bulletlm", *words], cwd=folder, env=variables)

        require_native(bullet("doctor", "--json"))
        bullet("verify", release.model)
        foreign = bullet("generate", release.model, *GENERATE)
        if foreign != text:
            raise CheckError(f"aarch64 gives another text than {platform.machine()}", f"{text}\n{foreign}")


def unpack_debian_python(system: Path) -> str:
    """Unpack Debian's Python for aarch64 and what it needs into a folder, without touching this system; returns its version."""
    state = system / "apt"
    for name in ("lists/partial", "archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    settings = ["APT::Architecture=arm64", "APT::Architectures::=arm64", f"Dir::State={state}", f"Dir::State::status={state / 'status'}"]
    settings += [f"Dir::State::lists={state / 'lists'}", f"Dir::Cache={state}", f"Dir::Cache::archives={state / 'archives'}"]
    settings += ["APT::Sandbox::User=root", "APT::Install-Recommends=false"]
    apt = ["apt-get", "-qq", *(word for setting in settings for word in ("-o", setting))]
    run_program([*apt, "update"])
    run_program([*apt, "install", "--download-only", "--yes", "python3-minimal", "libpython3-stdlib", "libstdc++6"])
    for archive in (state / "archives").glob("*.deb"):
        run_program(["dpkg-deb", "--extract", archive, system])
    found = [path for path in (system / "usr" / "bin").glob("python3.*") if re.fullmatch(r"python3\.\d+", path.name)]
    if len(found) != 1:
        raise CheckError(f"Debian's packages have {len(found)} interpreters instead of one")
    return found[0].name.removeprefix("python")


def check_clients(release: Release, folder: Path, results: list[Result]) -> None:
    """Chat through other client libraries (bench/clients.py), in an environment with the extra clients, and those of npm."""
    variables = clean_environment(HOME=folder)  # some clients write into the home folder
    with step(results, "clients, npm install"):
        variables["NODE_PATH"] = str(npm_install(folder / "npm", *NPM_CLIENTS))
    with step(results, "clients"):
        environment, _ = install_wheel(release.python, release.wheel, "clients", folder, constraints=None)
        command = [environment.folder / "bin" / "python", ROOT / "bench" / "clients.py", release.model, "--turns", "4"]
        try:
            shown = run_program(command, timeout=LONG_SECONDS, cwd=folder, env=variables)
        except CheckError as error:
            names = [line.partition("  ")[0] for line in error.output.splitlines() if "  FAILS" in line]
            raise CheckError(f"these clients fail: {', '.join(names)}", error.output) if names else error from None
        print(shown, end="")
        if absent := [line for line in shown.splitlines() if line.endswith("not installed") and "(npm)" not in line]:
            raise CheckError(f"the extra does not install {len(absent)} of the clients", "\n".join(absent))


def check_npm(release: Release, folder: Path, results: list[Result]) -> None:
    """Pack the JavaScript library, install it in a new project, check its types, and run the example of docs/browser.md."""
    with step(results, "npm"):
        require_npm()
        environment, _ = install_wheel(release.python, release.wheel, "", folder)
        environment.bullet("convert", release.model, "page.html", cwd=folder)
        write = "import pathlib; from bulletlm.formats.html.bundle import write_npm_folder; write_npm_folder(pathlib.Path('bulletlm'))"
        run_program([environment.folder / "bin" / "python", "-c", write], cwd=folder)
        packed = json.loads(run_program(["npm", "pack", "--json"], cwd=folder / "bulletlm"))[0]
        project = folder / "project"
        npm_install(project, folder / "bulletlm" / packed["filename"])
        tools = npm_install(folder / "tools", "typescript", "@types/node")
        shutil.copytree(tools, project / "node_modules", dirs_exist_ok=True, symlinks=True)
        shutil.copy2(release.model, project / "model.bullet")
        example = re.search(r"```js\n(.*?)```", (ROOT / "docs" / "browser.md").read_text(encoding="utf-8"), re.DOTALL)
        if example is None:
            raise CheckError("docs/browser.md has no example in JavaScript")
        (project / "example.mts").write_text(example[1], encoding="utf-8")
        (project / "example.mjs").write_text(example[1], encoding="utf-8")
        run_program(["node", "node_modules/typescript/bin/tsc", *TYPE_CHECK, "example.mts"], cwd=project)
        answer = run_program(["node", "example.mjs"], cwd=project)
        if not re.search(r"\d+ tokens", answer):
            raise CheckError("the example of docs/browser.md does not answer", answer)
        size = (folder / "page.html").stat().st_size
        print(f"page: {size / 1e6:.1f} MB; package for npm: {packed['size'] / 1e3:.0f} kB packed")


class Check(NamedTuple):
    """A check, and the checks before it whose files it uses: if one of these ran and did not pass, it is skipped."""

    run: Callable[[Release, Path, list[Result]], None]
    after: tuple[str, ...] = ()


CHECKS = {
    "wheels": Check(check_wheels),
    "checkout": Check(check_checkout),
    "train": Check(check_train, ("wheels",)),
    "extras": Check(check_extras, ("wheels", "train")),
    "plain": Check(check_plain, ("wheels", "train")),
    "sdist": Check(check_sdist, ("wheels", "train")),
    "aarch64": Check(check_aarch64, ("wheels", "train")),
    "clients": Check(check_clients, ("wheels", "train")),
    "npm": Check(check_npm, ("wheels", "train")),
}
"""All checks in their order."""


def use_model(environment: Environment, model: Path, folder: Path) -> str:
    """Run the commands of `bullet` that need no extra; returns a generated text."""
    environment.bullet("--version", cwd=folder)
    environment.bullet("--help", cwd=folder)
    environment.bullet("info", model, cwd=folder)
    environment.bullet("verify", model, cwd=folder)
    environment.bullet("convert", model, "m.gguf", cwd=folder)
    environment.bullet("convert", "m.gguf", "back.bullet", cwd=folder)
    environment.bullet("chat", model, "--max-tokens", "5", cwd=folder, text="Hello!\n")
    return environment.bullet("generate", model, *GENERATE, cwd=folder)


def require_native(doctor: str) -> None:
    """Fail unless the output of `bullet doctor --json` says that models run in the native engine."""
    runtime = str(json.loads(doctor)["runtime"])
    if not runtime.startswith("native"):
        raise CheckError(f"the native engine is not used: {runtime}")
    print(f"runtime: {runtime}")


def print_size(extra: str, size: Size) -> None:
    """Print what an installation downloads and takes on disk, and the same without torch."""
    line = f"extra {extra or '(none)'}: {size.downloaded / DOWNLOADED_MB:.0f} MB to download, {size.installed / DISK_MB:.0f} MB on disk"
    if size.torch_downloaded:
        rest = (size.downloaded - size.torch_downloaded) / DOWNLOADED_MB, (size.installed - size.torch_installed) / DISK_MB
        line += f"; without torch {rest[0]:.0f} and {rest[1]:.0f} MB"
    print(line, flush=True)


def user_extras() -> set[str]:
    """The extras for users."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project["optional-dependencies"]) - set(NOT_FOR_USERS)


def require_npm() -> None:
    """Skip the check without Node.js and npm."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise Skipped("this needs Node.js and npm")


def npm_install(folder: Path, *packages: object) -> Path:
    """Install packages of npm, without running their scripts, in a new project; returns the folder with the packages."""
    require_npm()
    folder.mkdir()
    (folder / "package.json").write_text('{"private": true, "type": "module"}\n', encoding="utf-8")
    options = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
    run_program(["npm", "install", *options, *packages], timeout=LONG_SECONDS, cwd=folder)
    return folder / "node_modules"


def newest_file(folder: Path, pattern: str) -> Path:
    """The newest file of a folder that a pattern matches."""
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        raise CheckError(f"{folder} has no {pattern}: run make wheels")
    return found[-1]


@contextmanager
def inner_folder(folder: Path) -> Iterator[Path]:
    """A new folder in a temporary folder, removed at the end to save space on the disk."""
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name:
        yield Path(name)


def choose_checks(words: Sequence[str], model_given: bool) -> list[str]:
    """The checks that --only names, with commas or spaces, in their order; all without words. `train` is added for those that need a model.

    Raises:
        ValueError: a check is unknown, or none is named.
    """
    named = [name for word in words for name in word.split(",") if name] if words else list(CHECKS)
    if unknown := [name for name in named or [""] if name not in CHECKS]:
        raise ValueError(f"--only {unknown[0]}: the checks are {', '.join(CHECKS)}")
    if not model_given and any("train" in CHECKS[name].after for name in named):
        named.append("train")
    return [name for name in CHECKS if name in named]


def run_checks(chosen: Sequence[str], release: Release, folder: Path, results: list[Result]) -> None:
    """Run checks, each in a temporary folder inside `folder`, and add their results."""
    for name in chosen:
        failed = [each.check for each in results if each.check in CHECKS[name].after and each.state != "passed"]
        if release.model.exists():  # given, or trained
            failed = [each for each in failed if each != "train"]
        if failed:
            skip(results, name, f"the check {failed[0]} did not pass")
            continue
        started = time.monotonic()
        try:
            with inner_folder(folder) as place:
                os.environ["TMPDIR"] = str(place)  # programs leave their temporary files behind when they are killed
                CHECKS[name].run(release, place, results)
        except Exception as error:  # outside of the steps of the check
            record(results, name, started, error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="folder of the wheels and the source distribution")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="checks to run, with spaces or commas")
    parser.add_argument("--model", type=Path, help="a .bullet file to run, instead of a small one that the check train makes")
    parser.add_argument("--list", action="store_true", help="print the checks and end")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:<10}{(check.run.__doc__ or '').partition(chr(10))[0]}" for name, check in CHECKS.items()))
        return 0
    model: Path | None = arguments.model
    if model and not model.is_file():
        parser.error(f"--model {model}: there is no such file")
    try:
        chosen = choose_checks(arguments.only, model is not None)
    except ValueError as error:
        parser.error(str(error))
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)  # as after Ctrl-C: programs are killed and temporary files removed
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            pythons = find_pythons()
            print("Python " + (", ".join(f"{version} ({path})" for version, path in pythons.items()) or "was not found"))
            trained = folder / "model.bullet"
            release = Release(dist=arguments.dist.resolve(), model=model.resolve() if model else trained, pythons=pythons)
            run_checks(chosen, release, folder, results)
        except KeyboardInterrupt:
            for process in psutil.Process().children(recursive=True):  # one that was only just started
                process.kill()
            print(f"\n{table(results)}\nstopped before the end")
            return 130
    print(f"\n{table(results)}")
    return int(any(each.state == "failed" for each in results))


if __name__ == "__main__":
    sys.exit(main())
