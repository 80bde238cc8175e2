"""Tests of the optional parts of an installation: the table of extras, and the command that installs them."""

import json
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from bulletlm.cli.fast_start import report_errors
from bulletlm.extras import EXTRAS, PURPOSES, MissingExtra, explain, install_command, missing, require
from paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


NAMES = {"google.protobuf": "protobuf", "markdown_it": "markdown-it-py", "phonenumbers": "phonenumberslite"}
"""Modules that have another name than their package."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def packages(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\[<>=!~; ]", each)[0]) for each in requirements} - {"bulletlm"}


def record(folder: Path, direct_url: dict[str, object] | None) -> None:
    """Write what pip writes about an installation of BulletLM."""
    info = folder / "bulletlm-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bulletlm\nVersion: 0.1.0\n")
    if direct_url is not None:
        (info / "direct_url.json").write_text(json.dumps(direct_url))


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_table_agrees_with_the_project(extra: str) -> None:
    listed = {NAMES.get(module, normal(module)) for module in EXTRAS[extra]}
    wanted = packages(PROJECT["optional-dependencies"][extra])
    if extra == "bench":  # its other packages are for single scripts
        assert listed <= wanted
    else:
        assert listed == wanted
    assert not listed & packages(PROJECT["dependencies"])


def test_every_extra_for_users_is_in_the_table() -> None:
    for_developers = {"all", "clients", "dev", "export", "release"}  # and `export`, whose package is in the plain installation
    assert set(PROJECT["optional-dependencies"]) - for_developers == set(EXTRAS) == set(PURPOSES)
    (all_extras,) = PROJECT["optional-dependencies"]["all"]
    assert set(re.findall(r"\w+", all_extras)[1:]) == set(EXTRAS) - {"augment", "bench"}


@pytest.mark.parametrize(
    ("direct_url", "words"),
    [
        ({"url": "file:///tmp/my%20files/bulletlm-0.1.0-py3-none-any.whl"}, ["/tmp/my files/bulletlm-0.1.0-py3-none-any.whl[train]"]),
        ({"url": "file:///srv/bulletlm", "dir_info": {"editable": True}}, ["--editable", "/srv/bulletlm[train]"]),
        ({"url": "file:///srv/bulletlm", "dir_info": {}}, ["/srv/bulletlm[train]"]),
        ({"url": "https://example.org/bulletlm.whl"}, ["bulletlm[train] @ https://example.org/bulletlm.whl"]),
        (None, ["--editable", f"{ROOT}[train]"]),
    ],
)
def test_the_command_names_what_was_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct_url: dict[str, object] | None, words: list[str]
) -> None:
    record(tmp_path, direct_url)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert shlex.split(install_command("train")) == [sys.executable, "-m", "pip", "install", *words]


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(EXTRAS, "track", ("no_such_module", "json", "no_such.module.either"))
    assert missing("track") == ["no_such_module", "no_such.module.either"]
    with pytest.raises(MissingExtra, match=r"this needs no_such_module, no_such.module.either, .* -m pip install .*\[track\]'$"):
        require("track", "this")
    require("data", "this")

    def fails() -> None:
        import no_such_module  # noqa: F401

    with pytest.raises(SystemExit) as ended:
        report_errors(fails)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"bullet: this needs no_such_module, .* -m pip install .*\[track\]'", line)


def test_other_missing_modules_are_bugs() -> None:
    def fails() -> None:
        import another_missing_module  # noqa: F401

    with pytest.raises(ModuleNotFoundError) as caught:
        report_errors(fails)
    assert explain(caught.value) is None
