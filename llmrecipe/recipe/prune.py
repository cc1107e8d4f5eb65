"""What of a model is left out, and how that is chosen."""

from typing import ClassVar

import attrs

from llmrecipe.recipe.kinds import Pruning
from llmrecipe.recipe.schema import FieldError, Word, define, kind
from llmrecipe.recipe.validators import between, greater_than

__all__ = ["Magnitude", "Pattern", "SparseGPT", "Wanda"]


@define("pattern")
class Pattern(Word):
    """Of every few neighbours in a row, how many are kept: what others call 2:4 is `Pattern(keep=2, of=4)`.

    Both are named because "N:M" isn't clear: some count those that are kept, others, as llmcompressor, those that
    become zero.
    """

    keep: int = attrs.field(validator=between(1, 2**20))
    """Weights of a group that are kept; fewer than `of`."""

    of: int = attrs.field(validator=between(2, 2**20))
    """Neighbours in a row that are a group; must divide the input width of every pruned layer."""

    @property
    def share(self) -> float:
        """Share of the weights that become zero."""
        return 1 - self.keep / self.of


def _proper_share(owner: object, attribute: attrs.Attribute, value: float | Pattern) -> None:
    if isinstance(value, float) and not 0 < value < 1:
        meant = f"; {value:g} % are {value / 100:g}" if 1 < value < 100 else ""
        reason = f"must be more than 0 and less than 1, the share of weights that become zero, got {value!r}{meant}"
        raise FieldError(owner, attribute.name, reason)


@kind
class Sparse(Pruning):
    """Weights of the linear layers become zero, and the model keeps its shape."""

    is_sparse: ClassVar[bool] = True

    sparsity: float | Pattern = attrs.field(validator=_proper_share)
    """Share of the weights of each layer that become zero, or a pattern that each of its rows follows. Those that are
    zero already count."""

    @property
    def share(self) -> float:
        """Share of the weights that become zero."""
        return self.sparsity.share if isinstance(self.sparsity, Pattern) else self.sparsity

    @property
    def suffix(self) -> str:
        """What is added to a model's name for that of the pruned one: `sparse50`, `2of4`."""
        if isinstance(self.sparsity, Pattern):
            return f"{self.sparsity.keep}of{self.sparsity.of}"
        return f"sparse{100 * self.sparsity:g}".replace(".", "p").replace("+", "")


@define("magnitude")
class Magnitude(Sparse):
    """The smallest weights of each row become zero; no text is read. The baseline."""

    reads_text: ClassVar[bool] = False


@define("wanda")
class Wanda(Sparse):
    """Of each row those become zero whose size times that of their input is smallest (Sun et al. 2024)."""


@define("sparse_gpt")
class SparseGPT(Sparse):
    """One column after the other becomes sparse, and the rest makes up for it by second-order information (Frantar and
    Alistarh 2023); the least loss of the three, for the time of GPTQ."""

    dampening_frac: float = attrs.field(default=0.01, validator=greater_than(0, 1))
    """Share of the Hessian's mean diagonal added to it for stability."""
