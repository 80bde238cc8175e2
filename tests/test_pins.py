"""Versions are pinned: those of an installation in constraints.txt, those of the build in pyproject.toml."""

import re
import sys
import tomllib

from paths import ROOT

sys.path.insert(0, str(ROOT / "tools"))
from refresh_pins import pin_build, pins

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {normal(name): version for name, _, version in (line.partition("==") for line in lines)}


def test_every_requirement_is_pinned() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    own = next(requirement for requirement in extras["dev"] if requirement.startswith("bulletlm["))
    wanted = [*PROJECT["project"]["dependencies"], *extras["dev"]]
    for name in re.findall(r"\w+", own)[1:]:  # extras that `make test` installs; the others are for single scripts
        wanted += extras[name]
    names = {normal(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in wanted}
    assert names - constraints().keys() == {"bulletlm"}
    assert all(re.fullmatch(r"\d[\w.]*", version) for version in constraints().values())


def test_the_build_requirements_are_pinned_alike() -> None:
    for requirement in PROJECT["build-system"]["requires"]:
        name, _, version = requirement.partition("==")
        assert constraints()[normal(name)] == version


def test_writing_pins() -> None:
    installed = [("torch", "2.13.0+cpu"), ("bulletlm", "0.1.0"), ("pip", "1"), ("nvidia-cublas-cu12", "12"), ("Jinja2", "3.1.6")]
    assert pins(installed) == "Jinja2==3.1.6\ntorch==2.13.0\n"
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(pin_build(text, "1.2.3"))["build-system"]["requires"] == ["setuptools==1.2.3"]
