"""The arguments of every stage of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulletlm.config.schema import Config
from bulletlm.data.tokens import vocabulary_size
from bulletlm.errors import BulletError
from bulletlm.progress import Progress
from bulletlm.shape import ModelShape

if TYPE_CHECKING:
    from bulletlm.pipeline.start import Parent
    from bulletlm.train.distributed.group import ProcessGroup


@dataclass(frozen=True, kw_only=True)
class Run:
    """The arguments of every stage.

    Attributes:
        config: the configuration of the run.
        fingerprint: SHA-256 of all settings and inputs that affect the trained weights.
        sources: path, label, size in bytes and SHA-256 of every source file.
        augmentation: what decides the added training text; None if there is none.
        held_out: SHA-256 of every file of data.held_out.
        progress: shows bars and messages.
        group: processes that wait to take part in training.
        missing_source: why the sources cannot be read, if `sources` is what the run folder recorded about them; None otherwise.
        parent: the model from which the run starts; None if it starts from random weights.
        extension: how the run continues one with fewer steps or less text (`extension.find_extension`); None if it does not.
    """

    config: Config
    fingerprint: str
    sources: list[dict[str, Any]]
    augmentation: dict[str, Any] | None
    progress: Progress
    held_out: Sequence[str] = ()
    group: "ProcessGroup | None" = None
    missing_source: BulletError | None = None
    parent: "Parent | None" = None
    extension: dict[str, Any] | None = None

    @property
    def parent_hash(self) -> list[str]:
        """The hash of the model from which the run starts; empty if there is none."""
        return [self.parent.sha256] if self.parent else []

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.run_dir

    @property
    def shape(self) -> ModelShape:
        """The shape of the model, once the tokens are written: a short text may not fill tokenizer.vocab_size."""
        return self.config.model.shape(vocabulary_size(self.folder / "tokens"))

    @property
    def start_folder(self) -> Path | None:
        """The folder of the weights from which training starts; None for random weights."""
        if self.parent is None:
            return None
        from bulletlm.pipeline.start import START

        return self.folder / START
