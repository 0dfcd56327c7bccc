"""What the template of the report is filled with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import plotly.graph_objects as go
from markupsafe import Markup

from cgn_platform.report.facts import Facts
from cgn_platform.store.ledger import Ledger, Unit

if TYPE_CHECKING:
    pass


class Chart(NamedTuple):
    """A chart of the page; `label` says in words what it shows, for who cannot see it."""

    id: str
    figure: go.Figure
    label: str
    title: str = ""

    @property
    def spec(self) -> Markup:
        """As JSON that can stand in a page."""
        return _json(self.figure.to_json())

    @property
    def height(self) -> int:
        """In pixels, reserved before it is drawn."""
        return int(self.figure.layout.height)


class Picture(NamedTuple):
    """A picture of the page as a data URI, and in words."""

    source: str
    label: str


@dataclass(frozen=True)
class Evidence:
    """The units behind a row, `[seed][fold]`."""

    units: Sequence[Sequence[Unit]]

    @property
    def flat(self) -> list[Unit]:
        """Of all seeds."""
        return [unit for seed in self.units for unit in seed]


@dataclass
class Page:
    """What the template is filled with. `notes` are what had to be left out, and why."""

    charts: dict[str, list[Chart]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_evidence(rows: Sequence[Facts], ledger: Ledger, page: Page) -> Iterator[tuple[str, Evidence]]:
    """The units of each row; a row that misses one has no curves, which is said."""
    for row in rows:
        units = [[ledger.find(name) for name in seed] for seed in row["units"]]
        found = [[unit for unit in seed if unit is not None] for seed in units]
        if [len(seed) for seed in found] == [len(seed) for seed in units]:
            yield row["name"], Evidence(found)
        else:
            page.notes.append(f"{row['name']}: a unit is not in {ledger.where}, so its curves are not drawn.")


def prediction_rows(units: Sequence[Unit]) -> list[dict[str, Any]]:
    return [row for unit in units for row in unit.predictions.to_pylist()]


def _json(text: str | None) -> Markup:
    """JSON that no text in it can end: a page's script holds it as it is."""
    return Markup((text or "null").replace("<", "\\u003c"))  # noqa: S704 - that is what it is for
