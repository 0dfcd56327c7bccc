"""What the template of the page is filled with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import plotly.graph_objects as go
from markupsafe import Markup

from cgn_platform.report.facts import Facts
from cgn_platform.store.ledger import Ledger, Unit


class Chart(NamedTuple):
    """A chart of the page; `label` describes it to people who cannot see it."""

    id: str
    figure: go.Figure
    label: str
    title: str = ""

    @property
    def spec(self) -> Markup:
        """Plotly's JSON, safe within a script element: no text in it can end the element."""
        return Markup((self.figure.to_json() or "null").replace("<", "\\u003c"))  # noqa: S704

    @property
    def height(self) -> int:
        """Pixels, reserved before the chart is drawn."""
        return int(self.figure.layout.height)


class Picture(NamedTuple):
    """A picture of the page: a data URI and a description."""

    source: str
    label: str


@dataclass(frozen=True)
class Evidence:
    """The units behind a row, `[seed][fold]`."""

    units: Sequence[Sequence[Unit]]

    @property
    def flat(self) -> list[Unit]:
        """The units of all seeds."""
        return [unit for seed in self.units for unit in seed]


@dataclass
class PageContent:
    """Charts by name, pictures, and notes on what had to be left out."""

    charts: dict[str, list[Chart]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_evidence(rows: Sequence[Facts], ledger: Ledger, page: PageContent) -> Iterator[tuple[str, Evidence]]:
    """The units of each row by its name. A row with a missing unit has none, and the page notes it."""
    for row in rows:
        units = [[ledger.find(unit_id) for unit_id in seed] for seed in row["units"]]
        complete = [[unit for unit in seed if unit is not None] for seed in units]
        if [len(seed) for seed in complete] == [len(seed) for seed in units]:
            yield row["name"], Evidence(complete)
        else:
            page.notes.append(
                f"{row['name']}: a unit is missing from {ledger.where}, so its curves are not shown."
            )
