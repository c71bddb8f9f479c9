"""The command `popgrad`."""

from __future__ import annotations

import signal
import sys

from . import _native


def main() -> None:
    """Runs the command line of this process and exits with its code."""
    # The engine has its own handlers; what it does not handle ends the process, as from a shell.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.stdout.flush()
    sys.exit(_native.run_words(["popgrad", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
