"""One pair before preparation: what a data set knows of it, its raw images, or why it was rejected."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from cgn.data.boxes import Box
from cgn.data.breast import Laterality, StoredPixels, Wall
from cgn.errors import Reason, UnreadableImageError

Role = Literal["target", "reference", "healthy"]


class RawImage(NamedTuple):
    """A decoded film.

    Attributes:
        pixels: stored values, `(rows, columns)`.
        bits: of a stored value.
        chest_wall: where it is in the image; None takes it from the breast's shape.
    """

    pixels: StoredPixels
    bits: int
    chest_wall: Wall | None


class RawPair(NamedTuple):
    """The decoded films of a pair; only phantoms have a counterfactual, the target without its lesion."""

    target: RawImage
    reference: RawImage
    counterfactual: RawImage | None = None


@dataclass(frozen=True)
class PairRecord:
    """One target, its facts, and how to load its films.

    Attributes:
        pair_id, patient_id: pseudonyms; `pair_id` is unique, a patient may have several pairs.
        view, side: of the target, e.g. MLO; L or R.
        label: 0 benign, 1 malignant.
        kinds: kinds of the findings.
        boxes: lesions in pixels of the target's film; empty if no location is known.
        reference_has_lesion: the other side is abnormal too.
        load: returns the films, raises UnreadableImageError; picklable, since it may run in another process.
        study_id: pseudonym of the visit; "" if it is not known.
        films: names of target and reference, as in `Scan.files`; "" for a film without a file.
        rows: numbers of the rows that list target and reference; None without a table of one row a film.
    """

    pair_id: str
    patient_id: str
    view: str
    side: Laterality
    label: int
    kinds: tuple[str, ...]
    boxes: tuple[Box, ...]
    reference_has_lesion: bool
    load: Callable[[], RawPair]
    study_id: str = ""
    films: tuple[str, str] = ("", "")
    rows: tuple[int, int] | None = None


class NamedPair(Protocol):
    """What a rejection repeats of a pair; the pairs of a cache and the pairs to predict have it."""

    @property
    def pair_id(self) -> str: ...  # noqa: D102

    @property
    def films(self) -> tuple[str, str]: ...  # noqa: D102


class Rejection(NamedTuple):
    """A pair that could not be prepared, the film that is the cause ("" if not known), and why.

    Of a healthy film, `pair_id` is the name of the film and `role` is healthy.
    """

    pair_id: str
    role: str
    film: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.pair_id}: {self.role or 'one'} film: {self.message}"


def rejected(pair: NamedPair, reason: Reason, message: str, role: str = "") -> Rejection:
    """The rejection of a pair; `role` names the film that is the cause, if it is known."""
    film = dict(zip(("target", "reference"), pair.films, strict=True)).get(role, "")
    return Rejection(pair.pair_id, role, film, reason.value, message)


@contextmanager
def attributed_to(role: Role) -> Iterator[None]:
    """Attribute what is raised in the block to this film, as an UnreadableImageError.

    A reader may raise anything on arbitrary input; one film must cost one pair.
    """
    try:
        yield
    except UnreadableImageError as error:
        error.role = role
        raise
    except Exception as error:
        if isinstance(error, MemoryError):
            reason, message = Reason.TOO_LARGE, "the film needs more memory than is available"
        else:
            reason = Reason.UNDECODABLE
            message = "the film cannot be read: its file is damaged or of an unknown form"
        unreadable = UnreadableImageError(message, reason)
        unreadable.role = role
        raise unreadable from error


def load_pair(target: Callable[[], RawImage], reference: Callable[[], RawImage]) -> RawPair:
    """Both films of a pair, for `PairRecord.load`: `partial(load_pair, partial(...), partial(...))`."""
    with attributed_to("target"):
        target_image = target()
    with attributed_to("reference"):
        return RawPair(target_image, reference())
