"""The vocabulary of `search_spaces/`: a search is data, read by people and stored with its study.

>>> SPACE = Space(
...     base=Config(backbone="tiny"),
...     dimensions={
...         "alpha": Float(0, 1),
...         "beta": Float(0.1, 1000, log=True, when={"triplet": ("feedback", "non_feedback")}),
...     },
...     trials=40,
... )

The default configuration (`base`) is always trial 0. A dimension with `when` exists only where
another dimension, or a field of the base, has one of the values; elsewhere the base's value stands.
"""

import difflib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal, TypeGuard, get_args

from cgn.config import Config
from cgn.errors import ConfigError

Scalar = str | int | float | bool | None


When = Mapping[str, Sequence[Scalar]]


PruneRule = Literal[
    "none", "median", "percentile", "successive_halving", "hyperband", "racing", "forgiving", "wilcoxon"
]


PRUNE_RULES: tuple[PruneRule, ...] = get_args(PruneRule)


@dataclass(frozen=True)
class Float:
    """A number in [low, high]; `log` where its order of magnitude is what matters."""

    low: float
    high: float
    log: bool = False
    when: When | None = None

    def ends(self) -> tuple[Scalar, ...]:
        """What must be possible for all to be."""
        return (self.low, self.high)

    def holds(self, value: Scalar) -> bool:
        """Whether a trial may take this value."""
        return _number(value) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class Integer:
    """A whole number in [low, high], both included."""

    low: int
    high: int
    log: bool = False
    when: When | None = None

    def ends(self) -> tuple[Scalar, ...]:
        """What must be possible for all to be."""
        return (self.low, self.high)

    def holds(self, value: Scalar) -> bool:
        """Whether a trial may take this value."""
        return _number(value) and isinstance(value, int) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"whole numbers in [{self.low}, {self.high}]"


@dataclass(frozen=True)
class Choice:
    """One of a few values without an order. Members of enumerations are kept as their plain values."""

    values: Sequence[Scalar]
    when: When | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(_plain(value) for value in self.values))

    def ends(self) -> tuple[Scalar, ...]:
        """What must be possible for all to be."""
        return tuple(self.values)

    def holds(self, value: Scalar) -> bool:
        """Whether a trial may take this value."""
        return value in self.values

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


Dimension = Float | Integer | Choice


@dataclass(frozen=True)
class Prune:
    """When a trial is stopped early: by the mean validation AUC over all folds at an epoch or, where the
    rule is paired (racing, forgiving, wilcoxon), against the best complete trial on the same cases then.

    The defaults are what `cgn replay` chose over recorded trials (docs/LOG.md): the median with a tenth of 50
    epochs as warm-up spares two epochs of three. `racing` seldom loses the winner, and spares little.

    Attributes:
        rule: one of PRUNE_RULES.
        startup_trials: complete trials before anything is stopped (median, percentile).
        warmup_epochs: epochs that every trial gets.
        percentile: a trial goes on while it is among the best so many per cent (percentile).
        reduction_factor: one of so many goes on at each rung (successive_halving, hyperband).
        confidence: with which a trial must be behind: over all looks at it (racing), at each (wilcoxon).
        every: epochs from one look to the next (racing).
        power: how late the looks may err, 1 in step with the epochs (racing; `cgn.racing.budget`).
    """

    rule: PruneRule = "median"
    startup_trials: int = 5
    warmup_epochs: int = 5
    percentile: float = 50.0
    reduction_factor: int = 3
    confidence: float = 0.95
    every: int = 1
    power: float = 3.0

    def __post_init__(self) -> None:
        _must(self.rule in PRUNE_RULES, "prune.rule", f"be one of {', '.join(PRUNE_RULES)}", self.rule)
        _must(self.startup_trials >= 0, "prune.startup_trials", "be at least 0", self.startup_trials)
        _must(self.warmup_epochs >= 0, "prune.warmup_epochs", "be at least 0", self.warmup_epochs)
        _must(0 < self.percentile < 100, "prune.percentile", "lie between 0 and 100", self.percentile)
        _must(self.reduction_factor >= 2, "prune.reduction_factor", "be at least 2", self.reduction_factor)
        _must(0 < self.confidence < 1, "prune.confidence", "lie between 0 and 1", self.confidence)
        _must(self.every >= 1, "prune.every", "be at least 1", self.every)
        _must(self.power > 0, "prune.power", "be above 0", self.power)

    def edit(self, **changes: Any) -> "Prune":
        """The same but for these settings. Raises ConfigError; also where there is no such setting."""
        if unknown := sorted(set(changes) - set(vars(self))):
            raise ConfigError(f"prune has no setting {unknown[0]!r}: it has {', '.join(vars(self))}")
        return replace(self, **changes)


@dataclass(frozen=True)
class Space:
    """A search: an edit of one base configuration along named dimensions. Checked when it is made.

    Attributes:
        base: the default; trial 0.
        dimensions: fields of Config and their ranges. A condition names an earlier dimension or a field
            that is none.
        trials: how many are finished in all, those pruned and failed included.
        first: edits of the base to try right after it.
        seed: of the sampler; equal histories are continued equally.
        description: the file's docstring.
    """

    base: Config
    dimensions: Mapping[str, Dimension]
    trials: int
    prune: Prune = field(default_factory=Prune)
    first: Sequence[Mapping[str, Any]] = ()
    seed: int = 0
    description: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        _must(self.trials >= 1, "trials", "be at least 1", self.trials)
        seen: set[str] = set()
        for name, dimension in self.dimensions.items():
            _check_field(name, "dimension")
            self._check_range(name, dimension)
            for other in dimension.when or {}:
                _check_field(other, f"{name}.when")
                if other in self.dimensions and other not in seen:
                    raise ConfigError(f"{name}.when: {other!r} must be declared before {name!r}: move it up")
            seen.add(name)
        for edit in self.first:
            if unknown := sorted(set(edit) - set(self.dimensions)):
                raise ConfigError(f"first may set dimensions only but sets {unknown[0]!r}: add it or drop it")
        list(self.queued())  # raises for a value outside its dimension

    def configure(self, choose: Callable[[str, Dimension], Scalar]) -> tuple[Config, dict[str, Scalar]]:
        """A configuration, and the dimensions that exist in it, asked for in the order of declaration.

        Raises:
            ConfigError: values that cannot be together.
        """
        values: dict[str, Any] = self.base.model_dump(mode="json")
        chosen: dict[str, Scalar] = {}
        for name, dimension in self.dimensions.items():
            if all(
                values[other] in map(_plain, allowed) for other, allowed in (dimension.when or {}).items()
            ):
                chosen[name] = values[name] = choose(name, dimension)
        return Config.of(values), chosen

    def queued(self) -> Iterator[dict[str, Scalar]]:
        """The dimensions of the trials that are fixed beforehand: the base, then `first`."""
        for edit in ({}, *self.first):
            wanted = self.base.edit(**edit).model_dump(mode="json")

            def choose(name: str, dimension: Dimension, wanted: dict[str, Any] = wanted) -> Scalar:
                value: Scalar = wanted[name]
                if not dimension.holds(value):
                    raise ConfigError(
                        f"{name} must lie in its range ({dimension}) in the base and in `first` "
                        f"but is {value!r}: widen the range or change the value (the base is always tried)"
                    )
                return value

            yield self.configure(choose)[1]

    def edit(self, trials: int | None = None, **base: Any) -> "Space":
        """The same search with another number of trials or from another base. Raises ConfigError."""
        return replace(self, base=self.base.edit(**base) if base else self.base, trials=trials or self.trials)

    def declaration(self) -> dict[str, Any]:
        """What makes it this search, as plain JSON: not the number of trials, which may grow."""
        return {
            "base": self.base.model_dump(mode="json"),
            "dimensions": {name: _declare(dimension) for name, dimension in self.dimensions.items()},
            "first": [{name: _plain(value) for name, value in edit.items()} for edit in self.first],
            "prune": _declare(self.prune),
            "seed": self.seed,
        }

    def _check_range(self, name: str, dimension: Dimension) -> None:
        if not isinstance(dimension, Float | Integer | Choice):
            raise ConfigError(f"{name} must be Float(...), Integer(...) or Choice(...) but is {dimension!r}")
        if isinstance(dimension, Choice):
            _must(len(dimension.values) >= 1, name, "have at least one value", dimension.values)
            for value in dimension.values:
                plain = value is None or isinstance(value, str | int | float | bool)
                _must(plain, name, "have values that are numbers, texts, booleans or None", value)
        else:
            _must(dimension.low < dimension.high, name, "have low < high", str(dimension))
            _must(not dimension.log or dimension.low > 0, name, "have low > 0 where log=True", dimension.low)
        for end in dimension.ends():
            self.base.edit(**{name: end})


# What a row of a retuned table is searched over; alpha and beta where its configuration has them.
TUNED: Mapping[str, Dimension] = {
    "learning_rate": Float(1e-5, 1e-2, log=True),
    "alpha": Float(0, 1, when={"bilateral": ("bf_gan", "adain_gan")}),
    "beta": Float(0.1, 1000, log=True, when={"triplet": ("feedback", "non_feedback")}),
}


@dataclass(frozen=True)
class Tuned:
    """What a row's own search came to.

    Attributes:
        study: its name.
        trials: that it ran.
        seconds: of training, all trials but the winner: its units are the row's first seed.
        params: the winner's.
    """

    study: str
    trials: int
    seconds: float
    params: Mapping[str, Scalar]


@dataclass(frozen=True)
class Row:
    """A line of a table: how it is printed, and which edit of the table's base it is.

    Attributes:
        cells: what is printed in it, under the table's header.
        changes: fields of Config; a row without any is the base itself.
        published: AUC as the paper prints it, by setting (a to d).
        tuned: set where the row had a search of its own.
    """

    cells: tuple[str, ...]
    changes: Mapping[str, Any]
    published: Mapping[str, float] = field(default_factory=dict)
    tuned: Tuned | None = None

    @property
    def name(self) -> str:
        """By which it is spoken of."""
        return " / ".join(self.cells)


@dataclass(frozen=True)
class Table:
    """A table of the paper, or one of your own: rows that run on the same folds and seeds.

    Attributes:
        title: e.g. "Table III".
        header: names of the printed columns.
        rows: in the order in which they are printed.
        base: what each row is an edit of.
        baseline: name of the row that the others are compared with; the last one where not given.
        description: the file's docstring.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    base: Config = field(default_factory=Config)
    baseline: str = ""
    description: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        _must(len(self.rows) >= 2, "rows", "be at least two", len(self.rows))
        object.__setattr__(self, "baseline", self.baseline or self.rows[-1].name)
        names = [row.name for row in self.rows]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(
                f"rows must have names of their own but {twice[0]!r} stands twice: change its cells"
            )
        _must(self.baseline in names, "baseline", f"be one of {', '.join(names)}", self.baseline)
        for row in self.rows:
            wide = len(row.cells) == len(self.header)
            _must(wide, f"row {row.name}", f"have {len(self.header)} cells as the header", len(row.cells))
            for name in row.changes:
                _check_field(name, f"row {row.name}")
        for row in self.rows:
            self.config(row)

    @property
    def tuned(self) -> bool:
        """Whether its rows had searches of their own."""
        return any(row.tuned for row in self.rows)

    def config(self, row: Row, seed: int | None = None) -> Config:
        """What this row trains. Raises ConfigError."""
        tuned = row.tuned.params if row.tuned else {}
        seeded = {} if seed is None else {"seed": seed}
        return self.base.edit(**{**row.changes, **tuned, **seeded})

    def edit(self, **base: Any) -> "Table":
        """The same rows over another base. Raises ConfigError; also for a field that a row sets itself."""
        for row in self.rows:
            if own := sorted(set(base) & set(row.changes)):
                raise ConfigError(f"{own[0]} is what row {row.name!r} sets: it cannot be edited for all rows")
        return replace(self, base=self.base.edit(**base))

    def declaration(self) -> dict[str, Any]:
        """What makes it this table, as plain JSON; of searches their ranges, not what they found."""
        tuned = {"tuned": {name: _declare(range_) for name, range_ in TUNED.items()}} if self.tuned else {}
        return tuned | {
            "title": self.title,
            "header": list(self.header),
            "base": self.base.model_dump(mode="json"),
            "rows": [{"cells": list(row.cells), "changes": _listed(row.changes)} for row in self.rows],
            "baseline": self.baseline,
        }


def leave_one_out(title: str, base: Config, switches: Mapping[str, Any]) -> Table:
    """The base, and the base with each switch alone at the value given: what does each part add?"""
    off = [Row((f"{name} {_plain(value)}",), {name: value}) for name, value in switches.items()]
    return Table(title, ("changed",), (*off, Row(("nothing",), {})), base)


def add_one_in(title: str, base: Config, switches: Mapping[str, Any]) -> Table:
    """The base with all switches at the values given, and from there each one alone as in the base."""
    bare = base.edit(**switches)
    on = [
        Row((f"{name} {_plain(getattr(base, name))}",), {name: _plain(getattr(base, name))})
        for name in switches
    ]
    return Table(title, ("added",), (*on, Row(("nothing",), {})), bare)


def difference(old: Any, new: Any, where: str = "") -> list[str]:
    """Leaves in which two declarations differ: `base.epochs was 10 and is 20`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys(itertools.chain(old, new))
        inner = (difference(old.get(k), new.get(k), f"{where}.{k}" if where else str(k)) for k in keys)
        return list(itertools.chain.from_iterable(inner))
    return [] if old == new else [f"{where} was {old!r} and is {new!r}"]


def _check_field(name: str, where: str) -> None:
    fields = sorted(Config.model_fields)
    if name in fields:
        return
    near = difflib.get_close_matches(name, fields, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"{where} {name!r} is no field of the configuration: {hint}the fields are {', '.join(fields)}"
    )


def _declare(value: Any) -> dict[str, Any]:
    facts = {key: _listed(item) for key, item in vars(value).items()}
    return {"kind": type(value).__name__, **facts}


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_listed(item) for item in value]
    return _plain(value)


def _number(value: Scalar) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _must(holds: bool, what: str, rule: str, came: object) -> None:
    if not holds:
        raise ConfigError(f"{what} must {rule} but got {came!r}")
