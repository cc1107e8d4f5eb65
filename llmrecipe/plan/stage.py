"""One stage of a pipeline, as the planner sees it."""

import attrs

from llmrecipe.sections import Section


@attrs.frozen(kw_only=True)
class Stage:
    """A kind of work with its section, what it reads and what it leaves."""

    name: str
    """`{owner}-{kind}`, unique in the pipeline and the name of its section of `params.yaml`."""

    kind: str
    """The kind of work: `pretrain`."""

    owner: str
    """The recipe or the corpus that it belongs to; also the key of its runtime choices."""

    section: Section
    """Exactly what changes its output."""

    inputs: dict[str, str]
    """Paths by role: the artifacts and files that it reads."""

    output: str
    """Its folder, `artifacts/{owner}/{kind}`."""

    outs: tuple[str, ...]
    """Artifacts in its folder."""

    metrics: tuple[str, ...] = ()
    """JSON files of numbers in its folder."""

    plots: tuple[str, ...] = ()
    """CSV files of curves in its folder."""
