"""What files in `search_spaces/` are made of: searches and tables as plain data, stored with their results.

>>> SPACE = Space(
...     base=Config(backbone="tiny"),
...     dimensions={
...         "alpha": Float(0, 1),
...         "beta": Float(0.1, 1000, log=True, when={"triplet": ("feedback", "non_feedback")}),
...     },
...     trials=40,
... )

The default configuration (`base`) is always trial 0. A dimension with `when` exists only in trials where
another dimension, or a field of the base, has one of the values; in other trials it keeps the base's value.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal, TypeGuard, get_args

from cgn import options
from cgn.config import Config
from cgn.errors import ConfigError
from cgn.provenance import reads

Scalar = str | int | float | bool | None
When = Mapping[str, Sequence[Scalar]]
PruneRule = Literal[
    "none", "median", "percentile", "successive_halving", "hyperband", "racing", "forgiving", "wilcoxon"
]
PRUNE_RULES: tuple[PruneRule, ...] = get_args(PruneRule)


@dataclass(frozen=True)
class Float:
    """A number in [low, high], sampled on a logarithmic scale if `log`."""

    low: float
    high: float
    log: bool = False
    when: When | None = None

    def extremes(self) -> tuple[Scalar, ...]:
        """If these values are valid, all are."""
        return (self.low, self.high)

    def contains(self, value: Scalar) -> bool:
        """Whether the value is in the range."""
        return _number(value) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class Integer:
    """An integer in [low, high], sampled on a logarithmic scale if `log`."""

    low: int
    high: int
    log: bool = False
    when: When | None = None

    def extremes(self) -> tuple[Scalar, ...]:
        """If these values are valid, all are."""
        return (self.low, self.high)

    def contains(self, value: Scalar) -> bool:
        """Whether the value is in the range."""
        return _number(value) and isinstance(value, int) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"whole numbers in [{self.low}, {self.high}]"


@dataclass(frozen=True)
class Choice:
    """One of a few values without an order. Members of enumerations are stored as their plain values."""

    values: Sequence[Scalar]
    when: When | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(_plain(value) for value in self.values))

    def extremes(self) -> tuple[Scalar, ...]:
        """If these values are valid, all are."""
        return tuple(self.values)

    def contains(self, value: Scalar) -> bool:
        """Whether the value is in the range."""
        return value in self.values

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


Dimension = Float | Integer | Choice


@dataclass(frozen=True)
class Prune:
    """When a trial is stopped early.

    Rules compare the mean validation AUC over all folds at an epoch; paired rules (racing, forgiving,
    wilcoxon) compare a trial with the best complete trial on the same cases at the same epoch.

    The defaults were chosen by `cgn replay` over recorded trials (docs/LOG.md): the median with a warm-up of
    a tenth of 50 epochs saves two of three epochs. `racing` rarely loses the winner, and saves little.

    Attributes:
        rule: one of PRUNE_RULES.
        startup_trials: complete trials before any trial is stopped (median, percentile).
        warmup_epochs: epochs that every trial gets.
        percentile: a trial continues while it is in the best so many per cent (percentile).
        reduction_factor: one of so many trials continues at each rung (successive_halving, hyperband).
        confidence: that the trial is behind, over all looks together (racing) or at each look (wilcoxon).
        every: epochs between looks (racing).
        power: how late the error budget is spent; 1 spends evenly (racing; `search.racing.budget`).
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
        _require(self.rule in PRUNE_RULES, "prune.rule", f"be one of {', '.join(PRUNE_RULES)}", self.rule)
        _require(self.startup_trials >= 0, "prune.startup_trials", "be at least 0", self.startup_trials)
        _require(self.warmup_epochs >= 0, "prune.warmup_epochs", "be at least 0", self.warmup_epochs)
        _require(0 < self.percentile < 100, "prune.percentile", "lie between 0 and 100", self.percentile)
        _require(self.reduction_factor >= 2, "prune.reduction_factor", "be at least 2", self.reduction_factor)
        _require(0 < self.confidence < 1, "prune.confidence", "lie between 0 and 1", self.confidence)
        _require(self.every >= 1, "prune.every", "be at least 1", self.every)
        _require(self.power > 0, "prune.power", "be above 0", self.power)

    def edit(self, **changes: Any) -> "Prune":
        """A copy with other settings. Raises ConfigError, also for a setting that does not exist."""
        if unknown := sorted(set(changes) - set(vars(self))):
            raise ConfigError(f"prune has no setting {unknown[0]!r}: it has {', '.join(vars(self))}")
        return replace(self, **changes)


@dataclass(frozen=True)
class Space:
    """A search: a base configuration and the dimensions to vary. Validated when it is created.

    Attributes:
        base: the default; trial 0.
        dimensions: fields of Config and their ranges. A condition names an earlier dimension, or a field that
            is not a dimension.
        trials: total number, pruned and failed ones included.
        prune: when a trial is stopped early.
        first: edits of the base that are tried right after it.
        seed: of the sampler; with equal seeds and histories the next trial is the same.
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
        _require(self.trials >= 1, "trials", "be at least 1", self.trials)
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
        """A configuration, and the values of the dimensions that exist in it.

        Args:
            choose: returns the value of a dimension; called in the order of declaration.

        Raises:
            ConfigError: the values are not valid together.
        """
        chosen: dict[str, Scalar] = {}
        for name, dimension in self.dimensions.items():
            if all(
                (chosen[other] if other in chosen else self.base.value(other)) in map(_plain, allowed)
                for other, allowed in (dimension.when or {}).items()
            ):
                chosen[name] = choose(name, dimension)
        return self.base.edit(**chosen), chosen

    def queued(self) -> Iterator[dict[str, Scalar]]:
        """The values of the trials that are declared: the base, then `first`."""
        for edit in ({}, *self.first):
            config = self.base.edit(**edit)

            def choose(name: str, dimension: Dimension, config: Config = config) -> Scalar:
                value: Scalar = config.value(name)
                if not dimension.contains(value):
                    raise ConfigError(
                        f"{name} must be in its range ({dimension}) in the base and in `first` "
                        f"but is {value!r}: widen the range or change the value (the base is always tried)"
                    )
                return value

            yield self.configure(choose)[1]

    def edit(self, trials: int | None = None, **base: Any) -> "Space":
        """A copy with another number of trials or an edited base. Raises ConfigError."""
        return replace(self, base=self.base.edit(**base) if base else self.base, trials=trials or self.trials)

    def declaration(self) -> dict[str, Any]:
        """What identifies the search, as plain JSON; without the number of trials, which may grow."""
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
            _require(len(dimension.values) >= 1, name, "have at least one value", dimension.values)
            for value in dimension.values:
                plain = value is None or isinstance(value, str | int | float | bool)
                _require(plain, name, "have values that are numbers, strings, booleans or None", value)
        else:
            _require(dimension.low < dimension.high, name, "have low < high", str(dimension))
            _require(
                not dimension.log or dimension.low > 0, name, "have low > 0 where log=True", dimension.low
            )
        for method in (dimension.when or {}).get("method", (self.base.method,)):
            for end in dimension.extremes():
                self.base.edit(**{"method": method, name: end})


TUNED: Mapping[str, Dimension] = {
    "learning_rate": Float(1e-5, 1e-2, log=True),
    "alpha": Float(0, 1, when={"bilateral": ("bf_gan", "adain_gan")}),
    "beta": Float(0.1, 1000, log=True, when={"triplet": ("feedback", "non_feedback")}),
    "options.sparsity": Float(1e-5, 1e-1, log=True, when={"method": ("zhu",)}),
}
"""The dimensions in which each row of a retuned table is searched, if its method reads them."""


@dataclass(frozen=True)
class Tuned:
    """The result of a row's own search.

    Attributes:
        study: its name.
        trials: how many ran.
        seconds: training time of all trials except the winner, whose units are the row's first seed.
        params: of the winner.
    """

    study: str
    trials: int
    seconds: float
    params: Mapping[str, Scalar]


@dataclass(frozen=True)
class Row:
    """A row of a table: its printed cells, and its edit of the table's base.

    Attributes:
        cells: printed below the table's header.
        changes: fields of Config; a row without changes is the base itself.
        published: AUC in the paper, by setting (a to d).
        tuned: the result of the row's own search, if it had one.
    """

    cells: tuple[str, ...]
    changes: Mapping[str, Any]
    published: Mapping[str, float] = field(default_factory=dict)
    tuned: Tuned | None = None

    @property
    def name(self) -> str:
        """The cells in one string."""
        return " / ".join(self.cells)


@dataclass(frozen=True)
class Quoted:
    """A line of a table that the paper quotes from elsewhere: printed above the rows and never run.

    Attributes:
        cells: printed below the table's header.
        published: AUC, by setting.
        note: why it is no row.
    """

    cells: tuple[str, ...]
    published: Mapping[str, float]
    note: str


@dataclass(frozen=True)
class Table:
    """A table of the paper, or another one: rows that are trained on the same folds and seeds.

    Attributes:
        title: e.g. "Table III".
        header: names of the printed columns.
        rows: in printed order.
        base: the configuration that each row edits.
        baseline: name of the row that the others are compared with; the last row if not given.
        quoted: lines that are printed and not run.
        description: the file's docstring.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    base: Config = field(default_factory=Config)
    baseline: str = ""
    quoted: tuple[Quoted, ...] = ()
    description: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        _require(len(self.rows) >= 2, "rows", "be at least two", len(self.rows))
        object.__setattr__(self, "baseline", self.baseline or self.rows[-1].name)
        names = [row.name for row in self.rows]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ConfigError(
                f"rows must have unique names but {repeated[0]!r} is there twice: change its cells"
            )
        _require(self.baseline in names, "baseline", f"be one of {', '.join(names)}", self.baseline)
        lines: tuple[Row | Quoted, ...] = (*self.quoted, *self.rows)
        for line in lines:
            fits, name = len(line.cells) == len(self.header), " / ".join(line.cells)
            _require(fits, f"row {name}", f"have {len(self.header)} cells as the header", len(line.cells))
        for row in self.rows:
            for name in row.changes:
                _check_field(name, f"row {row.name}")
        for row in self.rows:
            self.config(row)

    @property
    def tuned(self) -> bool:
        """Whether each row had its own search."""
        return any(row.tuned for row in self.rows)

    def config(self, row: Row, seed: int | None = None) -> Config:
        """The configuration of a row. Raises ConfigError."""
        tuned = row.tuned.params if row.tuned else {}
        seeded = {} if seed is None else {"seed": seed}
        return self.base.edit(**{**row.changes, **tuned, **seeded})

    def edit(self, **base: Any) -> "Table":
        """A copy with an edited base; an option is set in the rows whose method has it.

        Raises:
            ConfigError: also for a field that a row sets, and for an option that no row has.
        """
        for row in self.rows:
            if conflicts := sorted(set(base) & set(row.changes)):
                raise ConfigError(
                    f"{conflicts[0]} is set by row {row.name!r}: it cannot be edited for all rows"
                )
        dotted = {name: value for name, value in base.items() if name.startswith(options.PREFIX)}
        fields = {name: value for name, value in base.items() if name not in dotted}
        edited = replace(self, base=self.base.edit(**fields))
        methods = [edited.config(row).method for row in self.rows]
        if unread := [name for name in dotted if not any(reads(method, name) for method in methods)]:
            raise ConfigError(
                f"{unread[0]} must be an option of a row's method but {', '.join(dict.fromkeys(methods))} "
                "have none of this name"
            )
        rows = tuple(
            replace(row, changes={**row.changes, **{n: v for n, v in dotted.items() if reads(method, n)}})
            for row, method in zip(self.rows, methods, strict=True)
        )
        return replace(edited, rows=rows)

    def declaration(self) -> dict[str, Any]:
        """What identifies the table, as plain JSON; the ranges of its searches, not their results."""
        tuned = {"tuned": {name: _declare(range_) for name, range_ in TUNED.items()}} if self.tuned else {}
        return tuned | {
            "title": self.title,
            "header": list(self.header),
            "base": self.base.model_dump(mode="json"),
            "rows": [{"cells": list(row.cells), "changes": _listed(row.changes)} for row in self.rows],
            "baseline": self.baseline,
        }


def _check_field(name: str, where: str) -> None:
    fields = sorted(Config.model_fields)
    if name in fields or name.startswith(options.PREFIX):  # options are checked with their method
        return
    near = difflib.get_close_matches(name, fields, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"{where} {name!r} is not a field of the configuration: {hint}the fields are {', '.join(fields)}"
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


def _require(condition: bool, name: str, rule: str, value: object) -> None:
    if not condition:
        raise ConfigError(f"{name} must {rule} but got {value!r}")
