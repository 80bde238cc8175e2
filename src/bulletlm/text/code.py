"""Detects lines of program code, whose spaces, symbols and tags must stay unchanged."""

import re
from collections.abc import Sequence

LONGEST_OPEN_FENCE = 200
"""Maximum number of code lines after an opening fence without a closing fence."""

LONGEST_LINE = 1_000
"""Longer lines are paragraphs, tables or encoded files; searching them for code would take quadratic time."""

_FENCE = re.compile(r"^\s{0,3}(`{3,}|~{3,})")

_STATEMENT_END = re.compile(r"[;{}]\s*(?://.*|/\*.*)?$")
_STATEMENT_SIGN = re.compile(r"\w\(|[=\[\]<>{}]|^\s*(?:return|break|continue|import|package|using|pass)\b")
_CODE = re.compile(
    "|".join(
        (
            # Python, shell prompts, C's preprocessor
            r"^\s*(?:async\s+)?def\s+\w+\s*\(",
            r"^\s*class\s+\w+\s*(?:\([^)]*\))?\s*[:{]\s*$",
            r"^\s*(?:else|try|finally)\s*:\s*$|^\s*(?:if|elif|while|except|with)\b.*[=<>()\[\].\w]:\s*$|^\s*for\s+\w[\w, ]*\s+in\s+.+:\s*$",
            r"^\s*from\s+[\w.]+\s+import\s+\S|^\s*import\s+[\w.]+(?:\s+as\s+\w+)?\s*;?\s*$",
            r"^\s*return\s+[\w.]+[(\[.+*/%<>=-]|^\s*return\s+\w+\s*;?\s*$",
            r"^\s*(?:>>>|\$|%)\s\S",
            r"^\s*\#\s*(?:include|define|ifdef|ifndef|endif|pragma)\b",
            # declarations and assignments
            r"^\s*(?:public|private|protected|static|const|let|var|function|fn|func|int|void|double|float|char|bool|auto)\s+[\w<>\[\]*&:]+\s*[=({;,]",
            r"^\s*[A-Za-z_][\w.]*(?:\[[^\]]*\])?\s*(?:[+*/%&|^-]|:)?=(?!=)\s*\S",
            # operators that do not occur in prose, calls, and rows of JSON
            r"[\w)\]]\s*(?:==|!=|<=|>=|&&|\|\||=>|\+=|-=|\*=|<<|>>)\s*[\w(\"'\[!-]",
            r"[A-Za-z_]\w*(?:::|->)[A-Za-z_]\w*",
            r"^\s*[A-Za-z_][\w.]*\([^()]*(?:\([^()]*\))?[^()]*\)\s*;?\s*$",
            r"^\s*\"[^\"]+\"\s*:\s*[\[{\"\d]|^\s*[\[{]\s*(?:\"[^\"]*\"\s*:.*)?$|^\s*[\]}],?\s*$",
            r"^\s*(?:SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+TABLE)\b",
        )
    )
)
_MAY_BE_CODE = re.compile(
    r"[(){}\[\]=<>;$%|&#]|::|->|\"\s*:|^\s*(?:import|from|return|else|try|finally|class|SELECT|INSERT|UPDATE|DELETE|CREATE)\b"
)
"""Characters of which every line of code has one: a quick test that most prose fails."""

_LATIN = re.compile("[A-Za-z{}\\[\\]]")
_COMMENT = re.compile(r"^\s*(?:#|//|/\*|\*/?|--)\s*\S")


def code_lines(lines: Sequence[str]) -> list[bool]:
    """[lines] whether each is code: between fences (``` or ~~~, including the fences), or by the syntax of common languages.

    An indented line or a comment after a line of code is code too.
    """
    code = [False] * len(lines)
    n = 0
    while n < len(lines):
        fence = _FENCE.match(lines[n])
        if fence:
            end = next((m for m in range(n + 1, len(lines)) if lines[m].strip().startswith(fence[1]) and not lines[m].strip(" `~")), None)
            if end is None and len(lines) - n <= LONGEST_OPEN_FENCE:
                end = len(lines) - 1
            if end is not None:
                code[n : end + 1] = [True] * (end + 1 - n)
                n = end + 1
                continue
        before = n > 0 and code[n - 1] and not _FENCE.match(lines[n - 1])
        code[n] = _is_code(lines[n]) or (
            before and (lines[n][:2] in ("  ", "\t") or lines[n][:1] == "\t" or bool(_COMMENT.match(lines[n])))
        )
        n += 1
    return code


def _is_code(line: str) -> bool:
    if len(line) > LONGEST_LINE or not _MAY_BE_CODE.search(line) or (not line.isascii() and not _LATIN.search(line)):
        return False
    if _CODE.search(line):
        return True
    return _STATEMENT_END.search(line) is not None and _STATEMENT_SIGN.search(line) is not None
