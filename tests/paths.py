"""Paths of the repository's own files and of the real text in the folder beside it (which most users do not have)."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SAMPLE_CORPUS = ROOT / "src" / "bulletlm" / "data" / "sample"
SIMPLE_CORPUS = ROOT / "src" / "bulletlm" / "data" / "simple"
SHARED_DATA = ROOT.parent / "shared" / "data"
CASES = ROOT.parent / "shared" / "cases"
