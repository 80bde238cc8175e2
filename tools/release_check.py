"""Install the built wheels as users do, use them, and print what they download and take on disk (`make release-check` runs this).

    python tools/release_check.py                        all checks, with the files in dist/
    python tools/release_check.py --only plain,aarch64 --model FILE.bullet

    extras    installs every extra in an environment of its own and prints its size; trains a small model with the extra train
    plain     without extras, on every Python from 3.11 to 3.14 that is on PATH or that pyenv has: commands that need no extra work,
              the others name the command that installs what they need
    sdist     installs the source distribution without a compiler: models run in numpy
    aarch64   runs the wheel for aarch64 with Debian's Python for that processor, under qemu-user; the text must be the same as here
    clients   bench/clients.py in an environment with the extra clients, and with the clients of npm
    npm       packs the JavaScript library, installs it in a new project, checks its types, and runs the example of docs/browser.md

Wheels are installed with the pins of constraints.txt. The exit code is 1 if a check fails; a check that is not possible on this machine
says why, and does not count.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
DOWNLOADED_MB, DISK_MB = 1e6, 1 << 20
"""Bytes of a megabyte, as pip and as du count."""

VERSIONS = ("3.11", "3.12", "3.13", "3.14")

LIMITS = {"": (40, 120)}
"""Largest download and size on disk of an extra, in MB, of the packages other than torch; "" is the installation without extras."""

SHORT_RUN = ["run", "demo", "--total-steps=20", "--dim=64", "--warmup=5", "--eval-every=20", "--qat.steps=0", "--train.threads=2"]


NPM_CLIENTS = ("openai", "ollama", "ai", "@ai-sdk/openai")

TYPE_CHECK = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--types", "node"]
"""Options of TypeScript's compiler for a project that uses the library."""


class NotPossible(Exception):
    """A check needs a program that this machine does not have; the message says which."""


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
            [str(word) for word in command], cwd=folder, env=environment, input=text, capture_output=True, text=True, check=False
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
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
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


def check_extras(python: Path, wheel: Path, folder: Path) -> None:
    """Install every extra and print its size; train a small model, which the other checks use, and serve it."""
    print(f"{'extra':<12}{'download':>10}{'on disk':>10}   without torch")
    for name in ["", "train", *sorted(set(extras()) - {"train"})]:
        place = folder / f"extra-{name or 'none'}"
        environment = install(python, wheel, name, place)
        size = environment.size
        rest = (size.downloaded - size.torch_downloaded, size.installed - size.torch_installed)
        shown = f"{rest[0] / DOWNLOADED_MB:.0f} / {rest[1] / DISK_MB:.0f} MB" if size.torch_downloaded else ""
        print(
            f"{name or '(none)':<12}{size.downloaded / DOWNLOADED_MB:>7.0f} MB{size.installed / DISK_MB:>7.0f} MB   {shown}".rstrip(),
            flush=True,
        )
        for used, unit, limit in zip(rest, (DOWNLOADED_MB, DISK_MB), LIMITS.get(name, ()), strict=False):
            if used > limit * unit:
                raise SystemExit(f"{name or 'the plain installation'} takes {used / unit:.0f} MB, more than {limit}")
        if name == "train":
            started = time.monotonic()
            environment.bullet(*SHORT_RUN, folder=folder)
            print(f"{'':<12}trained a small model in {time.monotonic() - started:.0f} s", flush=True)
        if name == "serve":
            check_server(environment, small_model(python, wheel, folder), folder)
        shutil.rmtree(place)


def check_server(environment: Environment, model: Path, folder: Path) -> None:
    """Ask a server for its models."""
    command = [environment.folder / "bin" / "bullet", "serve", model, "--port", "0"]
    with subprocess.Popen([str(word) for word in command], cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = re.search(r"http://\S+/v1", server.stdout.readline())
            if address is None:
                raise SystemExit("bullet serve does not start")
            with urllib.request.urlopen(f"{address[0]}/models", timeout=20) as answer:
                assert json.load(answer)["data"]
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=20)


def small_model(python: Path, wheel: Path, folder: Path) -> Path:
    """The model that `check_extras` trained or that was given; trained now if there is none."""
    model = folder / "runs" / "demo" / "model.bullet"
    if not model.exists():
        install(python, wheel, "train", folder / "train").bullet(*SHORT_RUN, folder=folder)
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
    texts = set()
    for version, python in pythons.items():
        place = folder / f"plain-{version}"
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
        shutil.rmtree(place)
    if len(texts) > 1:
        raise SystemExit(f"the same model and seed give different texts: {texts}")
    if absent := [version for version in VERSIONS if version not in pythons]:
        print(f"not found, so not tried: Python {', '.join(absent)}")


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


def check_aarch64(python: Path, here: Path, wheel: Path, folder: Path) -> None:
    """Run the wheel for aarch64 under qemu and compare the text with that of this machine."""
    qemu = shutil.which("qemu-aarch64-static")
    if qemu is None or shutil.which("apt-get") is None:
        raise NotPossible("this needs qemu-user-static, and Debian for its Python for aarch64")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="folder of the wheels and the source distribution")
    parser.add_argument("--only", default="extras,plain,sdist,aarch64,clients,npm", help="checks to run, with commas")
    parser.add_argument("--model", type=Path, help="a .bullet file to run, instead of a small one that the checks train")
    arguments = parser.parse_args()
    wheel = one_file(arguments.dist, f"bulletlm-*{platform.machine()}.whl")
    pythons = find_pythons()
    if not pythons:
        raise SystemExit(f"no Python of {', '.join(VERSIONS)} was found")
    print("Python " + ", ".join(f"{version} ({path})" for version, path in pythons.items()))
    python = next(iter(pythons.values()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.model:
            (folder / "runs" / "demo").mkdir(parents=True)
            shutil.copy2(arguments.model, folder / "runs" / "demo" / "model.bullet")
        checks: dict[str, Callable[[], None]] = {
            "extras": lambda: check_extras(python, wheel, folder),
            "plain": lambda: check_plain(pythons, wheel, folder),
            "sdist": lambda: check_sdist(python, wheel, one_file(arguments.dist, "bulletlm-*.tar.gz"), folder),
            "aarch64": lambda: check_aarch64(python, wheel, one_file(arguments.dist, "bulletlm-*aarch64.whl"), folder),
            "clients": lambda: check_clients(python, wheel, folder),
            "npm": lambda: check_npm(python, wheel, folder),
        }
        for check in arguments.only.split(","):
            print(f"\n{check}", flush=True)
            try:
                checks[check]()
            except NotPossible as reason:
                print(f"not possible here: {reason}")


if __name__ == "__main__":
    main()
