"""What a network's weights are called in the transformers format, and their shapes."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import attrs

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of weights, rows first, by transformers' names."""


@attrs.frozen(kw_only=True)
class Weights:
    """The weights of a network, as files in the transformers format hold them."""

    embedding: str
    """The token embedding's name."""

    body: Shapes
    """All but the output head's."""

    head: Shapes
    """Those that the output head has of its own."""

    tied: Mapping[str, str]
    """Names under which files may hold a weight once more, each with the name that it has here."""

    prefix: str
    """What names of the body begin with, except in files of a model without a head."""

    dropped: Mapping[str, str] = attrs.field(factory=dict)
    """Patterns of names of weights that published models have and the network doesn't, with what these are."""

    constants: tuple[str, ...] = ()
    """Patterns of names of what older files hold and a network knows without them."""

    def own_name(self, name: str) -> str:
        """The name here of a weight that a file has: with the prefix, and with today's names of norms."""
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        with_prefix = f"{self.prefix}{name}"
        is_of_body = with_prefix in self.body or self.is_constant(with_prefix) or self.what_is_dropped(with_prefix)
        return with_prefix if is_of_body else name

    def what_is_dropped(self, name: str) -> str | None:
        """What a weight is that the network hasn't; None for one that isn't known."""
        return next((what for pattern, what in self.dropped.items() if fnmatchcase(name, pattern)), None)

    def is_constant(self, name: str) -> bool:
        """Whether it is no weight, but known without the file."""
        return any(fnmatchcase(name, pattern) for pattern in self.constants)
