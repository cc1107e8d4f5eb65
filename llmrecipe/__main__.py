"""`python -m llmrecipe`: the same as the command `llmrecipe`."""

import sys

from llmrecipe.cli.main import main

sys.exit(main())
