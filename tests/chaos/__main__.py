"""`python -m tests.chaos`: see `make chaos`."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Imported here: every forked worker runs the head of this file again.
    from tests.chaos.driver import main

    code = main()
    sys.stdout.flush()
    # Interpreter exits after a client crashed now and then (architecture §10).
    os._exit(code)
