"""The benchmarks are programs beside the package: their modules are found as they find them."""

import sys
from pathlib import Path

# Behind tests/support, which has modules of the same names as programs here.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
