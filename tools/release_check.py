"""Build the wheels, install them as users do, use them, and print what they download and take on disk (`make release-check` runs this).

    python tools/release_check.py                        all checks; the wheels are in dist/ afterwards
    python tools/release_check.py --only plain,aarch64 --model FILE.bullet      some of them, with the files that are in dist/

    wheels    builds the source distribution and the wheels (tools/build_wheels.py)
    checkout  a fresh clone of the last commit: `make demo`, `make chat`, `bullet` after the environment is activated, the installation
              of an extra as in docs/tutorial.md, `make docs` and `make bench`; TORCH in the environment is what make installs as torch
    extras    installs every extra in an environment of its own and prints its size; trains a small model with the extra train
    plain     without extras, on every Python from 3.11 to 3.14 that is on PATH or that pyenv has: commands that need no extra work,
              the others name the command that installs what they need
    sdist     installs the source distribution without a compiler: models run in numpy
    aarch64   runs the wheel for aarch64 with Debian's Python for that processor, under qemu-user; the text must be the same as here
    clients   bench/clients.py in an environment with the extra clients, and with the clients of npm
    npm       packs the JavaScript library, installs it in a new project, checks its types, and runs the example of docs/browser.md

Wheels are installed with the pins of constraints.txt. A failed check does not stop the others. The last lines are a summary: which checks
passed, failed, or were skipped because this machine lacks something, with their times and the reasons. The exit code is 1 if one failed.
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from build_wheels import ARCHITECTURES, missing_compilers

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
DOWNLOADED_MB, DISK_MB = 1e6, 1 << 20
"""Bytes of a megabyte, as pip and as du count."""

CHECKS = ("wheels", "checkout", "extras", "plain", "sdist", "aarch64", "clients", "npm")

VERSIONS = ("3.11", "3.12", "3.13", "3.14")

LIMITS = {"": (40, 120)}
"""Largest download and size on disk of an extra, in MB, of the packages other than torch; "" is the installation without extras."""

MODEL = Path("runs/demo/model.bullet")
"""The model that the checks run, in their folder."""

SHORT_RUN = ["run", "demo", "--total-steps=20", "--dim=64", "--warmup=5", "--eval-every=20", "--qat.steps=0", "--train.threads=2"]

LONGEST_SECONDS = 3_600
"""Time that one program may take, so that a network which does not answer cannot hold up the other checks."""

NPM_CLIENTS = ("openai", "ollama", "ai", "@ai-sdk/openai")

TYPE_CHECK = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--types", "node"]
"""Options of TypeScript's compiler for a project that uses the library."""


class NotPossible(Exception):
    """A check needs a program that this machine does not have; the message says which."""


class Outcome(NamedTuple):
    """How a check ended: "passed", "skipped" or "failed", with the time that it took and the reason."""

    check: str
    state: str
    seconds: float
    reason: str = ""


class Size(NamedTuple):
    """Bytes of an installation: downloaded and on disk, and the same of torch alone."""

    downloaded: int
    installed: int
    torch_downloaded: int
    torch_installed: int


class Environment(NamedTuple):
    """A virtual environment with the package, and its size."""

    folder: Path
    size: Size

    def bullet(self, *words: object, folder: Path, text: str = "", fails: bool = False) -> str:
        """Run a command of `bullet` in a folder; returns what it printed, or the error that it must give."""
        command = [self.folder / "bin" / "bullet", *words]
        environment = {"PATH": str(self.folder / "bin"), "HOME": str(folder), "LANG": "C.UTF-8"}
        done = subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_SECONDS,
        )
        if bool(done.returncode) != fails:
            raise SystemExit(
                f"bullet {' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        return done.stderr if fails else done.stdout


def find_pythons() -> dict[str, Path]:
    """The interpreters on PATH and of pyenv that can make a virtual environment, by version."""
    found: dict[str, Path] = {}
    for version in VERSIONS:
        on_path = shutil.which(f"python{version}")
        pyenv = sorted((Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions").glob(f"{version}.*/bin/python"))
        for each in [*filter(None, [on_path]), *pyenv[::-1]]:
            check = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
            done = subprocess.run([each, "-c", check], capture_output=True, text=True, check=False)
            if done.stdout.strip() == version:
                found[version] = Path(each)
                break
    return found


def run(command: Sequence[object], **options: object) -> str:
    """Run a program that must succeed; returns what it printed."""
    settings = {"timeout": LONGEST_SECONDS, **options}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **settings)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return str(done.stdout)


def disk_bytes(folder: Path, name: str = "*") -> int:
    """Bytes of the files in the entries of a folder that `name` matches."""
    files = [file for entry in folder.glob(name) for file in ([entry] if entry.is_file() else entry.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def install(python: Path, wheel: Path, extra: str, folder: Path, constraints: Path | None = CONSTRAINTS) -> Environment:
    """Install a wheel with an extra in a fresh environment, without a compiler."""
    files = folder / "files"
    run([python, "-m", "venv", folder / "venv"])
    inside = folder / "venv" / "bin" / "python"
    packages = next((folder / "venv" / "lib").glob("python*/site-packages"))
    before = {entry.name for entry in packages.iterdir()}  # pip, and on Python 3.11 setuptools
    what = f"{wheel}[{extra}]" if extra else str(wheel)
    pip = [inside, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    environment = {**os.environ, "CC": "no-compiler", "CXX": "no-compiler"}
    pins = ["--constraint", constraints] if constraints else []
    run([*pip, "download", "--only-binary=:all:", *pins, "--dest", files, what], env=environment)
    run([*pip, "install", "--no-index", "--find-links", files, what], env=environment)
    new = sum(disk_bytes(packages, entry.name) for entry in packages.iterdir() if entry.name not in before)
    size = Size(disk_bytes(files), new, disk_bytes(files, "torch-*"), disk_bytes(packages, "torch*"))
    shutil.rmtree(files)
    return Environment(folder / "venv", size)


def extras() -> list[str]:
    """The extras for users."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return [name for name in table if name not in ("bench", "clients", "dev", "export", "release")]


@contextmanager
def part_of(failures: list[str], name: str) -> Iterator[None]:
    """A part of a check: if it fails, the failure is noted and the next part goes on."""
    try:
        yield
    except (Exception, SystemExit) as error:
        failures.append(f"{name}: {reason_of(error)}")
        print(failures[-1], flush=True)


def reason_of(error: BaseException) -> str:
    """What an error says; its kind as well, unless a check raised it on purpose."""
    return str(error) if isinstance(error, SystemExit | NotPossible) else f"{type(error).__name__}: {error}"


def check_wheels(dist: Path) -> None:
    """Build the files that the other checks install: without Debian's cross-compiler, only those of this machine."""
    if missing := missing_compilers(ARCHITECTURES):
        print(f"without the wheels of other processors: {', '.join(missing)} not found")
    only = [] if not missing else ["--only", platform.machine()]
    print(run([sys.executable, ROOT / "tools" / "build_wheels.py", dist, *only]), end="")


def check_checkout(python: Path, folder: Path) -> None:
    """What README.md says to type in a fresh clone."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        raise NotPossible("this needs git, and the repository")
    place = folder / "checkout"
    run(["git", "clone", "--quiet", ROOT, place])
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")}
    make = ["make", f"PYTHON={python}", f"TORCH={os.environ.get('TORCH', 'torch')}"]
    activated = ". .venv/bin/activate && "
    steps: dict[str, tuple[list[str], str]] = {
        "make demo": ([*make, "demo"], ""),
        "make demo, again": ([*make, "demo"], ""),
        "make chat": ([*make, "chat"], "नमस्कार\n"),
        "bullet doctor": (["sh", "-c", activated + "bullet doctor"], ""),
        "the extra documents": (["sh", "-c", activated + "pip install --constraint constraints.txt -e '.[documents]'"], ""),
        "make docs": ([*make, "docs"], ""),
        "make bench": ([*make, "bench"], ""),
    }
    failures: list[str] = []
    for name, (command, text) in steps.items():
        started = time.monotonic()
        with part_of(failures, name):
            run(command, cwd=place, env=environment, input=text)
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        if failures and name == "make demo":
            break
    with part_of(failures, "git status"):
        if changed := run(["git", "status", "--porcelain"], cwd=place):
            raise SystemExit(f"the commands changed the repository:\n{changed}")
    if failures:
        raise SystemExit("; ".join(failure.partition("\n")[0] for failure in failures))


def check_extras(python: Path, wheel: Path, folder: Path) -> None:
    """Install every extra and print its size; train a small model, which the other checks use, and serve it."""
    print(f"{'extra':<12}{'download':>10}{'on disk':>10}   without torch")
    failures: list[str] = []
    for name in ["", "train", *sorted(set(extras()) - {"train"})]:
        place = folder / f"extra-{name or 'none'}"
        with part_of(failures, name or "the plain installation"):
            check_extra(python, wheel, folder, name, place)
        shutil.rmtree(place, ignore_errors=True)
    if failures:
        raise SystemExit("; ".join(failure.partition("\n")[0] for failure in failures))


def check_extra(python: Path, wheel: Path, folder: Path, name: str, place: Path) -> None:
    """Install an extra, print its size, and use what only this extra has."""
    environment = install(python, wheel, name, place)
    size = environment.size
    rest = (size.downloaded - size.torch_downloaded, size.installed - size.torch_installed)
    shown = f"{rest[0] / DOWNLOADED_MB:.0f} / {rest[1] / DISK_MB:.0f} MB" if size.torch_downloaded else ""
    print(
        f"{name or '(none)':<12}{size.downloaded / DOWNLOADED_MB:>7.0f} MB{size.installed / DISK_MB:>7.0f} MB   {shown}".rstrip(),
        flush=True,
    )
    if name == "train" and not (folder / MODEL).exists():
        started = time.monotonic()
        environment.bullet(*SHORT_RUN, folder=folder)
        print(f"{'':<12}trained a small model in {time.monotonic() - started:.0f} s", flush=True)
    if name == "serve":
        check_server(environment, small_model(python, wheel, folder), folder)
    for used, unit, limit in zip(rest, (DOWNLOADED_MB, DISK_MB), LIMITS.get(name, ()), strict=False):
        if used > limit * unit:
            raise SystemExit(f"takes {used / unit:.0f} MB, more than {limit}")


def check_server(environment: Environment, model: Path, folder: Path) -> None:
    """Ask a server for its models."""
    command = [environment.folder / "bin" / "bullet", "serve", model, "--port", "0"]
    with subprocess.Popen([str(word) for word in command], cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = re.search(r"http://\S+/v1", server.stdout.readline())
            if address is None:
                raise SystemExit("bullet serve does not start")
            with urllib.request.urlopen(f"{address[0]}/models", timeout=120) as answer:
                assert json.load(answer)["data"]
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=120)


def small_model(python: Path, wheel: Path, folder: Path) -> Path:
    """The model that `check_extras` trained or that was given; trained now if there is none, unless that failed before."""
    model, failed = folder / MODEL, folder / "no-model"
    if failed.exists():
        raise SystemExit(f"no model could be trained: {failed.read_text(encoding='utf-8')}")
    if not model.exists():
        try:
            install(python, wheel, "train", folder / "train").bullet(*SHORT_RUN, folder=folder)
        except (Exception, SystemExit) as error:
            failed.write_text(reason_of(error), encoding="utf-8")
            raise
        shutil.rmtree(folder / "train")
    return model


def use(environment: Environment, model: Path, folder: Path) -> str:
    """Use a plain installation; returns a generated text."""
    folder.mkdir()
    environment.bullet("--version", folder=folder)
    environment.bullet("--help", folder=folder)
    environment.bullet("info", model, folder=folder)
    environment.bullet("verify", model, folder=folder)
    environment.bullet("convert", model, "m.gguf", folder=folder)
    environment.bullet("convert", "m.gguf", "back.bullet", folder=folder)
    environment.bullet("chat", model, "--max-tokens", "5", folder=folder, text="Hello!\n")
    return environment.bullet("generate", model, "-p", "Good evening!", "--seed", "1", "--max-tokens", "40", folder=folder)


def check_plain(pythons: dict[str, Path], wheel: Path, folder: Path) -> None:
    """Use the installation without extras on every Python."""
    model = small_model(next(iter(pythons.values())), wheel, folder)
    texts: set[str] = set()
    failures: list[str] = []
    for version, python in pythons.items():
        place = folder / f"plain-{version}"
        with part_of(failures, f"Python {version}"):
            environment = install(python, wheel, "", place)
            texts.add(use(environment, model, folder / f"use-{version}"))
            hint = environment.bullet("run", "demo", folder=folder / f"use-{version}", fails=True)
            if f"-m pip install '{wheel}[train]'" not in hint:
                raise SystemExit(f"bullet run demo does not say how to install the extra: {hint}")
            facts = json.loads(environment.bullet("doctor", "--json", folder=folder))
            if not str(facts["runtime"]).startswith("native"):
                raise SystemExit(f"the native engine is not used: {facts['runtime']}")
            size = environment.size
            print(
                f"Python {version}: {size.downloaded / DOWNLOADED_MB:.0f} MB downloaded, {size.installed / DISK_MB:.0f} MB on disk; works",
                flush=True,
            )
        shutil.rmtree(place, ignore_errors=True)
    if len(texts) > 1:
        failures.append(f"the same model and seed give different texts: {texts}")
    if absent := [version for version in VERSIONS if version not in pythons]:
        print(f"not found, so not tried: Python {', '.join(absent)}")
    if failures:
        raise SystemExit("; ".join(failure.partition("\n")[0] for failure in failures))


def check_sdist(python: Path, wheel: Path, sdist: Path, folder: Path) -> None:
    """Install the source distribution without a compiler, and use it."""
    model = small_model(python, wheel, folder)
    place = folder / "sdist"
    run([python, "-m", "venv", place])
    environment = {**os.environ, "CC": "no-compiler", "CXX": "no-compiler", "PATH": str(place / "bin")}
    run([place / "bin" / "python", "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS, sdist], env=environment)
    installed = Environment(place, Size(0, 0, 0, 0))
    use(installed, model, folder / "use-sdist")
    facts = json.loads(installed.bullet("doctor", "--json", folder=folder))
    if "no C compiler" not in facts["runtime"]:
        raise SystemExit(f"bullet doctor does not say why the native engine is missing: {facts['runtime']}")
    print(f"source distribution, no compiler: works; doctor: {facts['runtime']}")


def check_aarch64(python: Path, here: Path, dist: Path, folder: Path) -> None:
    """Run the wheel for aarch64 under qemu and compare the text with that of this machine."""
    qemu = shutil.which("qemu-aarch64-static")
    if qemu is None or not Path("/etc/debian_version").exists() or "ID=debian" not in Path("/etc/os-release").read_text().split():
        raise NotPossible("this needs qemu-user-static, and Debian for its Python for aarch64")
    if missing := missing_compilers(["aarch64"]):
        raise NotPossible(f"there is no wheel for aarch64 without {missing[0]} (apt-get install gcc-aarch64-linux-gnu)")
    wheel = one_file(dist, "bulletlm-*aarch64.whl")
    model = small_model(python, here, folder)
    text = use(install(python, here, "", folder / "native"), model, folder / "use-native")
    system = folder / "aarch64"
    version = debian_python(system)
    packages = system / "packages"
    tags = [f"manylinux_2_{minor}_aarch64" for minor in range(40, 16, -1)] + ["manylinux2014_aarch64"]
    platforms = [word for tag in tags for word in ("--platform", tag)]
    where = ["--only-binary=:all:", "--python-version", version, "--implementation", "cp", *platforms, "--target", packages]
    run([sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", CONSTRAINTS, *where, wheel])
    command = [qemu, "-L", system, system / "usr" / "bin" / f"python{version}", "-m", "bulletlm"]
    environment = {"PYTHONPATH": str(packages), "PATH": os.environ["PATH"], "HOME": str(system), "LANG": "C.UTF-8"}

    def bullet(*words: object) -> str:
        return run([*command, *words], env=environment, cwd=folder)

    facts = json.loads(bullet("doctor", "--json"))
    if not facts["runtime"].startswith("native"):
        raise SystemExit(f"aarch64: the native engine is not used: {facts['runtime']}")
    bullet("verify", model)
    foreign = bullet("generate", model, "-p", "Good evening!", "--seed", "1", "--max-tokens", "40")
    if foreign != text:
        raise SystemExit(f"aarch64 gives another text than {platform.machine()}:\n{foreign}\n{text}")
    print(f"aarch64 under qemu, Python {version}: works with {facts['runtime']}; the same text as on {platform.machine()}")


def debian_python(system: Path) -> str:
    """Unpack Debian's Python for aarch64 and what it needs into a folder, without touching this system; returns its version."""
    state = system / "apt"
    for name in ("lists/partial", "archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    settings = ["APT::Architecture=arm64", "APT::Architectures::=arm64", f"Dir::State={state}", f"Dir::State::status={state / 'status'}"]
    settings += [f"Dir::State::lists={state / 'lists'}", f"Dir::Cache={state}", f"Dir::Cache::archives={state / 'archives'}"]
    settings += ["APT::Sandbox::User=root", "APT::Install-Recommends=false"]
    apt = ["apt-get", "-qq", *(word for setting in settings for word in ("-o", setting))]
    run([*apt, "update"])
    run([*apt, "install", "--download-only", "--yes", "python3-minimal", "libpython3-stdlib", "libstdc++6"])
    for archive in (state / "archives").glob("*.deb"):
        run(["dpkg-deb", "--extract", archive, system])
    (interpreter,) = (path for path in (system / "usr" / "bin").glob("python3.*") if path.name.count(".") == 1)
    return interpreter.name.removeprefix("python")


def npm_install(folder: Path, *packages: object) -> Path:
    """Install packages of npm, without running their scripts, in a new project; returns the folder with the packages."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise NotPossible("this needs Node.js and npm")
    folder.mkdir()
    (folder / "package.json").write_text('{"private": true, "type": "module"}\n', encoding="utf-8")
    run([npm, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *packages], cwd=folder)
    return folder / "node_modules"


def check_clients(python: Path, wheel: Path, folder: Path) -> None:
    """A short chat through every client library that can be installed."""
    model = small_model(python, wheel, folder)
    environment = install(python, wheel, "clients", folder / "clients", constraints=None)
    variables = dict(os.environ)
    try:
        variables["NODE_PATH"] = str(npm_install(folder / "clients-npm", *NPM_CLIENTS))
    except NotPossible as reason:
        print(f"without the clients of npm: {reason}")
    done = subprocess.run(
        [environment.folder / "bin" / "python", ROOT / "bench" / "clients.py", model, "--turns", "4"],
        cwd=folder,
        env=variables,
        text=True,
        check=False,
    )
    shutil.rmtree(folder / "clients")
    if done.returncode:
        raise SystemExit("a client library does not work")


def check_npm(python: Path, wheel: Path, folder: Path) -> None:
    """Use the JavaScript library as a web developer does."""
    model = small_model(python, wheel, folder)
    environment = install(python, wheel, "", folder / "npm-wheel")
    environment.bullet("convert", model, "page.html", folder=folder)
    write = "import pathlib; from bulletlm.formats.html.bundle import write_npm_folder; write_npm_folder(pathlib.Path('bulletlm'))"
    run([environment.folder / "bin" / "python", "-c", write], cwd=folder)
    shutil.rmtree(folder / "npm-wheel")
    npm_install(folder / "npm-tools", "typescript", "@types/node")
    packed = json.loads(run(["npm", "pack", "--json"], cwd=folder / "bulletlm"))[0]
    project = folder / "npm"
    npm_install(project, folder / "bulletlm" / packed["filename"])
    shutil.copytree(folder / "npm-tools" / "node_modules", project / "node_modules", dirs_exist_ok=True, symlinks=True)
    shutil.copy2(model, project / "model.bullet")
    example = re.search(r"```js\n(.*?)```", (ROOT / "docs" / "browser.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example
    (project / "example.mts").write_text(example[1], encoding="utf-8")
    (project / "example.mjs").write_text(example[1], encoding="utf-8")
    run(["node", "node_modules/typescript/bin/tsc", *TYPE_CHECK, "example.mts"], cwd=project)
    answer = run(["node", "example.mjs"], cwd=project)
    if not re.search(r"\d+ tokens", answer):
        raise SystemExit(f"the example of docs/browser.md does not answer:\n{answer}")
    size = (folder / "page.html").stat().st_size
    print(f"page: {size / 1e6:.1f} MB; package for npm: {packed['size'] / 1e3:.0f} kB packed; types and example of docs/browser.md: work")


def one_file(folder: Path, pattern: str) -> Path:
    """The newest file of a folder that a pattern matches."""
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        raise SystemExit(f"{folder} has no {pattern}: run make wheels")
    return found[-1].resolve()


def try_check(name: str, check: Callable[[], None]) -> Outcome:
    """Run a check and print how it ended."""
    print(f"\n{name}", flush=True)
    started = time.monotonic()
    try:
        check()
    except NotPossible as reason:
        outcome = Outcome(name, "skipped", time.monotonic() - started, str(reason))
    except (Exception, SystemExit) as error:
        outcome = Outcome(name, "failed", time.monotonic() - started, reason_of(error))
    else:
        return Outcome(name, "passed", time.monotonic() - started)
    print(f"{outcome.state}: {outcome.reason}", flush=True)
    return outcome


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """The lines about all checks: state, time, and the first line of the reason."""
    lines = [f"{each.check:<10}{each.state:<9}{each.seconds:>6.0f} s   {each.reason.partition(chr(10))[0]}".rstrip() for each in outcomes]
    states = [each.state for each in outcomes]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("passed", "skipped", "failed"))
    return ["summary", *lines, f"{counts}, in {sum(each.seconds for each in outcomes) / 60:.0f} minutes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="folder of the wheels and the source distribution")
    parser.add_argument("--only", default=",".join(CHECKS), help="checks to run, with commas")
    parser.add_argument("--model", type=Path, help="a .bullet file to run, instead of a small one that the checks train")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := [name for name in chosen if name not in CHECKS]:
        parser.error(f"--only {unknown[0]}: the checks are {', '.join(CHECKS)}")
    pythons = find_pythons()
    if not pythons:
        raise SystemExit(f"no Python of {', '.join(VERSIONS)} was found that can make a virtual environment (Debian: python3-venv)")
    print("Python " + ", ".join(f"{version} ({path})" for version, path in pythons.items()))
    python = next(iter(pythons.values()))
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        folder, dist = Path(name), arguments.dist
        if arguments.model:
            (folder / MODEL).parent.mkdir(parents=True)
            shutil.copy2(arguments.model, folder / MODEL)

        def wheel() -> Path:
            if any(each.check == "wheels" and each.state == "failed" for each in outcomes):
                raise NotPossible("the wheels could not be built")
            return one_file(dist, f"bulletlm-*{platform.machine()}.whl")

        checks: dict[str, Callable[[], None]] = {
            "wheels": lambda: check_wheels(dist),
            "checkout": lambda: check_checkout(python, folder),
            "extras": lambda: check_extras(python, wheel(), folder),
            "plain": lambda: check_plain(pythons, wheel(), folder),
            "sdist": lambda: check_sdist(python, wheel(), one_file(dist, "bulletlm-*.tar.gz"), folder),
            "aarch64": lambda: check_aarch64(python, wheel(), dist, folder),
            "clients": lambda: check_clients(python, wheel(), folder),
            "npm": lambda: check_npm(python, wheel(), folder),
        }
        for check in chosen:
            outcomes.append(try_check(check, checks[check]))
            for left in folder.iterdir():  # also what a failed check left behind
                if left.name not in ("runs", "no-model"):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
    print("\n" + "\n".join(summary(outcomes)))
    sys.exit(any(each.state == "failed" for each in outcomes))


if __name__ == "__main__":
    main()
