"""The benchmarks are programs beside the package: their modules are found as they find them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
