"""`python -m launch ...` is the command `videomae ...`, where the console script is not on the path."""

from __future__ import annotations

import sys

from launch.cli import main

if __name__ == "__main__":
    sys.exit(main())
