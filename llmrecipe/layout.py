"""Where stages find their parameters and leave what they make: `params/OWNER.yaml` and `artifacts/OWNER/LABEL/`."""

from pathlib import Path, PurePosixPath

ARTIFACTS = "artifacts"

PARAMS = "params"
"""DVC reads a file of parameters again for every stage that names it: one for all takes the square of their number."""

SCRATCH = Path(".llmrecipe")
"""State that outlives an interrupted stage; neither git nor DVC looks at it."""

TIMES = SCRATCH / "times"
"""What was measured of runs, by stage and outputs."""

COMPILED = SCRATCH / "compiled"
"""What torch's compiler has made of layers."""

MACHINES_FILE = Path("params.yaml")
"""The file of the `machine` entry, which no stage tracks."""


def folder(owner: str, label: str) -> str:
    """The output folder of the stage `OWNER-LABEL`, relative to the project."""
    return f"{ARTIFACTS}/{owner}/{label}"


def params_file(owner: str) -> str:
    """The file of the sections of a value's stages, relative to the project."""
    return f"{PARAMS}/{owner}.yaml"


def stage_of(path: str) -> str:
    """The stage `OWNER-LABEL` in whose folder a path is, relative to the project; "" if that is nobody's."""
    parts = path.split("/")
    return "-".join(parts[1:3]) if parts[0] == ARTIFACTS and len(parts) > 2 else ""


def owner_of(output: Path | PurePosixPath) -> str:
    """The value that the stage with this output folder belongs to."""
    return output.parent.name
