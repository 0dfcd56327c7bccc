"""The boundary of the command line: what escapes a command becomes one line with a remedy.

The traceback of an unexpected error goes to a file that the line names.
"""

import codecs
import os
import shlex
import tempfile
import traceback
from typing import TextIO

from cgn.errors import CGNError, one_line
from cgn_platform.remedies import is_of_database, remedy_of

PLAIN = {"×": "x", "✓": "v", "–": "-", "—": "-", "−": "-", "→": ">", "…": ".", "±": "~", "•": "*"}
"""Characters of our output, and what an ASCII terminal shows for each: columns stay aligned."""
INTERRUPTED = {
    "sweep": "finished trials and folds are kept, and the same command resumes",
    "table": "finished folds are kept, and the same command resumes",
    "train": "finished folds and checkpoints are kept, and the same command resumes",
    "predict": "finished parts of a table are kept, and the same command resumes",
    "promote": "no version exists twice, and the same command finishes",
    "track": "nothing is sent twice, and the same command continues",
    "up": "'cgn down' ends what was started, and the same command starts it again",
    "down": "the same command ends the rest",
}
"""What an interrupted command leaves. All others write their result whole or not at all."""


def printable(*streams: TextIO) -> None:
    """Replace characters that a stream cannot encode, so that printing cannot fail."""
    codecs.register_error("cgn.plain", _plain)
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="cgn.plain")


def line_of(error: Exception) -> str:
    """The line that is printed: for an unexpected error with a remedy and the file of its traceback."""
    if isinstance(error, CGNError):
        return one_line(error)
    from cgn_platform.store.databases import hidden

    path = _write_traceback(error)
    remedy = remedy_of(error) or "this is an error of cgn: report it with the traceback"
    where = f"traceback in {path}" if path else "--debug shows the traceback"
    return f"{hidden(_message(error))}: {remedy} ({where})"


def interruption(arguments: list[str], *, terminated: bool = False) -> str:
    """The line after Ctrl-C or SIGTERM: what is kept, and how to go on."""
    verb = next((word for word in arguments if not word.startswith("-")), "")
    state = INTERRUPTED.get(verb, "nothing is half-written, and the same command starts again")
    event = "terminated" if terminated else "interrupted"
    return f"{event}: {state}: {shlex.join(['cgn', *arguments])}"


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in text), error.end


def _message(error: Exception) -> str:
    text = one_line(error)[:500]
    if is_of_database(error):
        return f"a database cannot be used ({text})"
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else text
    return text if text == type(error).__name__ else f"{type(error).__name__}: {text}"


def _write_traceback(error: Exception) -> str | None:
    """A file that only its owner can read; None if it cannot be written."""
    try:
        descriptor, path = tempfile.mkstemp(prefix="cgn-error-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return None
    return path
