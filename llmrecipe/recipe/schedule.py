"""How the learning rate moves over a run."""

from llmrecipe.recipe.kinds import Schedule
from llmrecipe.recipe.quantity import Fraction, Phase
from llmrecipe.recipe.schema import define

__all__ = [
    "Constant",
    "Cosine",
    "InverseSquareRoot",
    "Linear",
    "WarmupStableDecay",
]


@define("constant")
class Constant(Schedule):
    """Warm up linearly, then stay."""


@define("linear")
class Linear(Schedule):
    """Warm up linearly, then fall in a straight line to the last step."""

    final: Fraction = Fraction(0.1)
    """Learning rate at the last step, as a share of the peak."""


@define("cosine")
class Cosine(Schedule):
    """Warm up linearly, then fall along half a cosine to the last step (Loshchilov and Hutter 2017)."""

    final: Fraction = Fraction(0.1)
    """Learning rate at the last step, as a share of the peak."""


@define("inverse_square_root")
class InverseSquareRoot(Schedule):
    """Warm up linearly, then fall with the square root of the step (Vaswani et al. 2017).

    With steps counted from 1, step s after a warm-up of w steps learns at peak × √(w / s): at the peak in the
    warm-up's last step, at half of it in step 4w. Without a warm-up w is 1, so the first step is at the peak.
    """

    warmup: Phase = Fraction(0.01)
    """Length of the warm-up, in steps or as a share of the run; a longer one also makes the fall slower."""


@define("warmup_stable_decay")
class WarmupStableDecay(Schedule):
    """Warm up linearly, stay, then fall in a straight line to the last step (Hu et al. 2024, MiniCPM)."""

    decay: Phase = Fraction(0.2)
    """Length of the fall at the end, in steps or as a share of the run."""

    final: Fraction = Fraction(0.0)
    """Learning rate at the last step, as a share of the peak."""
