"""One part of the check, in a process of its own: `python -m llmrecipe.gpu_check.one_part NAME FOLDER FILE SCALE`."""

import importlib
import json
import logging
import sys
from pathlib import Path

import attrs

from llmrecipe.errors import LLMRecipeError
from llmrecipe.gpu_check import scale


def main() -> int:
    """Ask what the part asks, at the scale `cuda` or `cpu`, in the folder, and write what it finds to the file."""
    name, folder, file, device = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    run = importlib.import_module(f"llmrecipe.gpu_check.parts.{name}").run
    try:
        outcome = run(scale.ON_GPU if device == "cuda" else scale.DRY, Path(folder))
    except LLMRecipeError as error:
        print(error, file=sys.stderr)
        return 1
    # In its order, which is that of the tables.
    Path(file).write_text(json.dumps(attrs.asdict(outcome) | {"status": outcome.status}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
