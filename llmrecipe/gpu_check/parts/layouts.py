"""Whether two ranks learn what one does, for each way to share the work: over NCCL, or over gloo in a dry run."""

from pathlib import Path

import torch

from llmrecipe.gpu_check.outcome import Outcome
from llmrecipe.gpu_check.scale import Scale
from llmrecipe.gpu_check.training import loss_difference, made_tokens, trained

ALLOWED = 1e-4
"""How far the loss of any step may be from one rank's."""


def run(scale: Scale, folder: Path) -> Outcome:
    """The small model on one rank, and on two of each kind."""
    if scale.device == "cuda" and torch.cuda.device_count() < 2:
        return Outcome(skipped="there is one GPU, and two ranks need one each")
    tokens = made_tokens(folder / "tokens", scale.small)
    alone = trained(scale.small, tokens, folder / "alone", scale.machine)
    rows, failures = [], []
    for degree in scale.layouts:
        found = trained(scale.small, tokens, folder / degree, scale.machine, **{degree: 2})
        difference = loss_difference(found, alone)
        rows.append({"ranks": f"{degree} 2", "largest difference": difference, "allowed": ALLOWED})
        if not difference <= ALLOWED:
            failures.append(f"{degree} 2: a loss differs by {difference:.1e}; {ALLOWED:.0e} is allowed")
    return Outcome(tables={"losses beside those of one rank": rows}, failures=failures)
