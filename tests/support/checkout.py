"""Where this checkout lies, and the PYTHONPATH with which a child process sees its code and the tests' own modules."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHONPATH = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "support")))
