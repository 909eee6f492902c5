"""``python -m ntmpatch``."""

from __future__ import annotations

import os
import sys

# -m puts the working directory first on the path. It belongs to the user's program, whose
# click.py or random.py is not to be taken for a library that the command line needs.
if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from ntmpatch.cli import main

if __name__ == "__main__":
    main()
