"""`robustq`, and `python -m robustq.cli`."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with its status; an interruption while modules load leaves no traceback."""
    try:
        from .main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
