"""Which film is compared with which: the other side, same woman, same view (Sec. IV-B)."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from cgn.data.breast import Laterality


class Sided(Protocol):
    """A film that knows its side."""

    @property
    def side(self) -> Laterality: ...  # noqa: D102


Film = TypeVar("Film", bound=Sided)


class Pair(NamedTuple, Generic[Film]):
    """A film and those it may be compared with, the nearest first."""

    target: Film
    others: tuple[Film, ...]

    @property
    def reference(self) -> Film | None:
        """The nearest one; None where there is none."""
        return self.others[0] if self.others else None


def contralateral(
    films: Sequence[Film],
    group: Callable[[Film], Hashable],
    distance: Callable[[Film, Film], Any],
) -> Iterator[Pair[Film]]:
    """Sec. IV-B. Every film with those of the other side of its group; of equally near ones, the first first.

    Args:
        films: in a fixed order; those without a label too, since they serve as references.
        group: what the two films must share, e.g. patient, study and view.
        distance: orders several candidates, e.g. by how far apart their numbers are.
    """
    sides: dict[Hashable, list[Film]] = defaultdict(list)
    for film in films:
        sides[group(film), film.side].append(film)
    for film in films:
        others = sides.get((group(film), "R" if film.side == "L" else "L"), [])
        yield Pair(film, tuple(sorted(others, key=partial(distance, film))))
