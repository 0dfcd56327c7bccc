"""A table whose rows were each tuned: the same small search for every row, then the rows as they won.

A frozen table gives all rows the settings that were chosen for one of them. Here each row gets a search of
its own over `space.TUNED`, with the same number of trials and the same seed of the sampler, on validation
scores; the test scores of the winners are what the table tells. Every search is a study, so that a table
that was killed goes on where it was.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from cgn.provenance import fields_read
from cgn_platform.search.records import TrialRecord, best_of
from cgn_platform.space import TUNED, Prune, Space, Table, Tuned

Sweep = Callable[[str, Space], Sequence[TrialRecord]]


def searches(table: Table, name: str, trials: int, seed: int = 0) -> dict[str, tuple[str, Space]]:
    """The study's name and space of each row, by the row's name. Rows that are equal share one.

    No trial is pruned: a budget in which some rows are cut shorter than others would not be the same one.

    Raises:
        ConfigError: the table's base lies outside the ranges of `TUNED`.
    """
    known: dict[str, tuple[str, Space]] = {}
    asked: dict[str, tuple[str, Space]] = {}
    for number, row in enumerate(table.rows, 1):
        config = table.config(row)
        read = fields_read(config.method)
        dimensions = {
            field: range_ for field, range_ in TUNED.items() if field in read and field not in row.changes
        }
        study = f"{name}-row{number}-{_slug(row.name)}"
        space = Space(config, dimensions, trials, Prune("none"), seed=seed)
        asked[row.name] = known.setdefault(config.fingerprint(), (study, space))
    return asked


def retune(table: Table, name: str, trials: int, sweep: Sweep) -> Table:
    """The same table, each row with what its search chose.

    A row of which no trial is complete keeps its own settings: it is then told as it ends, incomplete.

    Args:
        table: as declared.
        name: of the table; the studies are named after it.
        trials: of each row, the settings of the table's base included.
        sweep: runs the search under this name to its end, or goes on with it.
    """
    done: dict[str, Sequence[TrialRecord]] = {}
    rows = []
    for row in table.rows:
        study, space = searches(table, name, trials)[row.name]
        if study not in done:
            done[study] = sweep(study, space)
        rows.append(replace(row, tuned=_winner(study, done[study])))
    return replace(table, rows=tuple(rows))


def _winner(study: str, records: Sequence[TrialRecord]) -> Tuned:
    best = best_of(records)
    others = [record for record in records if record is not best]  # the winner's units are the row's own
    seconds = math.fsum(float(record.facts.get("seconds", 0)) for record in others)
    return Tuned(study, len(records), seconds, dict(best.params) if best else {})


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("✓", "yes").replace("×", "no")).strip("-")[:40]
