"""What a model is, from its files: its network, what it predicts, and what is wrong with it."""

from pathlib import Path

import attrs

from llmrecipe.pretrained.contents import Contents
from llmrecipe.recipe.kinds import Objective
from llmrecipe.recipe.model import PretrainedModel
from llmrecipe.recipe.networks.network import Network


@attrs.frozen
class Reading:
    """What the files of a model say."""

    contents: Contents
    """The files."""

    network: Network | None
    """Its shape; None if that can't be read."""

    objective: Objective | None
    """What it predicts; the one that is given, if one is."""

    rows: int
    """Rows of its token embedding."""

    missing_head: bool
    """Whether the weights lack the output head."""

    notes: tuple[str, ...]
    """What a reader of its numbers should know: what is dropped when it is taken over, or drawn."""

    faults: tuple[tuple[str, str], ...]
    """What is wrong: the field of the model with the reason."""


def read(model: PretrainedModel, place: Path) -> Reading:
    """What the files at `place`, where `locate` found the model, say of it."""
    raise NotImplementedError
