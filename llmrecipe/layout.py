"""Where stages leave what they make: `artifacts/OWNER/LABEL/`, next to it what was measured of the very run."""

from pathlib import Path, PurePosixPath

ARTIFACTS = "artifacts"


def folder(owner: str, label: str) -> str:
    """The output folder of the stage `OWNER-LABEL`, relative to the project."""
    return f"{ARTIFACTS}/{owner}/{label}"


def owner_of(output: Path | PurePosixPath) -> str:
    """The value that the stage with this output folder belongs to."""
    return output.parent.name


def beside(output: Path, suffix: str) -> Path:
    """A file of what was measured of a run, which is no output: `artifacts/small-code/train.run.json`."""
    return output.with_name(f"{output.name}.{suffix}")
