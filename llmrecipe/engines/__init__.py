"""The only importers of the heavy libraries."""

import os
import sys

# Their progress bars are for terminals; in a log each would be a line for every update.
if not sys.stderr.isatty():
    os.environ.setdefault("TQDM_DISABLE", "1")
