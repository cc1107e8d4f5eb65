"""Where a model lies on this machine."""

from pathlib import Path

from llmrecipe.recipe.model import PretrainedModel


class Missing(ValueError):
    """A model that isn't where it is said to be: a field of it, and the reason in the user's words."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


def locate(model: PretrainedModel, root: Path) -> Path:
    """The folder or the `.gguf` file of a model, in the project at `root`, in a package, or in the Hub's local cache.

    Raises:
        Missing: it isn't there.
    """
    raise NotImplementedError


def download(model: PretrainedModel) -> Path:
    """The folder of a model of the Hub, whole, downloaded into its local cache where it isn't there yet.

    Raises:
        Missing: it can't be downloaded.
    """
    raise NotImplementedError
