"""``python -m tests.soak``: see `soak.command`; and with ``stopped`` after it, `soak.stopped`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it
    arguments = sys.argv[1:]
    if arguments[:1] == ["stopped"]:
        from soak import stopped

        stopped.main(arguments[1:])
        sys.exit()
    from soak.command import main

    sys.exit(main(arguments))
