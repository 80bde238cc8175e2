"""Where the tests find the repository's own files and the real text that lies beside it (absent for most users)."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SAMPLE_CORPUS = ROOT / "src" / "bulletlm" / "data" / "sample"
SHARED_DATA = ROOT.parent / "shared" / "data"
CASES = ROOT.parent / "shared" / "cases"
