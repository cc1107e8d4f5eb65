"""One stage of a pipeline, as the planner sees it."""

import attrs

from llmrecipe.sections import Section


@attrs.frozen(kw_only=True)
class Plot:
    """Curves drawn together over the steps of a training."""

    title: str
    """What they show: `learning rate`."""

    curves: dict[str, str]
    """Column by CSV file; every file also has a column `step`, and no blank values: a plot would show them as 0."""


@attrs.frozen(kw_only=True)
class Stage:
    """A kind of work with its section, what it reads and what it leaves."""

    kind: str
    """The kind of work: `pretrain`."""

    owner: str
    """The recipe or the corpus that it belongs to; also the key of its runtime choices."""

    section: Section
    """Exactly what changes its output."""

    inputs: dict[str, str]
    """Paths by role: the artifacts and files that it reads."""

    outs: tuple[str, ...] = ()
    """Artifacts and files in its folder."""

    metrics: tuple[str, ...] = ()
    """JSON files of numbers in its folder."""

    plots: tuple[Plot, ...] = ()
    """What is drawn of it."""

    @property
    def name(self) -> str:
        """Unique in the pipeline, and the name of its section of `params.yaml`."""
        return f"{self.owner}-{self.kind}"

    @property
    def output(self) -> str:
        """Its folder."""
        return f"artifacts/{self.owner}/{self.kind}"

    @property
    def products(self) -> tuple[str, ...]:
        """Paths of all that DVC keeps of it."""
        return tuple(f"{self.output}/{product}" for product in self.outs + self.metrics)

    @property
    def command(self) -> list[str]:
        """The command line that does its work, in the project's folder."""
        command = ["llmrecipe", "stage", self.kind, "--name", self.name, "--runtime", self.owner]
        for role, path in self.inputs.items():
            command += ["--input", f"{role}={path}"]
        return [*command, "--output", self.output]
