"""Scripts that print the project's figures, each run as a module: `python -m benchmarks.engine.batches`.

docs/benchmarks.md lists them all. They measure with the tests' tasks, verbs and servers, so tests/ is put on the path
here, once for all of them; its package is called `support`.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))
