"""The draft of the next run on the disk, so that nothing is lost on a reload, and the step from the draft to a run folder."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bulletlm.config.loader import nested
from bulletlm.config.schema import CleanConfig, Config
from bulletlm.dashboard.forms import Draft, form, problems
from bulletlm.dashboard.processes import own_folder, read_record
from bulletlm.dashboard.runs import configuration
from bulletlm.dashboard.workspace import Workspace, free_name, is_name
from bulletlm.errors import ConfigError
from bulletlm.files import write_json

DRAFT_FILE = "draft.json"


def load_draft(workspace: Workspace) -> Draft:
    """The draft that was saved last; an empty one if there is none."""
    record = read_record(workspace.state / DRAFT_FILE)
    given = record.get("given")
    texts = {name: record[name] for name in ("json_text", "flags_text") if isinstance(record.get(name), str)}
    draft = Draft(given=given if isinstance(given, dict) else {}, **texts)
    draft.read_flags()  # a mistake in the flags is known again, and they stay as they are
    if draft.json_text.strip():
        draft.edit_json(draft.json_text)
    return draft


def save_draft(draft: Draft, workspace: Workspace) -> None:
    """Keep the draft."""
    content = {"given": draft.given, "json_text": draft.json_text, "flags_text": draft.flags_text}
    write_json(workspace.state / DRAFT_FILE, content)


def draft_of_run(folder: Path) -> Draft:
    """A draft with the settings of a run that are not defaults, to be changed; its name is left out.

    Raises:
        ConfigError: the configuration of the run cannot be read.
    """
    config = configuration(folder)
    if config is None:
        raise ConfigError(f"the configuration of {folder.name} cannot be read")
    values = config.model_dump(mode="json")
    draft = Draft()
    for setting in form():
        value: Any = values
        for part in setting.path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        depends = values["model"]["start_from"] is not None and setting.path.partition(".")[0] == "train"
        if setting.path != "name" and value is not None and (value != setting.default or depends):
            draft.given[setting.path] = value
    preset = config.data.clean.preset
    if preset != "gentle":  # its defaults are others
        rules = CleanConfig(preset=preset).model_dump(mode="json")
        draft.given |= {f"data.clean.{name}": value for name, value in values["data"]["clean"].items() if value != rules[name]}
    draft.given["data.sources"] = [short_source(source) for source in values["data"]["sources"]]
    draft.json_text = json.dumps(nested(draft.given), ensure_ascii=False, indent=2)
    return draft


def start_from(draft: Draft, model: str | None) -> list[str]:
    """Let the next run start from a model, or from random weights (None).

    Shape and vocabulary are those of the model, so settings that name others are taken out; returns their names.
    """
    sizes = ("model.dim", "model.n_layers", "model.n_heads", "model.n_kv_heads", "model.hidden_dim", "tokenizer.vocab_size")
    shape = (*sizes, "model.rope_theta", "model.norm_eps", "model.tied_embeddings")
    removed = [path for path in shape if model is not None and draft.given.pop(path, None) is not None]
    draft.edit_setting("model.start_from", model)
    return removed


def give_free_name(draft: Draft, workspace: Workspace, wanted: str | None = None) -> None:
    """Give the next run the name `wanted` (None: the one of the draft), with another number at its end if a run has this name."""
    name = wanted or draft.given.get("name", Config.model_fields["name"].default)
    if isinstance(name, str) and is_name(name) and (workspace.runs / name).exists():
        draft.edit_setting("name", free_name(re.sub(r"-\d+$", "", name), workspace.runs))


def short_source(source: Mapping[str, Any]) -> Any:
    """A source without its defaults: only its path if nothing else differs from them."""
    from bulletlm.config.schema import Source

    defaults = Source(path="-").model_dump(mode="json")
    changed = {name: value for name, value in source.items() if name == "path" or defaults.get(name) != value}
    return changed["path"] if set(changed) == {"path"} else changed


def mistakes(given: Mapping[str, Any], workspace: Workspace) -> dict[str, str]:
    """Everything that keeps these settings from becoming a new run, by the full name of the setting."""
    found = problems(given)
    for setting, problem in workspace.check_settings(given):
        found.setdefault(setting, problem)
    if not given.get("data.sources"):
        found.setdefault("data.sources", "choose the text to learn from")
    name = given.get("name", Config.model_fields["name"].default)
    if not isinstance(name, str) or not is_name(name):
        found.setdefault("name", "a name has 1 to 100 characters, none of them / or \\, and does not begin with a dot")
    elif (workspace.runs / name).exists():
        found.setdefault("name", f"there is already a run {name}: choose another name")
    return found


def new_run(given: Mapping[str, Any], workspace: Workspace) -> Path:
    """Make the folder of a new run with its configuration; returns the folder.

    Raises:
        ConfigError: the settings have a mistake.
    """
    found = mistakes(given, workspace)
    if found:
        setting, problem = next(iter(found.items()))
        raise ConfigError(f"{setting}: {problem}" if setting else problem)
    name = str(given.get("name", Config.model_fields["name"].default))
    folder = workspace.runs / name
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ConfigError(f"name: there is already a run {name}: choose another name") from None
    write_json(own_folder(folder) / "configuration.json", nested({**given, "name": name, "runs_dir": str(workspace.runs)}))
    return folder
