"""Patterns of the names that linear layers have in transformers."""

import re
from collections.abc import Collection


def matches(pattern: str, name: str) -> bool:
    """Whether a name ends in a pattern, after a dot, where `*` stands for anything: `v_proj`, `layers.0.*`."""
    ends = ".*".join(map(re.escape, pattern.split("*")))
    return re.fullmatch(rf"(.*\.)?{ends}", name) is not None


def known(names: Collection[str]) -> str:
    """Which names there are, in a few words."""
    ends = dict.fromkeys(name.rpartition(".")[2] for name in names)
    return f"the first is {next(iter(names))}, and names end in {', '.join(ends)}"
