"""`llmrecipe init`: a folder in which a first model can be trained, on the user's own text or on Python's."""

import argparse
import codecs
import json
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template
from typing import BinaryIO

from llmrecipe.errors import ProjectError

TEMPLATES = Path(__file__).parent / "templates"

FILES = {
    ".gitignore": "gitignore",
    ".dvcignore": "dvcignore",
    ".dvc/.gitignore": "dvcgitignore",
    ".dvc/config": "dvcconfig",
    "data/README.md": "data.md",
    "recipes/machines.py": "machines.py",
}
"""What every project starts with, by path, and the template of each."""

RECIPE = "recipes/first.py"

_HELD_OUT = 0.1
"""Share of each file, its end, that the model is measured on."""

_LEAST_BYTES = 50_000
"""Less text than this has too few sequences for a batch, or to measure anything on."""

_CHUNK = 1 << 20

_OWN_TEXT = """Corpus(
            name="text",
            source=source.TextFiles(paths=("data/train/*",)),
            clean=(clean.FixUnicode(),),
            heldout=source.TextFiles(paths=("data/heldout/*",)),
        )"""

_PYTHON = """Corpus(
            name="python-stdlib",
            source=source.PythonStdlib(),
            clean=(clean.FixUnicode(), clean.ExactDedup()),
            heldout=Fraction(0.05),
        )"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `init` to the commands."""
    parser = subparsers.add_parser("init", help="make a folder with a first recipe, for text of your own")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder, or `.` for this one")
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="UTF-8 text files to learn from (default: the source code of Python's standard library)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make the project and print what to do next.

    Raises:
        ProjectError: something is in the way, or a file isn't text; nothing is written then.
    """
    folder, texts = options.folder, options.files
    _refuse_unfit(texts)
    _refuse_overwriting(folder, texts)
    folder.mkdir(parents=True, exist_ok=True)
    if _git("rev-parse", "--is-inside-work-tree", folder=folder) != 0 and _git("init", "--quiet", folder=folder) != 0:
        raise ProjectError(f"{folder}: `git init` failed; run it there")
    for path, template in FILES.items():
        _write(folder / path, (TEMPLATES / template).read_text(encoding="utf-8"))
    for text in texts:
        _split(text, folder)
    prompts = [_prompt(folder / "data/heldout" / texts[0].name)] if texts else ["def ", "for i in range("]
    recipe = Template((TEMPLATES / "first.py.template").read_text(encoding="utf-8"))
    _write(
        folder / RECIPE,
        recipe.substitute(text=_OWN_TEXT if texts else _PYTHON, prompts=", ".join(map(_literal, prompts))),
    )
    _show_next(folder, bool(texts))
    return 0


def _refuse_unfit(texts: Sequence[Path]) -> None:
    reasons = list(filter(None, map(_unfit, texts)))
    reasons += [
        f"{name}: {count} files have this name; rename all but one"
        for name, count in Counter(text.name for text in texts).items()
        if count > 1
    ]
    size = sum(text.stat().st_size for text in texts) if not reasons else _LEAST_BYTES
    if texts and size < _LEAST_BYTES:
        reasons.append(f"{size:,} bytes of text are too few to learn from; {_LEAST_BYTES:,} are the least")
    if reasons:
        raise ProjectError("\n".join(reasons))


def _unfit(text: Path) -> str | None:
    """Why a file can't be learned from, if so."""
    if not text.exists():
        return f"{text}: no such file"
    if text.is_dir():
        return f"{text}: a folder; name the files in it, as in {shlex.quote(str(text))}/*.txt"
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(text, "rb") as file:
        try:
            while chunk := file.read(_CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return f"{text}: not UTF-8 text; convert it, as with `iconv -f WINDOWS-1252 -t UTF-8`, or unpack it"
    return None


def _refuse_overwriting(folder: Path, texts: Sequence[Path]) -> None:
    if folder.exists() and not folder.is_dir():
        raise ProjectError(f"{folder}: a file; name a new folder")
    for parent in folder.resolve().parents:
        if (parent / ".dvc").is_dir():
            raise ProjectError(f"{folder}: inside the DVC project {parent}; name a folder outside of it")
    copies = [f"data/{part}/{text.name}" for part in ("train", "heldout") for text in texts]
    in_the_way = [str(folder / path) for path in [*FILES, RECIPE, *copies] if (folder / path).exists()]
    if in_the_way:
        listed = "\n".join(f"{path}: is there already" for path in in_the_way)
        raise ProjectError(f"{listed}\nnothing was written; move these away, or name a new folder")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _split(text: Path, folder: Path) -> None:
    """Copy the beginning of a file to the training text, and its end to the held-out text."""
    with open(text, "rb") as file:
        cut = _cut(file, text.stat().st_size)
        for part, chunks in (("train", _chunks(file, 0, cut)), ("heldout", _chunks(file, cut, None))):
            path = folder / "data" / part / text.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as copy:
                copy.writelines(chunks)


def _cut(file: BinaryIO, size: int) -> int:
    """Where the held-out part begins: before a paragraph, a line, a word or a character, in this order."""
    start = int(size * (1 - _HELD_OUT))
    file.seek(start)
    window = file.read(min(int(size * _HELD_OUT / 2), _CHUNK))
    for separator in (b"\n\n", b"\n", b" "):
        if separator in window:
            return start + window.index(separator) + len(separator)
    return start + next((index for index, byte in enumerate(window) if byte & 0xC0 != 0x80), 0)


def _chunks(file: BinaryIO, start: int, end: int | None) -> Iterator[bytes]:
    file.seek(start)
    while chunk := file.read(_CHUNK if end is None else min(_CHUNK, end - file.tell())):
        yield chunk


def _prompt(text: Path) -> str:
    """A few words that the model has not seen."""
    with open(text, encoding="utf-8") as file:
        words = file.read(1000).split()
    return " ".join(words[:3])[:40]


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _git(*arguments: str, folder: Path) -> int:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).returncode
    except FileNotFoundError:
        raise ProjectError(
            "git is not installed, and versions what is made here; install it, then run `git init`"
        ) from None


def _show_next(folder: Path, has_text: bool) -> None:
    print(f"wrote {folder / RECIPE}, a model of {'your text' if has_text else 'Python code'}; now run")
    if folder.resolve() != Path.cwd():
        print(f"    cd {shlex.quote(str(folder))}")
    print("    llmrecipe run first")
    print("It checks, plans, runs stages and reports, as `llmrecipe plan first`, `dvc repro first-report` and")
    print("`llmrecipe report first` do one by one.")
    if not has_text:
        print("For a model of your own text: `llmrecipe init FOLDER FILE…`")
