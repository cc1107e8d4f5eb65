"""How far a student is from its teacher: in what it predicts, and in how it comes to that."""

import attrs

from llmrecipe.recipe.kinds import Divergence
from llmrecipe.recipe.schema import Word, define
from llmrecipe.recipe.validators import between, greater_than

__all__ = [
    "ForwardKL",
    "HiddenStates",
    "JensenShannon",
    "ReverseKL",
    "Stored",
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


@define("hidden_states")
class HiddenStates(Word):
    """What the student's layers hand on is compared as well with what its teacher's do (Jiao et al. 2020, TinyBERT;
    Muralidharan et al. 2024, Minitron).

    The square of their difference over the square of the teacher's, token by token, in the mean over layers and over
    the tokens that are predicted: 0 where they are equal, 1 where the student hands on nothing, whatever the network.
    Of S layers of the student and T of its teacher, as many are compared as the fewer have, n: for each j from 1 to n,
    layer j S / n of the one with layer j T / n of the other, rounded, and so the last with the last. Where widths
    differ, the student's states go through a matrix, one for all layers, that is drawn from the seed, learns with the
    student, and is no part of what is saved.
    """

    weight: float = attrs.field(default=1.0, validator=greater_than(0, 1e9))
    """What this is multiplied by before it is added to the loss of the predictions."""


@define("stored")
class Stored(Word):
    """The teacher's predictions are computed once, for all students of a run, by a stage of their own.

    Of each place the likeliest tokens are kept, in float32, and how likely all others are together, which the student
    is compared by as well, as by one token more. What that loses makes a divergence smaller, never larger; with as many
    tokens as the vocabulary has it loses nothing.
    """

    top_k: int = attrs.field(default=64, validator=between(1, 10**7))
    """Tokens that are kept of each place, 8 bytes each, and 4 for the rest; at most the vocabulary."""
