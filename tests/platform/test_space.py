"""Search spaces and tables as plain data: what is valid, what they declare."""

import json

import pytest

from cgn.ablation import Bilateral, Triplet
from cgn.config import Config
from cgn.errors import ConfigError
from cgn_platform.differences import difference, in_one_line
from cgn_platform.space import (
    PRUNE_RULES,
    Choice,
    Float,
    Integer,
    Prune,
    Quoted,
    Row,
    Space,
    Table,
    Tuned,
)


def make(**dimensions: object) -> Space:
    return Space(base=Config(), dimensions=dimensions, trials=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        ({"alhpa": Float(0, 1)}, "did you mean 'alpha'"),
        ({"alhpa": Float(0, 1)}, "learning_rate"),  # lists the fields
        ({"alpha": Float(0, 2)}, "alpha: Input should be less than or equal to 1"),
        ({"alpha": Float(1, 0)}, "low < high"),
        ({"beta": Float(0, 10, log=True)}, "low > 0 where log=True"),
        ({"triplet": Choice(("none", "sometimes"))}, "sometimes"),
        ({"triplet": Choice(())}, "at least one value"),
        ({"alpha": (0, 1)}, "must be Float"),
        ({"alpha": Float(0.6, 1)}, "the base is always tried"),
        ({"epochs": Integer(0, 10)}, "greater than or equal to 1"),
        ({"beta": Float(1, 2, when={"triplett": ("none",)})}, "did you mean 'triplet'"),
        ({"beta": Float(1, 2, when={"triplet": ("none",)}), "triplet": Choice(tuple(Triplet))}, "move it up"),
    ],
)
def test_an_invalid_space_is_refused_when_it_is_created(dimensions: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make(**dimensions)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_conditional_dimension_exists_only_where_its_condition_holds() -> None:
    space = make(triplet=Choice(tuple(Triplet)), beta=Float(0.1, 9, when={"triplet": (Triplet.FEEDBACK,)}))
    config, chosen = space.configure(lambda name, _: {"triplet": "none", "beta": 5.0}[name])
    assert chosen == {"triplet": "none"}
    assert config.beta == Config().beta
    config, chosen = space.configure(lambda name, _: {"triplet": "feedback", "beta": 5.0}[name])
    assert chosen == {"triplet": "feedback", "beta": 5.0}
    assert config.beta == 5


def test_a_condition_may_name_a_field_of_the_base() -> None:
    space = make(beta=Float(0.1, 9, when={"triplet": ("feedback",)}))
    assert list(space.queued()) == [{"beta": 1.0}]
    assert list(space.edit(triplet="none").queued()) == [{}]


def test_the_default_comes_first_then_the_declared_trials() -> None:
    space = Space(Config(), {"alpha": Float(0, 1), "beta": Float(0, 9)}, trials=3, first=[{"alpha": 0.9}])
    assert list(space.queued()) == [{"alpha": 0.5, "beta": 1.0}, {"alpha": 0.9, "beta": 1.0}]
    with pytest.raises(ConfigError, match="first may set dimensions only but sets 'epochs'"):
        Space(Config(), {"alpha": Float(0, 1)}, trials=3, first=[{"epochs": 3}])


def test_an_edit_changes_the_base_and_is_checked() -> None:
    space = make(alpha=Float(0, 1)).edit(trials=9, epochs="10", backbone="tiny")
    assert (space.trials, space.base.epochs, space.base.backbone) == (9, 10, "tiny")
    with pytest.raises(ConfigError, match="no field 'backbon'"):
        space.edit(backbon="tiny")


def test_declarations_differ_in_what_changed_but_not_in_the_number_of_trials() -> None:
    old, new = make(alpha=Float(0, 1)), make(alpha=Float(0, 0.9)).edit(epochs=3)
    assert difference(old.declaration(), old.edit(trials=99).declaration()) == []
    stored = json.loads(json.dumps(old.declaration()))
    assert difference(stored, new.declaration()) == [
        "base.epochs was 50 and is 3",
        "dimensions.alpha.high was 1 and is 0.9",
    ]


def test_many_and_long_differences_are_a_line_that_names_them_all() -> None:
    old = {f"field{number}": number for number in range(20)} | {"first": ["x"] * 500}
    new = {f"field{number}": number + 1 for number in range(20)} | {"first": ["y"] * 500}
    line = in_one_line(difference(old, new))
    assert line.startswith("field0 was 0 and is 1; field1")
    assert all(name in line for name in old)
    assert len(line) < 500
    assert len(in_one_line(difference({"first": ["x"] * 500}, {}))) < 200
    assert in_one_line(difference({str(n): n for n in range(999)}, {})).endswith(" more")
    assert in_one_line(["a was 1 and is 2"]) == "a was 1 and is 2"


@pytest.mark.parametrize("rule", PRUNE_RULES)
def test_all_pruning_rules_are_valid(rule: str) -> None:
    assert Prune(rule).rule == rule  # type: ignore[arg-type]


def test_an_unknown_rule_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="median, percentile"):
        Prune("medain")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("confidence", 1.0, "prune.confidence must lie between 0 and 1 but got 1.0"),
        ("every", 0, "prune.every must be at least 1 but got 0"),
        ("power", 0, "prune.power must be above 0 but got 0"),
        ("patience", 3, "prune has no setting 'patience': it has rule, startup_trials"),
    ],
)
def test_an_invalid_setting_of_pruning_is_refused(setting: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Prune().edit(**{setting: value})
    assert Prune().edit(confidence=0.8).confidence == 0.8


ROWS = (Row(("one",), {"bilateral": Bilateral.SBF}), Row(("two",), {}))


def test_the_last_row_is_the_baseline_unless_another_one_is_named() -> None:
    assert Table("T", ("name",), ROWS).baseline == "two"
    assert Table("T", ("name",), ROWS, baseline="one").baseline == "one"


def test_a_row_is_configured_from_base_changes_tuning_and_seed() -> None:
    tuned = Tuned("study", 10, 60.0, {"alpha": 0.75})
    row = Row(("one",), {"bilateral": Bilateral.SBF}, tuned=tuned)
    table = Table("T", ("name",), (row, ROWS[1]), Config(epochs=3))
    config = table.config(row, seed=2)
    assert (config.bilateral, config.alpha, config.seed, config.epochs) == (Bilateral.SBF, 0.75, 2, 3)
    assert table.tuned


def test_a_tables_declaration_has_the_ranges_of_its_searches_and_no_results() -> None:
    plain = Table("T", ("name",), ROWS)
    tuned = Tuned("study", 10, 60.0, {"alpha": 0.75})
    searched = Table("T", ("name",), (ROWS[0], Row(("two",), {}, tuned=tuned)))
    assert json.loads(json.dumps(plain.declaration()))["rows"] == [
        {"cells": ["one"], "changes": {"bilateral": "sbf"}},
        {"cells": ["two"], "changes": {}},
    ]
    (change,) = difference(plain.declaration(), searched.declaration())
    assert change.startswith("tuned was None and is {'learning_rate'")
    assert "0.75" not in str(searched.declaration())


def test_an_invalid_table_is_refused() -> None:
    row = Row(("one",), {"bilateral": Bilateral.SBF})
    with pytest.raises(ConfigError, match="rows must be at least two"):
        Table("T", ("name",), (row,))
    with pytest.raises(ConfigError, match="'one' is there twice"):
        Table("T", ("name",), (row, row))
    with pytest.raises(ConfigError, match="did you mean 'bilateral'"):
        Table("T", ("name",), (row, Row(("two",), {"bilatral": 1})))
    with pytest.raises(ConfigError, match="have 1 cells"):
        Table("T", ("name",), (row, Row(("two", "three"), {})))
    with pytest.raises(ConfigError, match="baseline must be one of one, two"):
        Table("T", ("name",), (row, Row(("two",), {})), baseline="three")


def test_an_option_of_a_table_is_set_in_the_rows_that_have_it() -> None:
    rows = (Row(("a",), {"method": "zhu"}), Row(("b",), {"method": "vanilla"}), Row(("c",), {}))
    table = Table("T", ("name",), rows).edit(**{"options.sparsity": 0.5, "alpha": 0.25})
    assert [table.config(row).options for row in table.rows] == [{"sparsity": 0.5}, {}, {}]
    assert {table.config(row).alpha for row in table.rows} == {0.25}
    with pytest.raises(
        ConfigError, match="must be an option of a row's method but zhu, vanilla, cgn have none"
    ):
        table.edit(**{"options.sparsty": 1})
    set_by_row = Table("T", ("name",), (*rows[:2], Row(("d",), {"options.gate_on": "difference"})))
    with pytest.raises(ConfigError, match="is set by row 'd'"):
        set_by_row.edit(**{"options.gate_on": "concatenation"})


def test_quoted_lines_have_the_cells_of_the_header_and_are_no_rows() -> None:
    rows = (Row(("a",), {}), Row(("b",), {"alpha": 0.1}))
    table = Table("T", ("name",), rows, quoted=(Quoted(("q",), {"a": 0.9}, "another task"),))
    assert table.declaration() == Table("T", ("name",), rows).declaration()
    with pytest.raises(ConfigError, match="row q / r must have 1 cells"):
        Table("T", ("name",), rows, quoted=(Quoted(("q", "r"), {}, "note"),))


def test_a_dimension_may_be_an_option_of_one_method() -> None:
    space = Space(
        Config(),
        {
            "method": Choice(("cgn", "zhu")),
            "options.sparsity": Float(1e-5, 1e-1, log=True, when={"method": ("zhu",)}),
        },
        trials=4,
        first=[{"method": "zhu"}],
    )
    assert list(space.queued()) == [{"method": "cgn"}, {"method": "zhu", "options.sparsity": 1e-3}]
    config, chosen = space.configure(lambda name, _: {"method": "zhu", "options.sparsity": 0.1}[name])
    assert config == Config(method="zhu", options={"sparsity": 0.1})
    assert chosen == {"method": "zhu", "options.sparsity": 0.1}
    with pytest.raises(ConfigError, match="method cgn has no option 'sparsity'"):
        Space(Config(), {"options.sparsity": Float(0.1, 0.2)}, trials=1)
