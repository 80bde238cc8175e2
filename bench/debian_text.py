"""Collects the text of Debian packages in one language into a folder, as an example of text that anybody with Debian has.

    apt-get download manpages-de fortunes-de debian-reference-de developers-reference-de debian-faq-de
    python bench/debian_text.py . german --language de
    bullet run german/texts-de --from none

The first argument is the folder with the .deb files. The packages are unpacked into a temporary folder and not installed, so the
command needs no root rights and no network. It takes the manual pages in the language, the fortunes, and the HTML pages of manuals,
and writes

    german/texts-de/PACKAGE/...   the text: manual pages as .txt, fortunes as .jsonl (one a line), HTML as it is
    german/copyright/PACKAGE      the licences and authors of each package

It prints a table of what each package gave. Programs of Debian that it uses: dpkg-deb, mandoc, and col (package bsdextrautils).
"""

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LINE = 1000
"""Columns to which manual pages are formatted: the most that mandoc takes. Almost every paragraph is then one line."""

NOT_SENTENCES = {"asciiart"}
"""Fortunes that are pictures made of signs."""


def manual_page(path: Path) -> str:
    """The text of a manual page, one paragraph a line, without the page's first and last line (name, section and date).

    Returns "" for a page that is only a reference to another one, and for one that mandoc cannot read.
    """
    with gzip.open(path) as file:
        if file.readline().startswith(b".so "):
            return ""
    formatted = subprocess.run(["mandoc", "-T", "utf8", "-O", f"width={LINE},indent=0", str(path)], capture_output=True, check=False)
    # mandoc writes bold letters as letter, backspace, letter. col removes that.
    plain = subprocess.run(["col", "-bx"], input=formatted.stdout, capture_output=True, env={"LC_ALL": "C.UTF-8"}, check=True)
    lines = [line.strip() for line in plain.stdout.decode().strip().splitlines()]
    return "\n".join(lines[1:-1]).strip() + "\n" if len(lines) > 2 else ""


def fortunes(path: Path) -> list[str]:
    """The entries of a file for the program fortune, which a line with a percent sign separates. Empty if the file is not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        print(f"{path.name}: not read, because it is not UTF-8", file=sys.stderr)
        return []
    return [entry.strip() for entry in text.split("\n%\n") if entry.strip(" \n%")]


def collect(unpacked: Path, out: Path, language: str) -> tuple[int, int]:
    """Write the text of an unpacked package in a language to the folder `out`; returns the number of files and their size in bytes."""
    out.mkdir()
    pages = sorted((unpacked / f"usr/share/man/{language}").glob("man*/*.gz"))
    for page in pages:
        text = "" if page.is_symlink() else manual_page(page)
        if text:
            (out / f"{page.stem}.txt").write_text(text, encoding="utf-8")
    for path in sorted((unpacked / f"usr/share/games/fortunes/{language}").glob("*")):
        if path.is_file() and path.suffix in ("", ".fortunes") and path.name not in NOT_SENTENCES:
            rows = [json.dumps({"text": entry}, ensure_ascii=False) for entry in fortunes(path)]
            if rows:
                (out / f"{path.stem}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for path in sorted(unpacked.glob("usr/share/**/*.html")):
        if not path.is_symlink() and (f".{language}." in path.name or language in path.parts):
            shutil.copyfile(path, out / f"{path.parent.name}-{path.name}")
    files = list(out.iterdir())
    return len(files), sum(path.stat().st_size for path in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, help="folder with .deb files")
    parser.add_argument("out", type=Path, help="folder to write to; it must not exist")
    parser.add_argument("--language", default="de", help="code of the language in the names of Debian's folders, such as de, fr or pt_BR")
    arguments = parser.parse_args()
    missing = [name for name in ("dpkg-deb", "mandoc", "col") if shutil.which(name) is None]
    if missing:
        sys.exit(f"not found: {', '.join(missing)} (Debian: apt-get install dpkg mandoc bsdextrautils)")
    archives = sorted(arguments.packages.glob("*.deb"))
    if not archives:
        sys.exit(f"{arguments.packages}: no .deb files; get some with: apt-get download manpages-{arguments.language}")
    if arguments.out.exists():
        sys.exit(f"{arguments.out} exists; name a new folder")

    texts, licences = arguments.out / f"texts-{arguments.language}", arguments.out / "copyright"
    texts.mkdir(parents=True)
    licences.mkdir()
    print("| package | version | files | MB |\n|---|---|---:|---:|")
    for archive in archives:
        fields = ["dpkg-deb", "--show", "--showformat", "${Package} ${Version}", str(archive)]
        name, version = subprocess.run(fields, capture_output=True, text=True, check=True).stdout.split()
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["dpkg-deb", "--extract", str(archive), folder], check=True)
            copyright_file = Path(folder, "usr/share/doc", name, "copyright")
            if copyright_file.is_file():
                shutil.copyfile(copyright_file, licences / name)
            count, size = collect(Path(folder), texts / name, arguments.language)
        print(f"| {name} | {version} | {count:,} | {size / 1e6:.1f} |", flush=True)


if __name__ == "__main__":
    main()
