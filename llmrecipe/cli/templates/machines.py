"""Machines that stages run on: `llmrecipe plan first --machine here`."""

from llmrecipe import Machine


def here() -> Machine:
    """This machine, as it is."""
    return Machine()
