"""What is to be promoted: the row of a table, or the winner of a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cgn.data.pairs import Pairs
from cgn.errors import ConfigError
from cgn.statistics import Interval
from cgn_platform.registry.gate import Requirements, WinnerAuc
from cgn_platform.registry.registry import CHALLENGER, CHAMPION
from cgn_platform.report.facts import Facts
from cgn_platform.serving.origin import units_key
from cgn_platform.store.layout import Store


@dataclass(frozen=True)
class PromotionRequest:
    """What somebody wants to promote.

    Attributes:
        row: by its name, or by its number from 1; None for the winner of a sweep.
        seed: whose networks are served.
        alias: CHAMPION or CHALLENGER.
        by: who decides.
        because: why; recorded with the decision.
        requirements: of the gate.
    """

    row: str | None = None
    seed: int = 0
    alias: str = CHAMPION
    by: str = ""
    because: str = ""
    requirements: Requirements = field(default_factory=Requirements)


@dataclass(frozen=True)
class SelectedRow:
    """A row of a table or sweep that is to be promoted.

    Attributes:
        facts: of the table or sweep.
        row: one of its rows.
        seed: whose networks are served.
        served: ids of the units that are served, one for each fold.
    """

    facts: Facts
    row: Facts
    seed: int
    served: tuple[str, ...]

    @property
    def key(self) -> str:
        """Hash of the units that were measured and those that are served: it identifies a version."""
        return units_key(self.row["units"], self.served)

    @property
    def title(self) -> str:
        """For people: table or sweep, and row."""
        return f"{self.facts['name']}: {self.row['name']}"

    @property
    def winner(self) -> WinnerAuc | None:
        """Validation AUC of the winner of a sweep; None if the row was not selected by its scores."""
        if self.facts["kind"] != "sweep" or self.row is not self.facts["rows"][-1]:
            return None
        corrected = self.facts["corrected"]
        return WinnerAuc(self.facts["raw"], corrected and Interval(**corrected))

    @property
    def compared(self) -> int:
        """How many complete trials, or rows of the table, it was selected from."""
        if self.winner is None:
            return len(self.facts["rows"])
        return sum(trial["state"] == "complete" for trial in self.facts["trials"])


def select_row(facts: Facts, pairs: Pairs, request: PromotionRequest) -> SelectedRow:
    """Find the requested row.

    Args:
        facts: of the table or sweep.
        pairs: the cache it ran on.
        request: names row and seed.

    Raises:
        ConfigError: no such alias, row or seed, or another cache.
    """
    if request.alias not in (CHAMPION, CHALLENGER):
        raise ConfigError(f"--as must be {CHAMPION} or {CHALLENGER} but got {request.alias!r}")
    if pairs.fingerprint != facts["data"]["cache"]:
        raise ConfigError(
            f"--data must be the cache {facts['data']['cache']}, which {facts['name']} ran on, "
            f"but is {pairs.fingerprint}"
        )
    row = find_row(facts, request.row)
    seeds: Sequence[int] = facts["run"]["seeds"]
    if request.seed not in seeds:
        raise ConfigError(f"--seed must be one of {', '.join(map(str, seeds))} but got {request.seed}")
    return SelectedRow(facts, row, request.seed, tuple(row["units"][seeds.index(request.seed)]))


def cache_of(store: Store, facts: Facts) -> str:
    """The cache in the store that a table or sweep ran on. Raises ConfigError if it is not there."""
    if cache := store.cache_with(facts["data"]["cache"]):
        return str(cache)
    raise ConfigError(
        f"the cache {facts['data']['cache']}, which {facts['name']} ran on, is not in {store.caches}",
        remedy="give it with --data",
    )


def find_row(facts: Facts, name: str | None) -> Facts:
    """The row of this name or number. Raises ConfigError if there is none."""
    rows: Sequence[Facts] = facts["rows"]
    if not rows:
        raise ConfigError(f"{facts['name']} has no complete trial", remedy="run its command again")
    if name is None and facts["kind"] == "sweep":
        return rows[-1]
    names = [row["name"] for row in rows]
    if name in names:
        return rows[names.index(name)]
    if name is not None and name.isdecimal() and 1 <= int(name) <= len(rows):
        return rows[int(name) - 1]
    choices = "; ".join(f"{number} = {row}" for number, row in enumerate(names, 1))
    raise ConfigError(f"--row must be one of {choices}" + (f" but got {name!r}" if name else ""))
