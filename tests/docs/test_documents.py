"""What the documents name exists: links, anchors, files, verbs, options, fields and make targets."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from cgn.config import Config
from cgn_platform.cli.commands import app
from cgn_platform.space import Prune

ROOT = Path(__file__).parents[2]
SKIPPED = {".venv", "runs", "build", "dist"}
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part in SKIPPED or part.startswith(".") for part in path.relative_to(ROOT).parts)
)
CURRENT = [path for path in DOCUMENTS if path.name != "LOG.md"]  # the log quotes what was true on its day

FENCED_BLOCK = re.compile(r"^```[^\n`]*\n(.*?)^```$", re.M | re.S)
CODE_SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.M)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(document: Path) -> str:
    return FENCED_BLOCK.sub("", document.read_text())


@cache
def anchors(document: Path) -> frozenset[str]:
    """The anchors that GitHub gives to the headings: lower case, no punctuation, hyphens for spaces."""
    titles = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", title).lower() for title in HEADING.findall(prose(document)))
    return frozenset(re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles)


def test_there_are_documents() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/LOG.md"} <= {name_of(path) for path in DOCUMENTS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_and_images_exist(document: Path) -> None:
    for link in LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), f"{link} does not exist"
        assert not anchor or anchor in anchors(path), f"{link}: {name_of(path)} has no such heading"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_readme_leads_to_every_document() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(prose(ROOT / "README.md"))}
    own = {path for path in DOCUMENTS if path.parent == ROOT or "tests" not in path.relative_to(ROOT).parts}
    assert own - linked <= {ROOT / "README.md"}


def test_images_are_small() -> None:
    images = [path for path in (ROOT / "docs" / "images").iterdir() if path.is_file()]
    assert images
    assert all(path.stat().st_size < 300_000 for path in images)


def code_of(document: Path) -> Iterator[str]:
    """Fenced blocks with their continuation lines joined and their comments removed, then code spans."""
    for block in FENCED_BLOCK.findall(document.read_text()):
        joined = block.replace("\\\n", " ")
        yield re.sub(r"(^|\s)#.*$", "", joined, flags=re.M)
    for span in CODE_SPAN.findall(prose(document)):
        yield " ".join(span.split())


def words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a quote that is not closed: not a command line
        return command.split()


def calls(document: Path) -> Iterator[list[str]]:
    """The words of every `cgn ...` in a document, without `cgn` itself."""
    for code in code_of(document):
        for command in re.split(r"\n|&&|\|\|?|;|\$\(|\)| -- ", code):
            line = words(command)
            for program in ("cgn", ".venv/bin/cgn"):
                if program in line:
                    yield line[line.index(program) + 1 :]


CLI: Any = typer.main.get_command(app)
PLACEHOLDERS = {"VERB", "DATASET", "...", "--help"}


def command_of(line: list[str]) -> tuple[Any, list[str]]:
    """The command that a line calls, and the words after its name."""
    command, rest = CLI, line
    while hasattr(command, "get_command") and rest and rest[0] not in PLACEHOLDERS:
        context = typer.Context(command)
        known = command.list_commands(context)
        assert rest[0] in known, f"'cgn {' '.join(line)}': {rest[0]} is none of {', '.join(known)}"
        command, rest = command.get_command(context, rest[0]), rest[1:]
        if not hasattr(command, "get_command"):
            break
    return command, rest


def options_of(command: Any) -> set[str]:
    return {"--help"} | {name for param in command.params for name in (*param.opts, *param.secondary_opts)}


def every_command(command: Any = CLI) -> Iterator[Any]:
    yield command
    if hasattr(command, "get_command"):
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from every_command(command.get_command(context, name))


@pytest.mark.parametrize("document", CURRENT, ids=name_of)
def test_verbs_and_their_options_exist(document: Path) -> None:
    for line in calls(document):
        if not line or line[0] == "...":
            continue
        command, rest = command_of(line)
        for word in rest:
            option = word.partition("=")[0]
            if re.fullmatch(r"--[a-z][a-z-]*", option):
                assert option in options_of(command), f"'cgn {' '.join(line)}' has no option {option}"


@pytest.mark.parametrize("document", CURRENT, ids=name_of)
def test_options_that_stand_alone_exist(document: Path) -> None:
    known = set().union(*(options_of(command) for command in every_command()))
    of_other_programs = {"--num-cpus", "--temp-dir", "--node-ip-address"}  # ray start
    for span in CODE_SPAN.findall(prose(document)):
        option = re.match(r"--[a-z][a-z-]*", span)
        if option and option[0] not in of_other_programs:
            assert option[0] in known, f"no command has the option {option[0]}"


@pytest.mark.parametrize("document", CURRENT, ids=name_of)
def test_fields_that_are_set_exist(document: Path) -> None:
    known = {*Config.model_fields, *Prune.__dataclass_fields__, "field", "FIELD"}
    for code in code_of(document):
        for field in re.findall(r"--set (\w+)=", code):
            assert field in known, f"--set {field}= sets no field of Config or Prune"


@pytest.mark.parametrize("document", CURRENT, ids=name_of)
def test_files_that_are_named_exist(document: Path) -> None:
    folders = "cgn|dashboards|docker|docs|platform|search_spaces|tests"
    path_of = re.compile(rf"(?<![\w/.-])(?:{folders})/[\w/.-]+\.(?:py|md|json|ya?ml|j2|css|txt)\b")
    for code in code_of(document):
        for path in path_of.findall(code):
            assert "NAME" in path or (ROOT / path).exists(), path


@pytest.mark.parametrize("document", CURRENT, ids=name_of)
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for code in code_of(document):
        for target in re.findall(r"(?:^|\n)(?:\w+=\S+ )?make +([a-z]+)", code):
            assert target in targets, f"no make target {target}"


WRITTEN = (  # by the commands of README.md and docs/guides, in a checkout
    "runs/cache", "films/films.csv", "drawn/films.csv", "pairs.png", "seen.png", "figures/fig4.png",
    "distances.json", "predictions/part-0.parquet", "body.json", "rows.tsv", "mine.py",
)  # fmt: skip


def test_what_the_commands_of_the_documents_write_is_ignored_by_git() -> None:
    ignored = set((ROOT / ".gitignore").read_text().split())
    for path in WRITTEN:
        top = path.split("/")[0]
        assert {f"/{top}", f"/{top}/", f"{top}/"} & ignored, path


def test_every_output_that_a_document_names_is_listed() -> None:
    """Arguments of `--figures`, `--measure`, `--figure`, `--out`, `> FILE`, and folders of `cgn films`."""
    named: set[str] = set()
    for document in (ROOT / "README.md", *(ROOT / "docs" / "guides").glob("*.md")):
        for block in FENCED_BLOCK.findall(document.read_text()):
            named |= set(re.findall(r"(?:--(?:figures?|measure|out)|cgn films| >) (\w[\w.]*)", block))
            named |= set(re.findall(r"cgn look .* (\S+\.png)", block))
    assert named
    assert named <= {path.split("/")[0] for path in WRITTEN}
