"""Tables that fit a terminal: columns are left out, and no cell is cut."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table

GAP = 2  # between columns
FOLDED_WIDTH = 18  # of a column whose text may take several lines


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its head.
        cells: its text, one for each row.
        justify: as in rich.
        dropped: where there is no room, columns are left out by this number, the largest first
            and equal ones together; 0 is kept.
        folded: its cells may take several lines.
        style: as in rich.
    """

    name: str
    cells: Sequence[str]
    justify: Literal["left", "right"] = "left"
    dropped: int = 0
    folded: bool = False
    style: str = ""


def fitting(columns: Sequence[Column], width: int, title: str | None = None) -> Table:
    """A table of this width. Columns are left out until the others fit; the caption names them."""
    kept, omitted = list(columns), list[str]()
    while sum(map(_least, kept)) + GAP * len(kept) > width:
        number = max(column.dropped for column in kept)
        if not number:
            break  # every cell is shown whole, on several lines
        omitted = [column.name for column in kept if column.dropped == number] + omitted
        kept = [column for column in kept if column.dropped != number]
    table = _table(kept, width, title)
    table.caption_justify = "left"
    table.caption = f"not shown, for lack of room: {', '.join(omitted)}" if omitted else None
    return table


def plain(columns: Sequence[Column]) -> str:
    """The same for a pipe: a line for each row, cells separated by tabs."""
    lines = [[column.name for column in columns], *zip(*(column.cells for column in columns), strict=True)]
    return "\n".join("\t".join(line) for line in lines)


def _table(columns: Sequence[Column], width: int, title: str | None) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.show_edge, table.padding = False, (0, 1, 0, 0)
    widths = [_least(column) for column in columns]
    spare = width - sum(widths) - GAP * len(columns)
    for number, column in enumerate(columns):
        if column.folded and spare > 0:
            wider = min(spare, _widest(column) - widths[number])
            widths[number], spare = widths[number] + wider, spare - wider
    for column, fixed in zip(columns, widths, strict=True):
        table.add_column(
            _head(column),
            justify=column.justify,
            style=column.style,
            overflow="fold",
            width=fixed if spare >= 0 else None,
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(escape(cell) for cell in row))
    return table


def _least(column: Column) -> int:
    """The width that a column needs."""
    widest = _widest(column)
    return min(widest, FOLDED_WIDTH) if column.folded else widest


def _widest(column: Column) -> int:
    return max(map(cell_len, [*column.cells, *column.name.split()]), default=0)


def _head(column: Column) -> str:
    """The name on several lines, if it is wider than the cells below it."""
    return escape("\n".join(textwrap.wrap(column.name, max(_widest(column), 1), break_long_words=False)))
