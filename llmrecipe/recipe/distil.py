"""How far a student's predictions are from its teacher's."""

from llmrecipe.recipe.kinds import Divergence
from llmrecipe.recipe.schema import define

__all__ = [
    "ForwardKL",
    "JensenShannon",
    "ReverseKL",
]


@define("forward_kl")
class ForwardKL(Divergence):
    """KL(teacher ‖ student): the student gives all that the teacher finds likely its share (Hinton et al. 2015)."""


@define("reverse_kl")
class ReverseKL(Divergence):
    """KL(student ‖ teacher): the student may leave out what the teacher finds likely, and keeps from what it finds
    unlikely; for students much smaller than their teacher (Gu et al. 2024, MiniLLM)."""


@define("jensen_shannon")
class JensenShannon(Divergence):
    """The mean of the divergences of both from their mean, between the other two and at most log 2 (Lin 1991)."""
