"""``python -m twisted_hangup._worker``: a process that `twisted_hangup.service.workers` starts."""

from __future__ import annotations

import sys

from .service.workers.worker import main

if __name__ == "__main__":
    main(sys.argv[1])
