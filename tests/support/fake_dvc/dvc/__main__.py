import json
import os
import shutil
import sys
import time
from pathlib import Path

Path("called.json").write_text(json.dumps({"arguments": sys.argv[1:], "stages": shutil.which("llmrecipe")}))
if os.environ["FAKE_DVC"] == "fail":
    sys.exit("ERROR: failed to reproduce 'small-code-train'")
if os.environ["FAKE_DVC"] == "sleep":
    Path("pid").write_text(str(os.getpid()))
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit("ERROR: interrupted by the user")
