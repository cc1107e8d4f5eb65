"""`python -m llmrecipe.gpu_check`: asks everything, one part after the other."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llmrecipe.gpu_check import report
from llmrecipe.gpu_check.running import PARTS, carry_out


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the parts, write the report after each, and show it; the exit status is 0 if all have passed."""
    options = _parser().parse_args(arguments)
    device = "cpu" if options.dry_run else "cuda"
    if device == "cuda" and not _sees_a_gpu():
        print("PyTorch sees no GPU here; `--dry-run` asks the same in small on the CPU", file=sys.stderr)
        return 1
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [part for part in PARTS if part.name in options.part] or PARTS
    findings = []
    for number, part in enumerate(chosen, 1):
        print(f"{number} of {len(chosen)}: {part.title} ({part.name})", file=sys.stderr, flush=True)
        findings.append(carry_out(part, folder, device))
        file = report.write(findings, folder, device)
    report.show(findings)
    print(f"all of it is in {file}, and what was said meanwhile in the logs beside")
    return 0 if report.passes(findings) else 1


def _sees_a_gpu() -> bool:
    # Only where it is asked for: it takes seconds.
    import torch

    return torch.cuda.is_available()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llmrecipe.gpu_check", description="Whether llmrecipe works on this GPU, and how fast."
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("gpu-check"), help="where report and logs go (default: %(default)s)"
    )
    parser.add_argument(
        "--part",
        action="append",
        default=[],
        choices=[part.name for part in PARTS],
        help="only this one; can be given again (default: all)",
    )
    parser.add_argument("--dry-run", action="store_true", help="ask all of it in small on the CPU")
    return parser


if __name__ == "__main__":
    sys.exit(main())
