"""Measures of the user's own."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal, Protocol

import attrs

from llmrecipe.recipe.kinds import Model
from llmrecipe.recipe.measure import SCORES, Measure
from llmrecipe.recipe.schema import kind
from llmrecipe.recipe.validators import between


class MeasuredModel(Protocol):
    """A model as a `CustomMeasure` sees it."""

    @property
    def transformers_model(self) -> Any:
        """The `transformers.PreTrainedModel`, on `device` and ready for inference."""

    @property
    def tokenizer(self) -> Any:
        """Its `transformers.PreTrainedTokenizerBase`."""

    @property
    def device(self) -> Any:
        """The `torch.device` that it is on."""

    @property
    def sequence_length(self) -> int:
        """Tokens that it read at once in training."""

    def sequences(self, limit: int) -> Iterator[Any]:
        """At most `limit` held-out sequences, NumPy `int64[sequence_length]` each.

        They follow each other from the start of the held-out split; of a mixture, each corpus gives its share.
        """

    def texts(self, limit: int) -> Iterator[str]:
        """At most `limit` held-out documents, decoded from their tokens; of a mixture, each corpus gives its share."""


@kind
class CustomMeasure(Measure):
    """A measure of your own: derive from it in a module next to the recipes, and define `measure`."""

    def is_of(self, model: Model) -> bool:
        """Whether it is taken of a model at all; what that has been taught is no reason not to."""
        return not self.reads_parent or model.compares_by_layer

    revision: int = attrs.field(default=1, validator=between(1, 10**9))
    """Raise it when the code of `measure` gives other numbers: the code itself is not part of what is compared."""

    @abstractmethod
    def measure(self, model: MeasuredModel) -> dict[str, float]:
        """The numbers by name, `{"entropy": 2.1}`; all must be finite.

        With `reads_text = False` it is planned without held-out text, and the model has none to give.
        """


@kind
class CustomScores(Measure):
    """A measure of your own that scores documents, so that `gate.Recovery` can say how sure it is of their means.

    Derive from it in a module next to the recipes, say in `better` what the scores are, and define `scores`.
    """

    files: ClassVar[tuple[str, ...]] = (SCORES,)

    better: ClassVar[Mapping[str, Literal["higher", "lower"]]] = {}
    """Which scores are better, by the name of each: `{"accuracy": "higher"}`."""

    def is_of(self, model: Model) -> bool:
        """Whether it is taken of a model at all; what that has been taught is no reason not to."""
        return not self.reads_parent or model.compares_by_layer

    revision: int = attrs.field(default=1, validator=between(1, 10**9))
    """Raise it when the code of `scores` gives other numbers: the code itself is not part of what is compared."""

    @abstractmethod
    def scores(self, model: MeasuredModel) -> Iterable[Mapping[str, float]]:
        """The scores of each document in turn, `{"accuracy": 0.5}`: finite, and not less than 0.

        Documents are whatever is scored by itself, also questions of a test. Those of every model must be the same, in
        the same order, since models are compared document by document. The report shows the means.
        """
