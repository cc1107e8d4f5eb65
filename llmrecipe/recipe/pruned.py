"""Models of which a part is left out."""

from llmrecipe.recipe.kinds import Pruning
from llmrecipe.recipe.model import Calibrated
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.schema import define


@define("pruned")
class Pruned(Calibrated):
    """A model without the part of another one that matters least; its embeddings keep a row for every token."""

    method: Pruning
    """What is left out, and how that is chosen."""

    @property
    def suffix(self) -> str:
        """What is added to its parent's name for its own: `sparse50`."""
        return self.method.suffix

    @property
    def network(self) -> Network:
        """Its shape: what is left of its parent's."""
        return self.method.pruned(self.model.network)

    @property
    def reads_text(self) -> bool:
        """Whether it needs a text."""
        return self.method.reads_text

    @property
    def is_sparse(self) -> bool:
        """Whether some of its weights were made zero, and have to stay so."""
        return self.method.is_sparse or self.model.is_sparse
