"""The configuration as text: a starter file, the resolved values, and the table of settings for docs/settings.md."""

import json
import os
from pathlib import Path
from typing import Any

from bulletlm.config.loader import Setting, settings
from bulletlm.config.schema import Config
from bulletlm.errors import ConfigError
from bulletlm.files import write_text
from bulletlm.quant.types import tensor_bytes
from bulletlm.terminal import echo, printable_json


def write_starter_config(path: Path) -> None:
    """Write a configuration file with every setting, its default and its description.

    Raises:
        ConfigError: a file of that name exists.
    """
    if os.path.lexists(path):
        raise ConfigError(f"{path} exists already: choose another name, for example {path.with_stem(path.stem + '-2')}")
    write_text(path, starter_config(path.stem))


def starter_config(name: str) -> str:
    """A complete configuration as JSON with comments."""
    lines = ["// A BulletLM configuration. Every line shows a default value: change it, or delete the line.", "{"]
    section = ""
    for setting in settings():
        prefix, _, leaf = setting.path.rpartition(".")
        if prefix != section:
            if section:
                lines.append("  },")
            lines.append(f'  "{prefix}": {{')
            section = prefix
        value = name if setting.path == "name" else _plain(setting.default)
        indent = "    " if section else "  "
        lines.append(f"{indent}// {setting.description}")
        lines.append(f'{indent}"{leaf}": {json.dumps(value, ensure_ascii=False)},')
    lines += ["  },", "}"]
    return "\n".join(lines) + "\n"


def settings_table() -> str:
    """Every setting as a Markdown table (docs/settings.md)."""
    rows = ["| setting | also | type | default | what it does |", "|---|---|---|---|---|"]
    for setting in settings():
        also = " ".join(f"`--{name.replace('_', '-')}`" for name in setting.names[1:])
        rows.append(f"| `{setting.path}` | {also} | {_cell(setting.type_name)} | {_default(setting)} | {_cell(setting.description)} |")
    return "\n".join(rows) + "\n"


def print_config(config: Config) -> None:
    """Print the resolved configuration as JSON, followed by derived facts as comments."""
    shape = config.model.shape(config.tokenizer.vocab_size)
    per_step = config.train.batch_size_per_device * config.train.gradient_accumulation_steps
    size = sum(tensor_bytes(type, shape.tensors()[name]) for name, type in config.weight_types().items())
    print(printable_json(config.model_dump(mode="json")))
    print(f"// parameters       {shape.n_parameters:,}")
    print(f"// head_dim         {shape.head_dim}")
    print(f"// .bullet file     about {f'{size / 1e6:.1f} MB' if size >= 1e6 else f'{size / 1e3:.0f} KB'}")
    print(f"// effective batch  {per_step} sequences = {per_step * shape.max_seq_len:,} tokens per step")
    echo(f"// run folder       {config.run_dir}")


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [item.path if hasattr(item, "path") else item for item in value]
    return list(value) if isinstance(value, tuple) else value


def _default(setting: Setting) -> str:
    return f"`{json.dumps(_plain(setting.default), ensure_ascii=False)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def settings_page() -> str:
    """The whole of docs/settings.md."""
    return (
        "# Settings\n\n"
        "A setting can be given in a configuration file or as a command-line flag (`--name=value`; `-` and `_` mean the same).\n"
        'Its name is the full path, the last part of the path if that is unique, or a short name from the column "also".\n'
        "`bullet config FILE` prints the resolved configuration.\n\n" + settings_table()
    )
