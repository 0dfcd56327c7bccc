"""Which film is compared with which: the other side, same woman, same view (Sec. IV-B)."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from cgn.data.breast import Laterality


class Sided(Protocol):
    """A film whose side is known."""

    @property
    def side(self) -> Laterality: ...  # noqa: D102


SidedT = TypeVar("SidedT", bound=Sided)


class Match(NamedTuple, Generic[SidedT]):
    """A film and the films of the other side that it may be compared with, the nearest first."""

    target: SidedT
    candidates: tuple[SidedT, ...]

    @property
    def reference(self) -> SidedT | None:
        """The nearest candidate; None if there is no candidate."""
        return self.candidates[0] if self.candidates else None


def contralateral(
    films: Sequence[SidedT],
    group: Callable[[SidedT], Hashable],
    distance: Callable[[SidedT, SidedT], Any],
) -> Iterator[Match[SidedT]]:
    """Sec. IV-B. Matches every film with the films of the other side in its group.

    Candidates at equal distance keep the order of `films`.

    Args:
        films: in a fixed order; unlabelled films too, since they can be references.
        group: what two films must share, e.g. patient, study and view.
        distance: orders several candidates, e.g. by the difference of their file numbers.
    """
    sides: dict[Hashable, list[SidedT]] = defaultdict(list)
    for film in films:
        sides[group(film), film.side].append(film)
    for film in films:
        candidates = sides.get((group(film), "R" if film.side == "L" else "L"), [])
        yield Match(film, tuple(sorted(candidates, key=partial(distance, film))))
