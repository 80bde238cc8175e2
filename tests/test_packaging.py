"""What ends up in the wheel, and what `make demo` shows while it installs."""

import gzip
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bulletlm.cli.output import print_info
from bulletlm.config.recipes import recipe_names
from bulletlm.errors import BulletError
from bulletlm.formats.packaged import packaged_names
from paths import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import install
import package_model

PACKAGE = ROOT / "src" / "bulletlm"
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def test_every_data_file_is_in_the_wheel() -> None:
    patterns = SETUPTOOLS["package-data"]["bulletlm"]
    packaged = {path for pattern in patterns for path in PACKAGE.glob(pattern) if path.is_file()}
    others = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in {".py", ".so", ".pyc", ".c", ".h"}}
    assert others - packaged == set()
    assert {f"{name}.jsonc" for name in recipe_names()} <= {path.name for path in packaged}


def test_the_library_has_no_python_version_in_its_name(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['setup.py', '--quiet', 'build_ext', '--dry-run']\n"
        "import setuptools, distutils.core\n"
        "distribution = distutils.core.run_setup('setup.py', stop_after='commandline')\n"
        "build, wheel = (distribution.get_command_obj(name) for name in ('build_ext', 'bdist_wheel'))\n"
        "build.ensure_finalized(); wheel.ensure_finalized()\n"
        "print(build.get_ext_filename('bulletlm.runtime._native'), *wheel.get_tag()[:2])"
    )
    pytest.importorskip("setuptools", minversion="70.1")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-3:] == ["bulletlm/runtime/_native.so", "py3", "none"]


def test_a_wheel_has_the_corpus_packed(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="70.1")
    command = [sys.executable, "setup.py", "--quiet", "egg_info", f"--egg-base={tmp_path}", "build_py", f"--build-lib={tmp_path / 'lib'}"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    for part in ("sample", "simple"):
        texts = {path.name: path.read_bytes() for path in (PACKAGE / "data" / part).iterdir()}
        built = {path.name: path.read_bytes() for path in (tmp_path / "lib/bulletlm/data" / part).iterdir()}
        assert built.pop("LICENSE") == texts.pop("LICENSE")
        assert {name.removesuffix(".gz"): gzip.decompress(packed) for name, packed in built.items()} == texts
        assert all(name.endswith(".gz") for name in built)


TRANSCRIPT = """\
Obtaining file:///srv/bulletlm
  Preparing editable metadata (pyproject.toml): started
Collecting torch==2.13.0
  Downloading torch-2.13.0-cp311-none-any.whl.metadata (25 kB)
Collecting numpy>=1.26
  Using cached numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (6.2 kB)
Downloading torch-2.13.0-cp311-none-any.whl (192.5 MB)
Using cached numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl (16.5 MB)
Downloading ftfy-6.3.1-py3-none-any.whl (44 kB)
  Building editable for bulletlm (pyproject.toml): started
Installing collected packages: numpy, ftfy, torch
"""


def test_progress_of_an_installation() -> None:
    progress = install.Progress()
    shown = []
    for line in TRANSCRIPT.splitlines():
        progress.read(line)
        shown.append(progress.line(65))
    assert shown[0] == f"1:05  0 of about {install.DOWNLOAD_MB} MB  looking for packages"
    assert shown[6].endswith("0 of about 260 MB  torch, 192 MB")
    assert shown[7].endswith("192 of about 260 MB  numpy, 16 MB")
    assert shown[8].endswith("209 of about 260 MB  ftfy")
    assert shown[9].endswith("compiling the C libraries")
    assert shown[10].endswith("209 of about 260 MB  writing the files")
    assert not progress.cuda
    progress.read("Collecting nvidia-cublas-cu12==12.8.4.1")
    assert progress.cuda
    assert re.fullmatch(r"0:05  209 MB  writing the files", progress.line(5))


def test_the_sizes_are_said_before() -> None:
    text = install.announcement()
    assert f"{install.DOWNLOAD_MB} MB to download" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_a_run_becomes_a_model_of_the_package(micro_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, page, curve = package_model.package_model(micro_run, tmp_path)
    assert model.suffix == ".bullet" and model.read_bytes() == (micro_run / "model.bullet").read_bytes()
    assert page.read_bytes() == (micro_run / "report.html").read_bytes()
    metrics = (micro_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in curve.read_text(encoding="utf-8").splitlines()]
    validations = [row for row in map(json.loads, metrics) if row["event"] == "eval"]
    assert [{"part": 1} | row for row in validations] == [row for row in rows if row["event"] == "eval"]
    assert len(rows) < len(metrics)
    package_model.package_model(micro_run, tmp_path, [curve, micro_run])
    parts = [json.loads(line)["part"] for line in curve.read_text(encoding="utf-8").splitlines()]
    assert parts == sorted(parts) and set(parts) == {1, 2, 3}
    print_info(model, tensors=False, as_json=False)
    assert f"  {page}" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["other report", "no report", "too large"])
def test_what_cannot_become_a_model_of_the_package(fault: str, micro_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, target = tmp_path / "run", tmp_path / "models"
    target.mkdir()
    shutil.copytree(micro_run, run)
    if fault == "other report":
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
        (run / "report.json").write_text(json.dumps(report | {"quantised": {}}), encoding="utf-8")
    elif fault == "no report":
        (run / "report.json").unlink()
    else:
        monkeypatch.setattr(package_model, "LARGEST_REPORT", 1000)
    with pytest.raises((BulletError, OSError)):
        package_model.package_model(run, target)
    assert not [*target.iterdir()]


def test_every_model_of_the_package_has_its_report() -> None:
    for name in packaged_names():
        page = PACKAGE / "models" / f"{name}.report.html"
        assert 1000 < page.stat().st_size <= package_model.LARGEST_REPORT
        assert name in page.read_text(encoding="utf-8")
