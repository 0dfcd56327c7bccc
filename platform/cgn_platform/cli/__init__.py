"""The command line: `cgn VERB`. Each module holds a group of commands; heavy imports happen within a command.

Public: `main` as the console script, and `commands.app`.
"""

import signal
import sys

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes after a signal."""


def main() -> None:
    """The console script. All else is imported here, so that Ctrl-C is one line from the beginning."""
    code: str | int | None = INTERRUPTED
    try:
        from cgn_platform.cli.commands import run

        run()
    except KeyboardInterrupt:
        pass
    except SystemExit as end:  # typer turns Ctrl-C into an exit code
        code = end.code
    else:
        return
    if code in (INTERRUPTED, TERMINATED):
        from cgn_platform.cli.boundary import interruption

        line = interruption(sys.argv[1:], terminated=code == TERMINATED)
        sys.stderr.write(f"\n{line}\n")  # a terminal shows ^C before it
    sys.exit(code)
