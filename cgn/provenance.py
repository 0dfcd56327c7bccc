"""Which code a result came from, also where it runs from a copy without version control."""

import hashlib
import subprocess
from functools import cache
from pathlib import Path


@cache
def code_fingerprint() -> str:
    """Sixteen hexadecimal digits over every source file of `cgn`: equal code gives equal ones."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def code_version() -> str:
    """The git commit of `cgn`, "-dirty" where files differ from it; "unknown" in an uploaded copy."""
    folder = Path(__file__).parent

    def git(*command: str) -> str:
        asked = subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True, check=True)
        return asked.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--", ".") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
