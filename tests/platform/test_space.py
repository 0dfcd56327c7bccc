import json
from pathlib import Path

import pytest

from cgn.ablation import Triplet
from cgn.config import Config
from cgn.errors import ConfigError
from cgn_platform.search.load import check_names, load_space
from cgn_platform.space import PRUNE_RULES, Choice, Float, Integer, Prune, Space, difference

FOLDER = Path(__file__).parents[2] / "search_spaces"
SEARCH_SPACES = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith("table_"))


def make(**dimensions: object) -> Space:
    return Space(base=Config(), dimensions=dimensions, trials=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", SEARCH_SPACES, ids=lambda path: path.stem)
def test_every_file_is_a_search_with_its_command(path: Path) -> None:
    space = load_space(path)
    check_names(space.base, space.dimensions)
    assert f"cgn sweep search_spaces/{path.name}" in space.description
    assert next(space.queued()) is not None
    json.dumps(space.declaration())


@pytest.mark.parametrize(
    ("dimensions", "told"),
    [
        ({"alhpa": Float(0, 1)}, "did you mean 'alpha'"),
        ({"alhpa": Float(0, 1)}, "learning_rate"),  # the fields are listed
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
def test_what_cannot_be_is_told_when_it_is_made(dimensions: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        make(**dimensions)
    assert told in str(error.value)
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


def test_the_default_comes_first_then_what_the_file_names() -> None:
    space = Space(Config(), {"alpha": Float(0, 1), "beta": Float(0, 9)}, trials=3, first=[{"alpha": 0.9}])
    assert list(space.queued()) == [{"alpha": 0.5, "beta": 1.0}, {"alpha": 0.9, "beta": 1.0}]
    with pytest.raises(ConfigError, match="first may set dimensions only but sets 'epochs'"):
        Space(Config(), {"alpha": Float(0, 1)}, trials=3, first=[{"epochs": 3}])


def test_an_edit_changes_the_base_and_is_checked() -> None:
    space = make(alpha=Float(0, 1)).edit(trials=9, epochs="10", backbone="tiny")
    assert (space.trials, space.base.epochs, space.base.backbone) == (9, 10, "tiny")
    with pytest.raises(ConfigError, match="no field 'backbon'"):
        space.edit(backbon="tiny")


def test_the_declaration_tells_what_changed_but_not_how_many_trials() -> None:
    old, new = make(alpha=Float(0, 1)), make(alpha=Float(0, 0.9)).edit(epochs=3)
    assert difference(old.declaration(), old.edit(trials=99).declaration()) == []
    stored = json.loads(json.dumps(old.declaration()))
    assert difference(stored, new.declaration()) == [
        "base.epochs was 50 and is 3",
        "dimensions.alpha.high was 1 and is 0.9",
    ]


@pytest.mark.parametrize("rule", PRUNE_RULES)
def test_all_rules_of_pruning_can_be_named(rule: str) -> None:
    assert Prune(rule).rule == rule  # type: ignore[arg-type]


def test_an_unknown_rule_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="median, percentile"):
        Prune("medain")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("confidence", 1.0, "prune.confidence must lie between 0 and 1 but got 1.0"),
        ("every", 0, "prune.every must be at least 1 but got 0"),
        ("power", 0, "prune.power must be above 0 but got 0"),
        ("patience", 3, "prune has no setting 'patience': it has rule, startup_trials"),
    ],
)
def test_a_setting_of_pruning_that_cannot_be_is_said(setting: str, value: float, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Prune().edit(**{setting: value})
    assert Prune().edit(confidence=0.8).confidence == 0.8


def test_names_without_a_file_are_told_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="take one of alexnet"):
        check_names(Config(), {"backbone": Choice(("alexnet", "vgg"))})
    with pytest.raises(ConfigError, match="loss_weights may name"):
        check_names(Config(loss_weights={"l_nothing": 1.0}))


@pytest.mark.parametrize(
    ("text", "told"),
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
def test_an_error_in_the_file_names_the_file_and_the_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_space(path)
    assert str(path) in str(error.value)
    assert told in str(error.value)


def test_a_missing_file_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no search space at .*smoek.py: take one of .*smoke.py"):
        load_space(SEARCH_SPACES[0].parent / "smoek.py")
