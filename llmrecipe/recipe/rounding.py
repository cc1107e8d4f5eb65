"""How numbers of few bits are chosen for weights."""

from typing import ClassVar, Literal

import attrs

from llmrecipe.recipe.kinds import Rounding
from llmrecipe.recipe.schema import define
from llmrecipe.recipe.validators import between, greater_than

Observer = Literal["minmax", "mse", "imatrix_mse"]
"""What the scale of a group of weights is chosen by.

`minmax` takes the largest weight; `mse` whatever rounds the group with the least error, which may clip it;
`imatrix_mse` weighs each error by the mean square of what the weight is multiplied with on the calibration text, as
llama.cpp's importance matrix does.
"""


@define("gptq")
class GPTQ(Rounding):
    """Round weights one column at a time, correcting the rest with second-order information (Frantar et al. 2023)."""

    dampening_frac: float = attrs.field(default=0.01, validator=greater_than(0, 1))
    """Share of the Hessian's mean diagonal added to it for stability."""

    activation_order: bool = True
    """Whether columns with the largest inputs are rounded first, when most is left to correct; scales don't move."""


@define("awq")
class AWQ(Rounding):
    """Enlarge the columns with large inputs, and make what they are multiplied with smaller, then round to nearest.

    The model computes the same before it is rounded; how far is searched, to change the least of what a block puts out
    (Lin et al. 2024, "AWQ").
    """

    moves_difficulty: ClassVar[bool] = True

    grid_points: int = attrs.field(default=20, validator=between(3, 1000))
    """How many strengths are tried; for each the calibration text passes through the whole network about once."""


@define("round_to_nearest")
class RoundToNearest(Rounding):
    """Round every weight by itself; fast, and less exact below 8 bits."""


@define("auto_round")
class AutoRound(Rounding):
    """Learn of every weight whether it is rounded up or down, and of every group how far it is clipped.

    What is made small is the error of what a block puts out, by steps of the sign of its gradient (Cheng et al. 2024,
    "Optimize Weight Rounding via Signed Gradient Descent"). Scales are found meanwhile, so a scheme's `observer` has no
    say.
    """

    learns: ClassVar[bool] = True

    iterations: int = attrs.field(default=200, validator=between(1, 100_000))
    """Steps for each block, each with 8 sequences of the calibration text forward and backward."""
