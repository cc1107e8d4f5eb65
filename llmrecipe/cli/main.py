"""`llmrecipe`: the commands, and how their errors are shown."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from llmrecipe.cli import certify, check, clean, compare, data, help, init, plan, report, run, stage
from llmrecipe.cli.render import show_error
from llmrecipe.errors import LLMRecipeError, refusal
from llmrecipe.foreign import foreign

COMMANDS = (init, check, plan, run, report, compare, data, certify, clean, help, stage)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name (those of the process, if None); the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status = options.run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader of a pipe, `… | head`, has enough; nothing more can be said to it, at the exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except LLMRecipeError as error:
        show_error(error)
        return 1
    except KeyboardInterrupt:
        print("; ".join(filter(None, ["interrupted", options.goes_on])), file=sys.stderr)
        return 130
    except Exception as error:
        reason = refusal(error)
        if reason is None:
            raise
        print(f"error: {foreign(reason)}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llmrecipe", description="Train a language model as code.")
    parser.set_defaults(goes_on="")
    parser.add_argument("--version", action="version", version=f"llmrecipe {version('llmrecipe')}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser
