"""The model from which a run started against the new one: on the validation text, and on other text that `evaluate.also` names.

The first comparison shows what the run learned, the others what it forgot.
"""

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bulletlm.config.schema import CleanConfig, Config, DataConfig
from bulletlm.data.clean_corpus import clean_files
from bulletlm.data.sources import find_files
from bulletlm.data.tokens import DocumentRange, TokenFile, open_tokens
from bulletlm.data.train_val import TrainedText
from bulletlm.errors import DataError
from bulletlm.evaluate.data_checks import HeldOutLosses, sample_training_loss
from bulletlm.evaluate.perplexity import Score, Targets, score, score_tokens
from bulletlm.evaluate.report_types import IntervalValues, Origin, TextValues
from bulletlm.formats.npy import read_npy
from bulletlm.progress import Progress
from bulletlm.runtime import Model, load
from bulletlm.text.chat import encode_document
from bulletlm.text.documents import read_documents, texts_of
from bulletlm.text.tokenizer import Tokenizer

ALSO_TOKENS = 20_000
"""Tokens of a text of evaluate.also that are measured: whole documents, chosen by the hash of their content."""


def measure_origin(
    run_dir: Path, config: Config, parent: Path | None, models: tuple[Model, Model], file: TokenFile, progress: Progress
) -> Origin | None:
    """Measure parent, FP32 and 4-bit model on the validation text, and on each text of evaluate.also.

    All models see the same windows, as long as the shortest of their contexts.

    Args:
        run_dir: the run folder.
        config: its configuration.
        parent: folder of the tensors of the model from which the run started; None if it started from random weights.
        models: the FP32 model and the 4-bit model.
        file: the validation text.
        progress: shows bars and messages.

    Returns:
        The entry of the report; None if there is neither a parent nor other text.

    Raises:
        DataError: a path of evaluate.also does not exist or cannot be read.
        BulletError: a model is damaged.
    """
    if parent is None and not config.evaluate.also:
        return None
    parent_model = load(parent) if parent else None
    tokenizer = models[0].tokenizer
    texts = [("validation text", file)] if parent else []
    missing = []
    for number, path in enumerate(config.evaluate.also, 1):
        label = f"text {number}"  # the report names no files
        tokens = other_text(path, run_dir, config.seed, tokenizer, progress)
        if tokens is None:
            missing.append(f"{label}: all of it is in the training text")
        else:
            texts.append((label, tokens))
    length = min(model.shape.max_seq_len for model in (parent_model, *models) if model)
    rows: list[TextValues] = []
    gap: IntervalValues | None = None
    for label, text in texts:
        before: Score | None = None
        if parent_model:
            targets, nats = score_tokens(parent_model.engine, text, tokenizer, progress, length)
            before = targets.score(nats, targets.counted)
            if text is file:
                gap = _parent_gap(run_dir, parent_model, targets, nats, length, config.seed, progress)
        fp32, bq4 = (score(model.engine, text, tokenizer, progress, length).total for model in models)
        rows.append(
            {
                "text": label,
                "tokens": len(text.tokens) - 1,
                "parent": before.to_dict() if before else None,
                "fp32": fp32.to_dict(),
                "bq4": bq4.to_dict(),
            }
        )
    metadata = read_npy(parent)[3] if parent else {}
    return {
        "name": str(metadata.get("name") or "unnamed") if parent else None,
        "license": str(metadata.get("license") or "unspecified") if parent else None,
        "texts": rows,
        "gap": gap,
        "missing": missing,
    }


def _parent_gap(
    run_dir: Path, parent: Model, targets: Targets, nats: npt.NDArray[np.float64], length: int, seed: int, progress: Progress
) -> IntervalValues | None:
    """The parent's loss on the validation text minus its loss on the new training text, nats per token.

    Both are new for a parent that has seen neither, so it predicts them about equally well.
    """
    train = open_tokens(run_dir / "tokens", "train")
    window = np.arange(len(nats)) // length
    chosen = targets.counted
    held_out = HeldOutLosses(length=length, nats=nats[chosen], document=targets.document[chosen], window=window[chosen])
    sample = sample_training_loss(train, parent, held_out, seed, progress)
    return sample["gap"] if sample else None


def other_text(path: str, run_dir: Path, seed: int, tokenizer: Tokenizer, progress: Progress) -> TokenFile | None:
    """About ALSO_TOKENS tokens of a text, without documents on which the run trained (`TrainedText`); None if nothing is left.

    Raises:
        DataError: the path does not exist or holds nothing that can be read.
    """
    try:
        files, _ = find_files(DataConfig.model_validate({"sources": [path]}))
    except DataError as error:
        raise DataError(str(error).replace("data.sources:", "evaluate.also:", 1)) from None
    trained = TrainedText(run_dir / "data" / "train.jsonl")
    ids: list[int] = []
    ranges: list[DocumentRange] = []
    with tempfile.TemporaryDirectory() as folder:
        cleaned = clean_files(files, CleanConfig(), seed, Path(folder) / "cleaned", 1, progress)
        rows = sorted(read_documents(cleaned.folder / "documents.jsonl"), key=lambda document: document["id"])
    for document in rows:
        if len(ids) >= ALSO_TOKENS or document in trained:
            continue
        start = len(ids)
        ids += encode_document(tokenizer, document)[0]
        size = sum(len(text.encode()) for text in texts_of(document))
        ranges.append({"start": start, "end": len(ids), "bytes": size, "language": document["language"], "source": document["source"]})
    if len(ids) < 2:
        return None
    tokens = np.array(ids[: 2 * ALSO_TOKENS], dtype=np.uint32)  # a single long document is cut
    return TokenFile(tokens, None, {"documents": ranges})
