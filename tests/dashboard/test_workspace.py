"""Tests of what a user of the dashboard may name: runs, files, folders, uploads."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, strategies

from bulletlm.dashboard.forms import form
from bulletlm.dashboard.uploads import receive, uploaded
from bulletlm.dashboard.workspace import PATH_SETTINGS, SOURCE_SETTINGS, Workspace, is_name, safe_file_name
from bulletlm.errors import BulletError, ConfigError


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "home" / "texts").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    return Workspace(tmp_path / "home")


@pytest.mark.parametrize("path", ["sample", "hf://somebody/texts", "texts", "texts/*.txt", "uploads/new.txt", "./texts/../texts"])
def test_paths_in_the_workspace(workspace: Workspace, path: str) -> None:
    workspace.check(path)
    workspace.check(str(workspace.folder / "texts"))


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "..", "../outside", "../outside/*", "texts/../../outside", "~", "/*", "texts/*/../../../x", "a\0b"]
)
def test_paths_outside_of_the_workspace(workspace: Workspace, path: str) -> None:
    with pytest.raises(ConfigError, match=r"outside|pattern|not a path"):
        workspace.check(path)


def test_a_link_does_not_lead_outside(workspace: Workspace, tmp_path: Path) -> None:
    (workspace.folder / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(ConfigError, match="--allow"):
        workspace.check("link/secret.txt")
    Workspace(workspace.folder, (tmp_path / "outside",)).check("link/secret.txt")


NO_PATHS = {
    *("name", "license", "augment.paraphrase_prefix", "augment.endpoint_model", "augment.endpoint_key_variable"),
    *("data.clean.phone_regions", "data.clean.languages", "data.mix.languages", "augment.length_ratio", "augment.chrf"),
    *("train.betas", "train.track", "quant.keep", "evaluate.checkpoint", "model_name"),
}
"""Settings of free text that are no paths."""


def test_every_setting_that_names_a_path_is_known() -> None:
    free = {setting.path for setting in form() if setting.kind in ("text", "json")}
    assert free | {"data.sources"} == NO_PATHS | set(PATH_SETTINGS), "is the new setting a path? then add it to PATH_SETTINGS"


@pytest.mark.parametrize("setting", PATH_SETTINGS)
@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "http://192.168.0.1/v1"])
def test_every_setting_that_names_a_path_is_checked(workspace: Workspace, setting: str, path: str) -> None:
    key = "path" if setting in SOURCE_SETTINGS else "mr"
    for value in (path, [path], ["texts", path], {key: path}, [{key: path, "weight": 2}]):
        assert {found for found, _ in workspace.check_settings({setting: value, "model.dim": 3})} == {setting}, value
    assert not list(workspace.check_settings({setting: "texts"}))


@given(strategies.text(max_size=200))
def test_the_name_of_an_upload_is_never_a_path(name: str) -> None:
    safe = safe_file_name(name)
    assert safe and len(safe) <= 80 and not safe.startswith((".", "-"))
    assert Path(safe).name == safe and safe not in (".", "..") and not set(safe) & set("/\\\0*?[]")
    assert is_name(safe)


@given(strategies.text(max_size=120))
def test_the_name_of_a_run_is_never_a_path(name: str) -> None:
    if is_name(name):
        assert Path("runs", name).parent == Path("runs") and name not in (".", "..")


def sent(content: bytes, size: int = 7) -> AsyncIterator[bytes]:
    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(content), size):
            yield content[start : start + size]

    return parts()


def test_uploads_are_complete_and_replace_nothing(workspace: Workspace) -> None:
    content = "नमस्कार\n".encode() * 100
    first = asyncio.run(receive(workspace, "../../गोष्ट.txt", sent(content), len(content)))
    second = asyncio.run(receive(workspace, "गोष्ट.txt", sent(b"other"), None))
    assert first.parent == second.parent == workspace.uploads
    assert (first.read_bytes(), second.read_bytes()) == (content, b"other")
    assert {upload.name for upload in uploaded(workspace)} == {first.name, second.name}


def test_an_upload_is_never_in_memory_as_a_whole(workspace: Workspace) -> None:
    part, count = bytes(1 << 16), 512

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield part

    tracemalloc.start()
    try:
        path = asyncio.run(receive(workspace, "large.txt", parts(), None))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size == count * len(part) > 8 * peak


def test_a_broken_upload_leaves_nothing(workspace: Workspace) -> None:
    with pytest.raises(BulletError, match="arrived"):
        asyncio.run(receive(workspace, "a.txt", sent(b"half"), 8))
    with pytest.raises(ConfigError, match="room"):
        asyncio.run(receive(workspace, "a.txt", sent(b"x"), 1 << 60))
    assert not list(workspace.uploads.iterdir())
