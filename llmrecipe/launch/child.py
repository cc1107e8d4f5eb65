"""A program that ends with the process that started it: `python -m llmrecipe.launch.child PARENT MODULE ARGUMENTS…`.

It asks for that before it imports the module, since a parent that dies during an import of seconds leaves an orphan.
"""

import runpy
import signal
import sys

from llmrecipe.launch.process import die_with_parent


def main() -> None:
    """Run the module as `python -m MODULE ARGUMENTS…` does."""
    parent, module, *arguments = sys.argv[1:]
    die_with_parent(int(parent), signal.SIGKILL)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
