"""Look at, check, copy and mend the files of a node that does not run: `walle segments`.

.venv/bin/python tools/segments.py inspect walle-data/n1
"""

from __future__ import annotations

import sys

from walle.cli import run

if __name__ == "__main__":
    sys.exit(run(["segments", *sys.argv[1:]]))
