"""A retuned table: the same small search for every row, then the table with each row's best settings.

In a frozen table, all rows share the settings that were chosen for one of them. In a retuned table, each row
is searched separately over `space.TUNED`, with the same number of trials and the same sampler seed, by
validation scores; the table reports the test scores of the winners. Every search is a study, so that a killed
run is resumed by the same command.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from cgn.files import check_name
from cgn.provenance import reads
from cgn_platform.search.records import TrialRecord, best_of
from cgn_platform.space import TUNED, Prune, Space, Table, Tuned

Sweep = Callable[[str, Space], Sequence[TrialRecord]]


def searches(table: Table, name: str, trials: int, seed: int = 0) -> dict[str, tuple[str, Space]]:
    """The search of each row: the study's name and space by the row's name. Equal rows share a search.

    No trial is pruned: with pruning, the rows' budgets would differ.

    Raises:
        ConfigError: the table's base lies outside the ranges of `TUNED`, or its name is too long.
    """
    known: dict[str, tuple[str, Space]] = {}
    by_row: dict[str, tuple[str, Space]] = {}
    for number, row in enumerate(table.rows, 1):
        config = table.config(row)
        dimensions = {
            name: range_
            for name, range_ in TUNED.items()
            if name not in row.changes and reads(config.method, name)
        }
        study = check_name(f"{name}-row{number}-{_slug(row.name)}", "the name of a row's study")
        space = Space(config, dimensions, trials, Prune("none"), seed=seed)
        by_row[row.name] = known.setdefault(config.fingerprint(), (study, space))
    return by_row


def retune(table: Table, name: str, trials: int, sweep: Sweep) -> Table:
    """Search every row. Returns the table with each row's best settings.

    A row without a complete trial keeps its settings; its units may then fail in the table, too.

    Args:
        table: as declared.
        name: the table's name; the studies are named after it.
        trials: number of trials per row; the first one has the settings of the table's base.
        sweep: runs the study of this name to its end, or resumes it.
    """
    finished: dict[str, Sequence[TrialRecord]] = {}
    rows = []
    for row in table.rows:
        study, space = searches(table, name, trials)[row.name]
        if study not in finished:
            finished[study] = sweep(study, space)
        rows.append(replace(row, tuned=_winner(study, finished[study])))
    return replace(table, rows=tuple(rows))


def _winner(study: str, records: Sequence[TrialRecord]) -> Tuned:
    best = best_of(records)
    others = [record for record in records if record is not best]  # the winner's units belong to the row
    seconds = math.fsum(float(record.facts.get("seconds", 0)) for record in others)
    return Tuned(study, len(records), seconds, dict(best.params) if best else {})


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("✓", "yes").replace("×", "no")).strip("-")[:40]
