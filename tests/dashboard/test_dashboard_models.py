"""Tests that every version of a model can be tried and exported, and that what is offered for download was checked."""

import asyncio
import json
import re
import shlex
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bulletlm.config.loader import nested
from bulletlm.config.schema import Config
from bulletlm.dashboard import export as export_module
from bulletlm.dashboard.chooser import choose, choose_in_process
from bulletlm.dashboard.drafts import draft_of_run, give_free_name, load_draft, mistakes, new_run, save_draft, start_from
from bulletlm.dashboard.export import FORMATS, SINGLE_FILES, export
from bulletlm.dashboard.figures import shown_verdicts
from bulletlm.dashboard.forms import Draft
from bulletlm.dashboard.models import Answer, ModelCache, checkpoint_folder, generate, model_names, model_path, start_models, versions
from bulletlm.dashboard.planner import load_clock, plan_line
from bulletlm.dashboard.preview import look
from bulletlm.dashboard.remedies import PreparedRun, new_run_flags, remedy_words
from bulletlm.dashboard.reports import verdicts_in
from bulletlm.dashboard.runs import Runs, configuration, summarize
from bulletlm.dashboard.words import Words
from bulletlm.dashboard.workspace import Workspace
from bulletlm.errors import BulletError, ConfigError
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.npy import read_npy
from bulletlm.formats.packaged import packaged_model, packaged_names
from bulletlm.pipeline.plan import Clock, Measured
from bulletlm.runtime import Sampling
from bulletlm.shape import ModelShape

PROMPTS = ("Hello", "Tell me about the river.", "नमस्कार", "एका गावात काय झाले?")


@pytest.fixture
def workspace(tmp_path: Path, micro_run: Path) -> Workspace:
    """A workspace with a copy of the finished micro run."""
    shutil.copytree(micro_run, tmp_path / "runs" / "micro")
    return Workspace(tmp_path)


def test_a_run_from_a_terminal_is_found(workspace: Workspace) -> None:
    (found,) = Runs(workspace).all()
    assert (found.name, found.state, found.step, found.total_steps, found.progress) == ("micro", "finished", 60, 60, 1.0)
    assert found.best_loss and found.gap is not None and found.parameters and found.decisions
    assert found.file_bytes == (workspace.runs / "micro" / "model.bullet").stat().st_size


def test_verdicts_are_in_the_language_of_the_page(workspace: Workspace) -> None:
    run = workspace.runs / "micro"
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert verdicts_in("en", report) == report["verdicts"]
    marathi = verdicts_in("mr", report)
    for name, verdict in report["verdicts"].items():
        assert marathi[name]["decision"] == verdict["decision"]
        assert re.search("[\u0900-\u097f]", marathi[name]["title"])
    found = summarize(run)
    for language, verdicts in (("en", report["verdicts"]), ("mr", marathi)):
        sentences = [verdict.sentence for verdict in shown_verdicts(Words(language), found)]
        assert [verdict["title"] in sentence for verdict, sentence in zip(verdicts.values(), sentences, strict=True)] == [True, True]
    assert verdicts_in("mr", {"verdicts": report["verdicts"]}) == report["verdicts"], "a damaged report is shown as it is"
    report["quantised"]["weights"] = "BQ8"
    (run / "report.json").write_text(json.dumps(report), encoding="utf-8")
    for language, name in (("en", "8-bit"), ("mr", "8-बिट")):
        verdict = shown_verdicts(Words(language), summarize(run))[0]
        assert name in verdict.short and name in verdict.sentence


def test_every_version_answers(workspace: Workspace) -> None:
    run, cache = workspace.runs / "micro", ModelCache()
    found = versions(run)
    assert found[:3] == ["4bit", "fp32", "best"] and found[3].startswith("step-")
    assert model_names(workspace, ["micro", "none"]) == [*(f"micro/{version}" for version in found), *packaged_names()]
    texts, varied = {}, Sampling(temperature=3.0, top_k=0, top_p=1.0, min_p=0.0, max_tokens=8)  # a micro model says little
    for version in found:
        path = model_path(workspace, f"micro/{version}")
        answers = [Answer() for _ in PROMPTS]
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            messages = [{"role": "user", "content": prompt}]
            generate(lambda path=path: cache.get(path), messages, varied, answer)
            assert answer.error == "" and answer.seconds is not None
        pieces = [piece for answer in answers for piece in answer.pieces]
        assert pieces and all(0 <= piece.probability <= 1 and piece.others for piece in pieces)
        texts[version] = [answer.text for answer in answers]
    assert texts["fp32"] == texts["best"]
    for name in ("uploads/../micro.bullet", "uploads/x.bullet", "../x", "micro/../micro", "micro/last", "other/4bit", "/4bit", "4bit"):
        with pytest.raises(ConfigError):
            model_path(workspace, name)


def test_models_of_the_package_uploads_and_the_start_of_a_run_can_be_tried(workspace: Workspace) -> None:
    run = workspace.runs / "micro"
    shutil.copytree(run / "export" / "npy", run / "start" / "npy")
    workspace.uploads.mkdir()
    shutil.copyfile(run / "model.bullet", workspace.uploads / "मॉडेल.bullet")
    assert {"micro/start", "uploads/मॉडेल.bullet", *packaged_names()} <= set(model_names(workspace, ["micro"]))
    assert model_path(workspace, "micro/start") == run / "start" / "npy"
    assert model_path(workspace, "uploads/मॉडेल.bullet") == workspace.uploads / "मॉडेल.bullet"
    assert all(model_path(workspace, name) == packaged_model(name) for name in packaged_names())


def test_an_answer_reports_an_error_and_can_be_stopped(workspace: Workspace) -> None:
    answer = Answer()
    generate(lambda: ModelCache().get(model_path(workspace, "micro/4bit")), [{"role": "robot", "content": "x"}], Sampling(), answer)
    assert "robot" in answer.error
    stopped = Answer(stopped=True)
    generate(lambda: ModelCache().get(model_path(workspace, "micro/4bit")), [{"role": "user", "content": "x"}], Sampling(), stopped)
    assert len(stopped.pieces) <= 1


def test_a_checkpoint_is_written_again_when_it_changed(workspace: Workspace) -> None:
    run = workspace.runs / "micro"
    folder = checkpoint_folder(run, "best")
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert checkpoint_folder(run, "best") == folder and (folder / "manifest.json").stat().st_mtime_ns == before
    _, tensors, _, _ = read_npy(folder)
    _, exported, _, _ = read_npy(run / "export" / "npy")
    assert all((tensors[name] == exported[name]).all() for name in exported)


@pytest.mark.parametrize("format", FORMATS)
def test_a_download_is_complete_and_checked(workspace: Workspace, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulletlm.formats.html.page.PIECE_LINES", 2)  # several pieces, as of a model of normal size
    made = export(workspace, "micro/4bit" if format in SINGLE_FILES else "micro/fp32", format)
    path = workspace.runs / "micro" / "dashboard" / "downloads" / made["file"]
    assert path.stat().st_size == made["bytes"] and len(made["checks"]) >= 2
    assert format == "card" or any("tokens are the same as those of the original" in text for text, _ in made["checks"])
    if format == "bullet":
        assert path.read_bytes() == (workspace.runs / "micro" / "model.bullet").read_bytes()
    elif format == "html":
        assert path.read_bytes().startswith(b"<!") and made["file"] == "micro.html"
    elif format == "card":
        assert made["file"] == "micro-card.md" and "bullet chat micro.bullet" in path.read_text(encoding="utf-8")
    else:
        names = zipfile.ZipFile(path).namelist()
        assert all(name.startswith("micro-fp32") and ".." not in name for name in names) or format == "gguf"
        assert any(name.endswith({"gguf": ".Modelfile", "hf": "config.json", "npy": "manifest.json"}[format]) for name in names)


def test_a_page_of_many_pieces_is_compared_with_the_model(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulletlm.formats.html.page.PIECE_LINES", 5)
    assert ("the page holds this model", {}) in export(workspace, "micro/4bit", "html")["checks"]


def test_a_checkpoint_can_be_exported_in_four_bits(workspace: Workspace) -> None:
    made = export(workspace, "micro/best", "bullet")
    file = open_bullet(workspace.runs / "micro" / "dashboard" / "downloads" / made["file"])
    file.verify()
    assert "BQ4" in {file.type(name) for name in file.tensors}


def test_nothing_is_offered_that_failed_its_check(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "_compare_answers", lambda a, b: (95, 96))
    with pytest.raises(BulletError, match="same tokens"):
        export(workspace, "micro/4bit", "bullet")
    assert not [path for path in (workspace.runs / "micro" / "dashboard" / "downloads").iterdir() if not path.name.startswith(".")]


def test_remedies_start_only_commands_for_this_run(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo"
    assert remedy_words("bullet qat runs/demo --steps 300", run) == ["qat", str(run), "--qat.steps=300"]
    assert remedy_words("bullet build runs/demo/config.json --quant.weights=BQ8", run) == ["evaluate", str(run), "--quant.weights=BQ8"]
    assert remedy_words("bullet evaluate runs/demo --checkpoints", run) == ["evaluate", str(run), "--checkpoints"]
    assert remedy_words("bullet qat RUN --steps=300", run) == ["qat", str(run), "--qat.steps=300"]
    assert remedy_words("bullet evaluate RUN --temperature=0.4", run) == ["evaluate", str(run), "--sampling.temperature=0.4"]
    assert new_run_flags("""bullet run runs/demo/config.json --name=demo-2 '--data.mix.languages={"mr": 0.7}'""", run) == PreparedRun(
        """--name=demo-2 '--data.mix.languages={"mr": 0.7}'""", wants_text=False
    )
    assert new_run_flags("bullet run runs/demo/config.json --name=demo --quant.weights=BQ8", run) is None
    for evil in (
        "rm -rf runs/demo",
        "bullet convert runs/demo/model.bullet /etc/x",
        "bullet qat runs/other --steps 300",
        "bullet qat runs/demo --name=../x",
        "bullet qat runs/demo --set data.sources=[/etc]",
        "bullet run runs/demo --quant.keep=$(id)",
        "bullet evaluate runs/demo --data.sources=[/etc]",
        "bullet evaluate runs/demo --evaluate.checkpoint=step-1",
        "bullet evaluate runs/demo --runs-dir=/etc",
        "bullet evaluate runs/demo --checkpoints --json",
        "bullet qat runs/demo; id",
        "bullet qat 'runs/demo",
        "",
    ):
        assert remedy_words(evil, run) is None, evil


def test_a_remedy_that_adds_text_begins_with_the_text_of_the_run(workspace: Workspace) -> None:
    run = workspace.runs / "micro"
    own = draft_of_run(run).given["data.sources"]

    def prepared(*listed: str) -> tuple[Any, bool]:
        found = new_run_flags(shlex.join(["bullet", "run", "RUN/config.json", "--name=more", f"--data.sources={json.dumps(listed)}"]), run)
        assert found is not None
        draft = draft_of_run(run)
        draft.edit_flags(found.flags)
        assert draft.problems() == {} and draft.flags_problem == ""
        return draft.given["data.sources"], found.wants_text

    assert prepared("TEXT", "simple") == ([*own, "simple"], False)
    assert prepared("TEXT", "MORE-TEXT") == (own, True)
    assert prepared("simple", "MORE-TEXT") == (["simple"], True)
    assert new_run_flags("bullet run RUN/config.json --restart", run) == PreparedRun("", wants_text=False), "the trained model stays"


# The next run.


def test_a_draft_survives(tmp_path: Path) -> None:
    workspace, draft = Workspace(tmp_path), Draft()
    draft.edit_json('{"dim": 64} // note')
    draft.edit_flags("--layers=3")
    save_draft(draft, workspace)
    again = load_draft(workspace)
    assert (again.given, again.flags_text) == (draft.given, "--layers=3")
    (workspace.state / "draft.json").write_text("[", encoding="utf-8")
    assert load_draft(workspace).given == {}


def test_a_run_is_duplicated_with_its_settings(workspace: Workspace) -> None:
    run = workspace.runs / "micro"
    draft = draft_of_run(run)
    assert draft.problems() == {} and "name" not in draft.given
    copy = Workspace(workspace.folder, (Path("/"),))
    folder = new_run({**draft.given, "name": "copy"}, copy)
    before, after = configuration(run), configuration(folder)
    assert before and after
    kept = {"name", "runs_dir"}
    assert before.model_dump(exclude=kept) == after.model_dump(exclude=kept)
    assert summarize(folder).state == "stopped"


def test_a_setting_with_the_value_of_its_default_is_kept_where_another_setting_decides_the_default(tmp_path: Path) -> None:
    """data.clean.preset has other defaults of the rules, and model.start_from of the training."""
    clean, model = {"preset": "web", "rulers": False}, {"start_from": "marathi-english"}
    given = {"data": {"sources": ["sample"], "clean": clean}, "model": model, "train": {"learning_rate": 5e-4, "epochs": 2}}
    config = Config.model_validate(given)
    (tmp_path / "config.json").write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
    again = Config.model_validate(nested(draft_of_run(tmp_path).given))
    assert again.data.clean == config.data.clean and "learning_rate" in again.train.model_fields_set


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"name": "../x"}, "name"),
        ({"name": ".hidden"}, "name"),
        ({"name": "micro"}, "name"),
        ({}, "data.sources"),
        ({"data.sources": ["/etc/passwd"]}, "data.sources"),
        ({"data.sources": ["sample"], "model.dim": 3}, "model.dim"),
    ],
)
def test_mistakes_make_no_run(workspace: Workspace, given: dict, where: str) -> None:
    assert where in mistakes(given, workspace)
    with pytest.raises(ConfigError):
        new_run(given, workspace)
    assert [path.name for path in workspace.runs.iterdir()] == ["micro"]


def test_a_preview_says_what_is_there_and_what_would_go(tmp_path: Path, texts: Path) -> None:
    (tmp_path / "more.txt").write_text("A line with a phone number: +91 98765 43210.\n" * 2 + "\u200b\n", encoding="utf-8")
    found = look({"sources": [str(texts), str(tmp_path / "more.txt")]}, 42)
    assert json.loads(json.dumps(found)) == found
    assert found["files"] == 5 and found["complete"] and found["characters"] > 10_000
    assert set(found["languages"]) >= {"mr", "en"} and 0 < found["conversations"] < 1
    assert found["text_bytes"] > found["characters"]
    phones = next(rule for rule in found["rules"] if rule["name"] == "phones")
    assert not phones["dropped"] and phones["examples"] and "98765" not in phones["examples"][0]["after"]


def test_the_plan_follows_the_settings(tmp_path: Path) -> None:
    clock = Clock([Measured(ModelShape(2000, width, 4, 4, 4, 4 * width, 128), 16, width / 1e4, 0.01) for width in (64, 128, 256)])
    memory = 8_000_000_000
    small = plan_line({"model.dim": 64, "train.total_steps": 100}, 1_000_000, clock, memory, tmp_path)
    large = plan_line({"model.dim": 256, "train.total_steps": 200}, 1_000_000, clock, memory, tmp_path)
    assert small.parameters < large.parameters and small.file_bytes < large.file_bytes and small.memory_bytes < large.memory_bytes
    assert small.seconds and large.seconds and small.seconds < large.seconds
    assert (small.steps, large.steps) == (100, 200) and small.bits_per_byte and small.epochs
    few = plan_line({"train.epochs": 100}, 50_000, None, memory, tmp_path)
    assert few.seconds is None and any("times" in text for text, _ in few.warnings) and any("small" in text for text, _ in few.warnings)
    assert any("memory" in text for text, _ in plan_line({"model.dim": 4096, "model.n_layers": 64}, None, None, memory, tmp_path).warnings)
    assert plan_line({}, None, None, memory, tmp_path).steps is None
    assert load_clock(tmp_path) is None


def test_a_run_can_start_from_a_run_an_upload_or_a_model_of_the_package(workspace: Workspace) -> None:
    run = workspace.runs / "micro"
    workspace.uploads.mkdir()
    shutil.copyfile(run / "model.bullet", workspace.uploads / "base.bullet")
    (workspace.uploads / "text.txt").write_text("text", encoding="utf-8")
    (workspace.runs / "empty" / "dashboard").mkdir(parents=True)
    models = start_models(workspace, ["micro", "empty"])
    assert models == {name: name for name in packaged_names()} | {
        str(run): "micro",
        str(workspace.uploads / "base.bullet"): "uploads/base.bullet",
    }
    shape = open_bullet(run / "model.bullet").shape
    for model in (str(run), "runs/micro", str(workspace.uploads / "base.bullet")):
        draft = Draft()
        draft.edit_json('{"dim": 96, "epochs": 2}')
        draft.edit_flags("--layers=3 --lr=1e-3")
        assert start_from(draft, model) == ["model.dim", "model.n_layers"]
        assert draft.given == {"train.epochs": 2, "train.learning_rate": 1e-3, "model.start_from": model}
        assert json.loads(draft.json_text)["model"] == {"start_from": model} and "layers" not in draft.flags_text
        line = plan_line(draft.given, 100_000, None, 8_000_000_000, workspace.folder)
        assert (line.parameters, line.bits_per_byte) == (shape.n_parameters, None)
        with pytest.raises(ConfigError, match=r"leave model\.dim out"):
            plan_line({**draft.given, "model.dim": 96}, 100_000, None, 8_000_000_000, workspace.folder)
        assert start_from(draft, None) == [] and "model.start_from" not in draft.given
    with pytest.raises(ConfigError, match="there is no"):
        plan_line({"model.start_from": "runs/none"}, None, None, 8_000_000_000, workspace.folder)


def test_the_next_run_gets_a_name_that_is_free(workspace: Workspace) -> None:
    draft = Draft()
    give_free_name(draft, workspace)
    assert "name" not in draft.given
    give_free_name(draft, workspace, "micro")
    assert draft.given["name"] == "micro-2"
    (workspace.runs / "micro-2").mkdir()
    give_free_name(draft, workspace)
    assert draft.given["name"] == "micro-3" and json.loads(draft.json_text) == {"name": "micro-3"}


def test_settings_are_chosen_for_a_text_and_a_time(workspace: Workspace, texts: Path) -> None:
    micro = str(workspace.runs / "micro")
    chosen = asyncio.run(choose_in_process([str(texts)], 0.25, {"model.start_from": micro, "train.epochs": 99}, workspace.folder))
    draft = Draft()
    draft.edit_json(chosen["settings"])
    assert draft.problems() == {} and draft.json_problem == "" and "//" in chosen["settings"]
    assert (draft.given["model.start_from"], draft.given["data.sources"]) == (micro, [str(texts)])
    assert "name" not in draft.given and draft.given.get("train.epochs") != 99
    with pytest.raises(BulletError, match="missing"):
        choose([str(texts / "missing.txt")], 1.0, {})
