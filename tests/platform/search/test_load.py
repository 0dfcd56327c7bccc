"""Loading search spaces and tables, and those of the project."""

import json
from pathlib import Path

import pytest

from cgn.config import Config
from cgn.errors import ConfigError
from cgn_platform.search.load import check_names, load_space, load_table
from cgn_platform.space import Choice, Table

FOLDER = Path(__file__).parents[3] / "search_spaces"
SEARCH_SPACES = sorted(path for path in FOLDER.glob("*.py") if "\nSPACE = " in path.read_text())
TABLES = sorted(path for path in FOLDER.glob("*.py") if "\nTABLE = " in path.read_text())
ROWS = {"table_1": 9, "table_3": 10, "table_4": 3, "table_5": 4}


def read(name: str) -> Table:
    return load_table(FOLDER / f"{name}.py")


@pytest.mark.parametrize("name", ROWS)
def test_a_table_of_the_paper_ends_with_the_proposed_method(name: str) -> None:
    table = read(name)
    assert len(table.rows) == ROWS[name]
    assert table.config(table.rows[-1]) == Config()
    assert table.rows[-1].published == {"a": 0.910, "b": 0.911, "c": 0.885, "d": 0.781}
    assert table.description.startswith(table.title)
    assert f"cgn table search_spaces/{name}.py" in table.description


def test_published_figures_agree_with_the_papers_text() -> None:
    """Sec. IV-G and IV-H, in prose: 2.4 to 4.2 %, 4.8 %, 0.9 %; SFF and GF slightly outperform SBF."""
    three = {row.name: row.published for row in read("table_3").rows}

    def gains(name: str, over: str) -> list[float]:
        return [round(three[name][setting] - three[over][setting], 3) for setting in "abcd"]

    simple = gains("SBF / × / ×", "× / × / ×")
    assert (min(simple), max(simple)) == (0.024, 0.042)
    assert max(gains("AdaIN-GAN / ✓ / Feedback", "AdaIN-GAN / ✓ / Non-feedback")) == 0.048
    assert gains("AdaIN-GAN / ✓ / Feedback", "AdaIN-GAN / × / Feedback")[1] == 0.009
    assert all(gain > 0 for row in list(three)[:-1] for gain in gains("AdaIN-GAN / ✓ / Feedback", row))
    five = {row.name: row.published for row in read("table_5").rows}
    assert five["SBF"] == three["SBF / × / ×"]
    assert all(five[name][s] > five["SBF"][s] for name in ("GF", "SFF") for s in "abcd")


def test_equal_rows_of_different_tables_are_equal_configurations() -> None:
    configs = {
        name: {row.name: read(name).config(row).fingerprint() for row in read(name).rows} for name in ROWS
    }
    assert configs["table_3"]["AdaIN-GAN / ✓ / Feedback"] == configs["table_4"]["Proposed Method"]
    assert configs["table_4"]["Proposed Method"] == configs["table_5"]["Proposed Method"]
    assert configs["table_3"]["SBF / × / ×"] == configs["table_5"]["SBF"]
    distinct = {fingerprint for rows in configs.values() for fingerprint in rows.values()}
    assert configs["table_1"]["Proposed Method"] == configs["table_5"]["Proposed Method"]
    assert len(distinct) == 9 + 10 + 3 + 4 - 4


def test_a_table_is_edited_for_all_rows_or_not_at_all() -> None:
    table = read("table_3").edit(backbone="tiny", epochs=3)
    assert {table.config(row, seed=2).epochs for row in table.rows} == {3}
    assert {table.config(row, seed=2).seed for row in table.rows} == {2}
    with pytest.raises(ConfigError, match="bilateral is set by row '× / × / ×'"):
        table.edit(bilateral="sbf")


def test_table_1_quotes_lines_of_another_task_and_never_runs_them() -> None:
    table = read("table_1")
    assert [line.published["a"] for line in table.quoted] == [0.690, 0.760, 0.790, 0.890]
    assert all("malignant against all others" in line.note for line in table.quoted)
    assert not {line.cells for line in table.quoted} & {row.cells for row in table.rows}
    resnet = table.edit(backbone="resnet50")
    by_name = {row.name: resnet.config(row) for row in resnet.rows}
    assert by_name["Vanilla"] == by_name["Vanilla + GAP"]  # one network, whose units are trained once


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_row_of_every_table_can_be_built(path: Path) -> None:
    from cgn import methods

    table = load_table(path).edit(backbone="tiny")
    assert f"cgn table search_spaces/{path.name}" in table.description
    for row in table.rows:
        config = table.config(row)
        check_names(config)
        assert methods.build(config)
    json.dumps(table.declaration())


@pytest.mark.parametrize("path", SEARCH_SPACES, ids=lambda path: path.stem)
def test_every_file_is_a_search_with_its_command(path: Path) -> None:
    space = load_space(path)
    check_names(space.base, space.dimensions)
    assert f"cgn sweep search_spaces/{path.name}" in space.description
    assert next(space.queued()) is not None
    json.dumps(space.declaration())


def test_names_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match="take one of alexnet"):
        check_names(Config(), {"backbone": Choice(("alexnet", "vgg"))})
    with pytest.raises(ConfigError, match="loss_weights may name"):
        check_names(Config(loss_weights={"l_nothing": 1.0}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X = 1", "must define SPACE"),
        ("SPACE = 3", "but has 3"),
        ("x = 1\ny = 1 / 0\n", "line 2: ZeroDivisionError"),
        ("x = (\n", "line 1: SyntaxError"),
        ("\nimport nothing_of_that_name\n", "line 2: ModuleNotFoundError"),
        (
            "from cgn.config import Config\nfrom cgn_platform.space import *\n"
            "SPACE = Space(Config(), {'alpha': Float(0, 2)}, trials=1)\n",
            "line 3: alpha: Input should be",
        ),
    ],
)
def test_an_error_in_the_file_names_the_file_and_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_space(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_a_missing_file_is_refused_with_the_existing_ones() -> None:
    with pytest.raises(ConfigError, match=r"no search space at .*smoek.py: take one of .*smoke.py"):
        load_space(SEARCH_SPACES[0].parent / "smoek.py")
    with pytest.raises(ConfigError, match=r"no table at nix.py"):
        load_table("nix.py")
    with pytest.raises(ConfigError, match="must define TABLE = Table"):
        load_table(FOLDER / "smoke.py")


def test_a_dimension_that_no_method_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    read = frozenset({"method", "backbone", "seed"})
    monkeypatch.setattr("cgn_platform.search.load.fields_read", lambda _method: read)
    monkeypatch.setattr("cgn.provenance.fields_read", lambda _method: read)
    with pytest.raises(ConfigError, match="dimension 'precision' must be a field that cgn reads but is not"):
        check_names(Config(), {"precision": Choice(("fp32",)), "seed": Choice((0, 1))})
