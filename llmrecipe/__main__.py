"""`python -m llmrecipe`."""

import sys

from llmrecipe.cli.main import main

sys.exit(main())
