"""The commands of README.md and docs/guides/, run in the order in which a reader would type them.

All ```sh blocks of a document are one shell script; ```python NAME blocks are first written to the file NAME.
```sh no-run blocks and blocks in other languages are skipped.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
SECONDS = 240  # per document; the longest takes a quarter of it on a quiet machine
FENCED_BLOCK = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """One fenced block: its info string, the line of its first command, and its text."""

    info: str
    line: int
    text: str


def fenced_blocks(document: Path) -> list[Block]:
    text = document.read_text()
    return [
        Block(match["info"].strip(), text.count("\n", 0, match.start()) + 2, match["text"])
        for match in FENCED_BLOCK.finditer(text)
    ]


def shell_script(document: Path) -> str:
    """All runnable blocks; each announces itself, so that a failure can be found in the document."""
    parts = ["set -euo pipefail"]
    for block in fenced_blocks(document):
        if block.info == "sh":
            parts += [f"echo '--- {document.name}, line {block.line}'", block.text]
    return "\n".join(parts)


RUNNABLE = [path for path in DOCUMENTS if any(block.info == "sh" for block in fenced_blocks(path))]


def with_free_ports(script: str) -> str:
    """The default ports of `cgn up` are replaced, since another one may be up on this machine."""
    for default in ("8265", "5000"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            script = re.sub(rf"\b{default}\b", str(probe.getsockname()[1]), script)
    return script


def environment(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CGN_", "RAY_", "MLFLOW_"))}
    return {
        **kept,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "platform")]),
        "CGN_KEY_FILE": str(folder / "pseudonym.key"),  # never the key of the person who runs the tests
    }


def run_to_the_end(script: str, folder: Path) -> tuple[int | None, str]:
    """Exit code and output of a shell script; None where it ran out of time. Ends all that it started."""
    log = folder / "output.log"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code: int | None = None
        try:
            code = shell.wait(SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
            if code != 0 and "cgn up" in script:  # its servers are in a session of their own
                down = [sys.executable, "-m", "cgn_platform.cli", "down"]
                subprocess.run(down, cwd=folder, env=environment(folder), timeout=60, check=False)
    return code, log.read_text(errors="replace")


def run_document(document: Path) -> tuple[int | None, str]:
    """In a scratch folder with the project's searches. Its path is short: Ray's sockets lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="cgnt-"))
    try:
        shutil.copytree(ROOT / "search_spaces", folder / "search_spaces")
        for block in fenced_blocks(document):
            language, _, name = block.info.partition(" ")
            if language == "python" and name:
                (folder / name).write_text(block.text)
        return run_to_the_end(with_free_ports(shell_script(document)), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[dict[Path, Future[tuple[int | None, str]]]]:
    """The selected documents, two at a time: they mostly wait for servers and workers to start."""
    selected = [
        item.callspec.params["document"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_its_commands_run
    ]
    pool = ThreadPoolExecutor(2)
    yield {document: pool.submit(run_document, document) for document in selected}
    pool.shutdown(cancel_futures=True)


@pytest.mark.integration
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("document", RUNNABLE, ids=lambda path: path.stem)
def test_its_commands_run(document: Path, runs: dict[Path, Future[tuple[int | None, str]]]) -> None:
    code, output = runs[document].result()
    assert code == 0, f"exit code {code}:\n{output[-5000:]}"


def test_each_guide_but_statistics_has_commands_that_run() -> None:
    names = {path.stem for path in DOCUMENTS} - {path.stem for path in RUNNABLE}
    assert names == {"statistics"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_servers_that_a_document_starts_it_ends(document: Path) -> None:
    script = shell_script(document)
    assert len(re.findall(r"^cgn up\b", script, re.M)) == len(re.findall(r"^cgn down\b", script, re.M))
    assert "mlflow models serve" not in script
    assert "mlflow ui" not in script
