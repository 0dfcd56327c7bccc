"""Annotations of INbreast: the outlines in AllXML, lists of regions of interest as OsiriX writes them."""

import plistlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cgn.data.boxes import Box, iou
from cgn.data.identity.pseudonym import Pseudonyms
from cgn.errors import NotADatasetError

OUTLINES = {
    "mass": "mass",
    "spiculated region": "mass",
    "espiculated region": "mass",
    "cluster": "calcification",
    "distortion": "distortion",
    "asymmetry": "asymmetry",
    "assymetry": "asymmetry",
}
"""Names of outlines that locate a lesion, as they are spelt, and the lesion's kind."""

POINTS = {"calcification": "calcification", "calcifications": "calcification"}
"""Names of single calcifications, which have a kind but no location (reading 17)."""

NAMELESS = re.compile(r"(unnamed|point \d+)?")
POINT = re.compile(r"\s*\(\s*(-?[\d.eE+-]+)\s*,\s*(-?[\d.eE+-]+)\s*\)\s*")

SAME_LESION = 0.8
"""Intersection over union from which two outlines of a kind are the same lesion, drawn twice."""


class Roi(NamedTuple):
    """A region of interest: its kind, and its points `(x, y)` if it is an outline."""

    kind: str
    points: tuple[tuple[float, float], ...]


class Annotations:
    """AllXML. A file is read once, when it is needed; a note is kept of each file that cannot be read."""

    def __init__(self, folder: Path, pseudonyms: Pseudonyms) -> None:
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        self.paths = {path.stem: path for path in files if re.fullmatch(r"\d{8}\.xml", path.name)}
        muscles = sum(path.name.endswith("_muscle.xml") for path in files)
        self.notes = (
            [f"{muscles} outlines of pectoral muscles (_muscle.xml) are no lesions"] if muscles else []
        )
        self._pseudonyms = pseudonyms
        self._rois: dict[str, tuple[Roi, ...]] = {}

    def rois(self, number: str) -> tuple[Roi, ...]:
        """The regions of interest of an image, of any kind."""
        if number not in self._rois:
            self._rois[number] = self._read(number) if number in self.paths else ()
        return self._rois[number]

    def kinds(self, number: str) -> tuple[str, ...]:
        """The kinds of an image's findings by the names of its regions."""
        return tuple(dict.fromkeys(roi.kind for roi in self.rois(number)))

    def _read(self, number: str) -> tuple[Roi, ...]:
        name = self._pseudonyms.of("pair", number)
        try:
            rois, unknown = read_rois(self.paths[number])
        except NotADatasetError as error:
            self.notes.append(f"{name}: no outlines, since {error}")
            return ()
        if unknown:
            self.notes.append(f"{name}: {unknown} regions with unknown names are ignored")
        return rois


def read_rois(path: Path) -> tuple[tuple[Roi, ...], int]:
    """The known regions of a file, and the number of regions with unknown names.

    Raises:
        NotADatasetError: the file is no list of regions.
    """
    try:
        regions = list(_regions(plistlib.loads(path.read_bytes())))
        rois = tuple(
            Roi(OUTLINES[name], tuple(map(_point, region["Point_px"])))
            if name in OUTLINES
            else Roi(POINTS[name], ())
            for name, region in regions
            if name in OUTLINES or name in POINTS
        )
    except Exception:  # a parser may raise anything on arbitrary input
        raise NotADatasetError("its XML must be an OsiriX list of regions of interest") from None
    known = OUTLINES.keys() | POINTS.keys()
    return rois, sum(name not in known and not NAMELESS.fullmatch(name) for name, _ in regions)


def _regions(content: Any) -> Iterator[tuple[str, Any]]:
    """Each region and its name, in lower case with single blanks."""
    for image in content["Images"]:
        for region in image["ROIs"]:
            yield " ".join(region.get("Name", "").split()).lower(), region


def _point(text: str) -> tuple[float, float]:
    x, y = POINT.fullmatch(text).groups()  # type: ignore[union-attr]
    return float(x), float(y)


def boxes_of(rois: Sequence[Roi], rows: int, columns: int) -> tuple[Box, ...]:
    """Boxes around outlines with at least three points on a film of this size, one for each lesion."""
    boxes: list[Box] = []
    for roi in rois:
        points = [(x, y) for x, y in roi.points if 0 <= x < columns and 0 <= y < rows]
        if len(points) < 3:
            continue
        xs, ys = zip(*points, strict=True)
        box = float(int(min(xs))), float(int(min(ys))), float(int(max(xs)) + 1), float(int(max(ys)) + 1)
        if all(iou(box, other) < SAME_LESION for other in boxes):
            boxes.append(box)
    return tuple(boxes)
