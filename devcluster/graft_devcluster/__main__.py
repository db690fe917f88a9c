"""Entry point of ``python3 -m graft_devcluster``."""

import sys

from graft_devcluster.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
