"""YAML files that people and this program write together: its entries change, every other byte stays.

A round trip through a YAML library keeps what others wrote in meaning, but not in form. So a parser only says where
the entries are, and their lines are replaced.
"""

import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import yaml

from llmrecipe.errors import PlanError

_PLAIN = re.compile(r"[A-Za-z_/][\w./=-]*(?: [\w./=-]+)*", re.ASCII)
"""Texts that need no quotation marks, unless they are one of `_WORDS`."""

_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
"""Texts that YAML 1.1 or 1.2 takes for something else, in any case."""

_UNLIMITED = 2**31 - 1


class _Dumper(yaml.CSafeDumper):
    """Writes what readers of YAML 1.1 (PyYAML) and of YAML 1.2 (ruamel.yaml, so DVC) take for the same value."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _Dumper.represent_text)


def dump(data: Any) -> str:
    """Plain data as YAML in block form, keys in the order of the data; equal data give equal bytes."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_UNLIMITED)


@attrs.frozen
class _Entry:
    """One entry of a mapping or a list, and the lines that it takes."""

    name: str
    node: yaml.Node
    start: int
    end: int


@attrs.frozen
class _Collection:
    """A mapping or a list in block form."""

    entries: list[_Entry]
    indent: str
    first_line: int
    """Where a new entry can be put."""


@attrs.frozen
class YamlText:
    """The text of a YAML file whose document is a mapping, or empty.

    An entry of a list is named by its text or, if it is a mapping, by its first key.
    """

    path: Path
    """The file, for messages."""

    text: str
    """All of it."""

    @classmethod
    def read(cls, path: Path, fresh: str = "") -> "YamlText":
        """The text of a file, or `fresh` if there is no file.

        Raises:
            PlanError: it isn't UTF-8 or isn't YAML, or its document isn't a mapping.
        """
        try:
            text = path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            text = fresh
        except UnicodeDecodeError as error:
            raise PlanError(f"{path}: not UTF-8 text: {error}") from None
        document = cls(path, text)
        document.entries()
        return document

    def entries(self, section: str | None = None) -> dict[str, Any]:
        """The entries of a top-level section, or of the document, by name; every scalar as its text.

        Raises:
            PlanError: they aren't in block form, one line or more each.
        """
        collection = self._collection(section)
        return {entry.name: _plain(entry.node) for entry in collection.entries} if collection else {}

    def replace(self, section: str | None, names: Collection[str], entries: Mapping[str, Any] | list) -> "YamlText":
        """The text with `entries` in place of those called `names`, in a top-level section or in the document.

        A section in which nothing is left goes, too.

        Raises:
            PlanError: the others can't be kept as they are.
        """
        if section is not None and not entries and not self.entries(section).keys() - set(names):
            return self.replace(None, [section], {}) if section in self.entries() else self
        lines = self.text.splitlines(keepends=True)
        if lines and not lines[-1].endswith(("\n", "\r")):
            lines[-1] += "\n"
        whole = YamlText(self.path, "".join(lines))
        collection = whole._collection(section)
        if collection is None:
            added = _blocks(entries, indent="" if section is None else "  ")
            head = "" if section is None else f"{section}:\n"
            edited = YamlText(self.path, "".join([*lines, "\n" if lines else "", head, added]))
        else:
            edited = YamlText(self.path, "".join(_exchanged(lines, collection, names, entries)))
        if not edited._has_others(section, _names(entries), self._others(section, names)):
            raise PlanError(
                f"{self.path}: can't write {section or 'sections'} here without touching what else is in the file; "
                "use plain block form, without anchors that span entries, and end the file with a newline"
            )
        return edited

    def refuse(self, section: str | None, name: str, reason: str) -> PlanError:
        """An error that points at an entry."""
        collection = self._collection(section)
        line = next((entry.start + 1 for entry in (collection.entries if collection else ()) if entry.name == name), 1)
        return PlanError(f"{self.path}, line {line}: {reason}")

    def _has_others(self, section: str | None, names: Collection[str], expected: dict[str, Any]) -> bool:
        try:
            return self._others(section, names) == expected
        except PlanError:
            return False

    def _others(self, section: str | None, names: Collection[str]) -> dict[str, Any]:
        if section is None:
            return {name: data for name, data in self.entries().items() if name not in names}
        others = {name: data for name, data in self.entries(section).items() if name not in names}
        return {**self.entries(), section: others}

    def _collection(self, section: str | None) -> _Collection | None:
        """None if the section, or the whole document, is absent."""
        root = self._compose()
        if root is None:
            return None
        if section is None:
            return self._block(root, self.text.count("\n"))
        for key, value in root.value:
            if key.value == section:
                return self._block(value, key.start_mark.line + 1)
        return None

    def _compose(self) -> yaml.Node | None:
        try:
            root = yaml.compose(self.text, Loader=yaml.CSafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            raise PlanError(f"{self.path}, line {line}: not YAML: {error.problem}") from None
        except yaml.reader.ReaderError as error:
            line = self.text.encode()[: error.position].count(b"\n") + 1
            raise PlanError(f"{self.path}, line {line}: not YAML: {error.reason}") from None
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise PlanError(f"{self.path}, line {root.start_mark.line + 1}: must be a mapping, `name: …`")
        return root

    def _block(self, node: yaml.Node, first_line: int) -> _Collection:
        if isinstance(node, yaml.ScalarNode) and node.value == "":
            return _Collection([], "  ", first_line)
        if not isinstance(node, yaml.CollectionNode) or node.flow_style:
            raise PlanError(
                f"{self.path}, line {node.start_mark.line + 1}: write this in block form, one entry a line, "
                "so entries can be added"
            )
        lines = self.text.splitlines()
        heads = [(child[0], child[1]) if isinstance(child, tuple) else (child, child) for child in node.value]
        starts = [key.start_mark.line for key, _ in heads]
        entries: list[_Entry] = []
        for (key, value), start, following in zip(heads, starts, [*starts[1:], node.end_mark.line], strict=True):
            name = _name(key)
            if isinstance(node, yaml.MappingNode) and name in {entry.name for entry in entries}:
                raise PlanError(f"{self.path}, line {start + 1}: {name!r} is here for the second time")
            entries.append(_Entry(name, value, start, _end(lines, start, following)))
        return _Collection(entries, lines[starts[0]][: node.start_mark.column], first_line)


def _exchanged(
    lines: list[str], collection: _Collection, names: Collection[str], entries: Mapping[str, Any] | list
) -> Iterator[str]:
    old = [entry for entry in collection.entries if entry.name in names]
    dropped = {index for entry in old for index in range(entry.start, entry.end)}
    for before, after in pairwise(old):
        gap = range(before.end, after.start)
        if all(not lines[index].strip() for index in gap):
            dropped.update(gap)
    place = old[0].start if old else collection.first_line
    rest = [line for index, line in enumerate(lines[place:], place) if index not in dropped]
    if old and not entries and rest and not rest[0].strip() and (place == 0 or not lines[place - 1].strip()):
        # The blank lines around what is gone become one.
        rest = rest[1:]
    separate = not old and isinstance(entries, Mapping)
    yield from lines[:place]
    if separate and place == len(lines):
        yield "\n"
    yield _blocks(entries, collection.indent)
    if separate and rest and rest[0].strip():
        yield "\n"
    yield from rest


def _blocks(entries: Mapping[str, Any] | list, indent: str) -> str:
    if isinstance(entries, Mapping):
        text = "\n".join(dump({name: entry}) for name, entry in entries.items())
    else:
        text = dump(entries) if entries else ""
    return textwrap.indent(text, indent)


def _names(entries: Mapping[str, Any] | list) -> list[str]:
    return [next(iter(entry)) if isinstance(entry, Mapping) else entry for entry in entries]


def _name(node: yaml.Node) -> str:
    while not isinstance(node, yaml.ScalarNode):
        if not node.value:
            return ""
        node = node.value[0][0] if isinstance(node, yaml.MappingNode) else node.value[0]
    return node.value


def _end(lines: list[str], start: int, following: int) -> int:
    """The line after an entry's last: comments and blank lines before the next entry are not the entry's."""
    end = following
    while end > start + 1 and lines[end - 1].lstrip()[:1] in ("", "#"):
        end -= 1
    return end


def _plain(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {_name(key): _plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    return node.value
