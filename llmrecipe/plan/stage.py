"""One stage of a pipeline, as the planner sees it."""

import attrs

from llmrecipe import layout
from llmrecipe.errors import PlanError, suggestion
from llmrecipe.recipe.schema import Word
from llmrecipe.sections import Section


@attrs.frozen(kw_only=True)
class Plot:
    """Curves drawn together over the steps of a run."""

    title: str
    """What they show: `learning rate`."""

    curves: dict[str, str]
    """Column by CSV file; every file also has a column `step`, and no blank values: a plot would show them as 0."""


@attrs.frozen(kw_only=True)
class Stage:
    """A kind of work with its section, what it reads and what it leaves."""

    owner: str
    """The name of the value that it belongs to: a text, a tokenizer, a model, a recipe."""

    section: Section
    """Exactly what changes its output."""

    inputs: dict[str, str]
    """Paths by role: the artifacts and files that it reads."""

    facts: tuple[Word, ...] = ()
    """Words that the cards of what it reads and leaves may hold: it needs the modules that define them, too."""

    label: str = attrs.field()
    """What it is called after its owner; its kind, unless there are several of a kind."""

    outs: tuple[str, ...] = ()
    """Artifacts and files in its folder."""

    metrics: tuple[str, ...] = ()
    """JSON files of numbers in its folder."""

    pictures: tuple[str, ...] = ()
    """Files in its folder that show something by themselves, among the plots."""

    plots: tuple[Plot, ...] = ()
    """What is drawn of it."""

    ends_recipe: bool = False
    """Whether it depends on all others of the recipe that is its owner."""

    @label.default
    def _kind(self) -> str:
        return self.section.tag

    @property
    def kind(self) -> str:
        """The kind of work: `train`."""
        return self.section.tag

    @property
    def name(self) -> str:
        """Unique in the pipeline, and the name of its section of the parameters."""
        return f"{self.owner}-{self.label}"

    @property
    def output(self) -> str:
        """Its folder."""
        return layout.folder(self.owner, self.label)

    @property
    def products(self) -> tuple[str, ...]:
        """Paths of all that DVC keeps of it."""
        return tuple(f"{self.output}/{product}" for product in self.outs + self.metrics + self.pictures)

    def product(self, name: str) -> str:
        """The path of an artifact or a file that it leaves.

        Raises:
            PlanError: it leaves no such thing.
        """
        if name not in self.outs + self.metrics:
            raise PlanError(f"{self.name}: leaves no {name!r}{suggestion(name, self.outs + self.metrics)}")
        return f"{self.output}/{name}"
