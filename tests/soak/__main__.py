"""``python -m tests.soak``: see `soak.command`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it
    from soak.command import main

    sys.exit(main(sys.argv[1:]))
