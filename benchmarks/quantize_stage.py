"""The quantize stage as a process of its own, verification and sealing measured apart.

usage: python quantize_stage.py MODEL TOKENS SECTION OUTPUT
`SECTION` is the stage's section as JSON. Prints what it took as JSON.
"""

import json
import sys
from pathlib import Path

from spent import Spent

from llmrecipe import Machine, artifacts, codec
from llmrecipe.engines.compression import reloading
from llmrecipe.engines.compression.oneshot import ours
from llmrecipe.engines.models import folders
from llmrecipe.sections import QuantizeSection
from llmrecipe.stages import quantize
from llmrecipe.stages.runner import StageContext


def main() -> None:
    """Run the stage, and print what it took."""
    model, tokens, section, output = sys.argv[1:]
    scratch = Path(output) / "scratch"
    scratch.mkdir(parents=True)
    context = StageContext(
        name="benchmark",
        section=codec.structure(json.loads(section), QuantizeSection, "benchmark"),
        inputs={"model": Path(model), "tokens": Path(tokens)},
        output=Path(output),
        machine=Machine(device="cpu", log_level="warning"),
        scratch=scratch,
    )
    # llmcompressor's import is no part of the work, as by hand.
    ours("modifiers")
    spent = Spent()
    spent.apart("verification", folders, "logits")
    spent.apart("verification", reloading, "logits_in_a_fresh_process")
    spent.apart("sealing", artifacts, "open_artifact")
    spent.apart("sealing", artifacts, "seal")
    with spent:
        quantize.run(context)
    print(json.dumps(spent.found()))


if __name__ == "__main__":
    main()
