"""Other text on which a report measures the models."""

from pathlib import Path

from bulletlm.evaluate.parent import other_text
from bulletlm.progress import SilentProgress
from bulletlm.text.documents import to_line
from bulletlm.text.tokenizer import Tokenizer

LINES = [f"The {word} stood by the river, and everybody in the village knew it." for word in ("mill", "tower", "school", "temple")]


def test_a_document_of_which_the_run_has_a_part_is_left_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The mixture cuts long documents, and the validation text takes their ends, so a part has another id than the document."""
    (tmp_path / "data").mkdir()
    part = "\n".join(LINES[1:3])
    (tmp_path / "data" / "train.jsonl").write_bytes(to_line({"id": "1", "source": "a.txt", "language": "en", "text": part}))
    (tmp_path / "whole.txt").write_text("\n".join(LINES))
    (tmp_path / "new.txt").write_text("Nothing of this is in the training text of that run, and so it counts.\n")
    assert other_text(str(tmp_path / "whole.txt"), tmp_path, 1, tokenizer, SilentProgress()) is None
    assert other_text(str(tmp_path / "new.txt"), tmp_path, 1, tokenizer, SilentProgress()) is not None
