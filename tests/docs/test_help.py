"""The examples in `--help`: the command line reads all of them, and accepts those about data.

An example is a line of a help text that begins with `cgn`, perhaps after `Example:` or `--`. What follows two
blanks is a remark.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cgn.config import Config
from cgn.data import cache
from cgn_platform.cli.commands import app
from cgn_platform.cli.options import edits_of
from cgn_platform.search.load import load_space, load_table
from cgn_platform.space import Prune

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"^\s*(?:.*(?:Example:|For example:|--) )?cgn (.*)$", re.MULTILINE)
CLI: Any = typer.main.get_command(app)


def commands(command: Any = CLI, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group, with the words that lead to it."""
    yield path, command
    if hasattr(command, "get_command"):
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*path, name))


def examples(command: Any) -> list[list[str]]:
    """The words of each example in a help text, without `cgn`."""
    return [shlex.split(re.split(r"\s{2,}", line)[0]) for line in EXAMPLE.findall(command.help or "")]


EXAMPLES = {
    " ".join(["cgn", *line]): (path, line) for path, command in commands() for line in examples(command)
}


def test_examples_are_found() -> None:
    lines = set(EXAMPLES)
    assert "cgn films drawn --pairs 12" in lines
    assert "cgn look --data runs/cache/mias-all-... pairs.png" in lines
    assert "cgn cache inbreast --raw INBreast Release 1.0 --setting a" in lines
    assert "cgn sweep search_spaces/alpha_beta.py --data /abs/CACHE --gpus 0.25" in lines
    assert len(lines) >= 30


def parsed(line: list[str]) -> tuple[Any, dict[str, Any]]:
    """The command that a line calls, and the values of its parameters."""
    command, name = CLI, "cgn"
    while hasattr(command, "get_command"):
        name, *line = line
        command = command.get_command(typer.Context(command), name)
        assert command is not None, f"no command {name}"
    return command, command.make_context(name, line).params


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_read(example: str) -> None:
    _, line = EXAMPLES[example]
    _, values = parsed(line)
    edits = edits_of(values.get("edits") or values.get("edit"))
    if line[0] == "replay":
        assert set(edits) <= set(Prune.__dataclass_fields__)
    else:
        Config().edit(**edits)
    for word in line:
        if word.startswith("search_spaces/"):
            load = load_table if line[0] == "table" else load_space
            load(ROOT / word)


class Decoding(Exception):  # noqa: N818 - no error: the example came that far
    """All that is checked before films are decoded was accepted."""


ABOUT_DATA = [
    example
    for example, (_, line) in EXAMPLES.items()
    if line[0] in ("films", "cache") and not {"DIR", "INBreast Release 1.0"} & set(line)
]


def test_examples_about_data_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the help texts: `cgn films` draws what `cgn cache manifest` reads below it."""

    def stop(*_: object, **__: object) -> None:
        raise Decoding

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CGN_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setattr(cache, "prepare_pairs", stop)
    drawn = [example for example in ABOUT_DATA if example.startswith("cgn films")]
    assert drawn
    for example in [*drawn, *(example for example in ABOUT_DATA if example not in drawn)]:
        command, values = parsed(EXAMPLES[example][1])
        if example in drawn:
            command.callback(**values)
        else:
            with pytest.raises(Decoding):
                command.callback(**values)


def test_films_that_an_example_predicts_are_drawn_by_the_one_before(tmp_path: Path) -> None:
    command, values = parsed(EXAMPLES["cgn films drawn --pairs 12"][1])
    command.callback(**{**values, "folder": tmp_path / "drawn"})
    (predict,) = (line for path, line in EXAMPLES.values() if path == ("films",) and line[0] == "predict")
    target, reference = (tmp_path / word for word in predict if word.endswith(".png"))
    assert target.is_file()
    assert reference.is_file()
    assert target.stem.endswith(predict[predict.index("--side") + 1])
