"""A small INbreast, true in form with all its traps, made of drawn films: `write(folder)`.

Loaded by path: `runpy.run_path(".../inbreast_tree.py")["write"]`.
"""

import plistlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pydicom
import xlwt
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian

from cgn.data.datasets import phantom

SMALL, LARGE = (333, 256), (408, 333)  # rows, columns: a tenth of the true ones
HEADER = "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"
XLS_HEADER = [
    *HEADER.split(";"),
    "Mass ",
    "Micros",
    "Distortion",
    "Asymmetry",
    "Findings Notes (in Portuguese)",
    "Other Notes",
    "Lesion Annotation Status",
    "Pectoral Muscle Annotation",
    "Other Annotations",
]
NO_FILM = "no film"


class Row(NamedTuple):
    """One image: flags are M, C, D, A for the four columns of findings; rois are `(name, points)`."""

    number: int
    woman: str
    side: str
    view: str
    birads: str
    month: int = 201001
    flags: str = ""
    rois: tuple[tuple[str, tuple[tuple[float, float], ...]], ...] = ()
    shape: tuple[int, int] = SMALL
    trap: str = ""


def around(x: float, y: float, r: float = 20) -> tuple[tuple[float, float], ...]:
    """A closed outline of eight points."""
    turns = np.arange(8) * np.pi / 4
    return tuple((float(x + r * np.cos(t)), float(y + r * np.sin(t))) for t in turns)


def woman(number: int) -> str:
    """Sixteen hexadecimal digits."""
    return f"{number:02d}a1b2c3d4e5f60718"[:16]


A, B, C, D, E, F, G, H, J, K = (woman(n) for n in range(1, 11))

TREE = (
    # A: both views, the mass on the left; the lesion drawn twice, and points off the film
    Row(20000100, A, "L", "CC", "5", flags="MC", rois=(("Mass", around(80, 150)), ("Mass", around(81, 150)))),
    Row(20000127, A, "R", "CC", "1"),
    Row(
        20000154, A, "L", "MLO", "5", flags="M", rois=(("Mass", (*around(70, 160), (-4.0, 9.0), (9e3, 1.0))),)
    ),
    Row(20000181, A, "R", "MLO", "1"),
    # B: the first study has one side only, the second has both
    Row(20000200, B, "R", "CC", "4a", 200901, "M", (("Spiculated Region", around(190, 160)),)),
    Row(20000227, B, "L", "CC", "2", 201001),
    Row(20000254, B, "R", "CC", "4b", 201001, "M", (("Espiculated Region", around(190, 160)),)),
    # C: two right films of one study, both with a mass
    Row(20000300, C, "R", "CC", "4a", flags="M", rois=(("Mass", around(190, 150)),)),
    Row(20000330, C, "R", "CC", "2", flags="M", rois=(("Unnamed", around(190, 150)), ("Mass", ((5, 5),)))),
    Row(20000350, C, "L", "CC", "3", flags="M", rois=(("Mass", around(80, 150)),)),
    # D: nothing to compare with
    Row(20000400, D, "L", "CC", "6", flags="M", rois=(("Mass", around(80, 150)),)),
    # E: large films, a mass on both sides
    Row(20000500, E, "L", "MLO", "2", flags="M", rois=(("Mass", around(90, 200)),), shape=LARGE),
    Row(20000527, E, "R", "MLO", "6", flags="M", rois=(("Mass", around(240, 200)),), shape=LARGE),
    # F: calcifications, as a cluster and one by one
    Row(
        20000600,
        F,
        "L",
        "MLO",
        "4c",
        flags="C",
        rois=(
            ("Cluster", around(70, 150)),
            ("Calcification", ((70, 150),)),
            ("Calcifications", ((9, 9), (8, 8))),
        ),
    ),
    Row(20000627, F, "R", "MLO", "1"),
    # G: a distortion against an asymmetry, misspelt
    Row(20000700, G, "R", "CC", "5", flags="D", rois=(("Distortion", around(190, 150)),)),
    Row(
        20000727, G, "L", "CC", "3", flags="A", rois=(("Assymetry", around(80, 150)), ("Point 1", ((3, 3),)))
    ),
    # H: the table names a film that is not there
    Row(20000800, H, "L", "CC", "5", flags="M", rois=(("Mass", around(80, 150)),)),
    Row(20000827, H, "R", "CC", "1", trap=NO_FILM),
    Row(20000854, H, "R", "MLO", "2", flags="M", trap=NO_FILM),
    # J: a view of its own; an ACR of blanks in the table
    Row(20000900, J, "R", "FB", "2", flags="C", rois=(("", ()),)),
    # K: a benign mass, nothing else
    Row(20000950, K, "R", "MLO", "2", flags="M", rois=(("Mass", around(190, 150)),)),
    Row(20000977, K, "L", "MLO", "1"),
)


def write(
    folder: Path, rows: Iterable[Row] = TREE, *, xls: bool = True, csv: bool = True, pixels: bool = True
) -> Path:
    """The tree of these images in `folder`; gives its root. Without pixels, films are no DICOM files."""
    rows = list(rows)
    root = folder / "INBreast Release 1.0"
    for name in ("AllDICOMs", "AllXML"):
        (root / name).mkdir(parents=True)
    (root / "AllXML" / "20000100_muscle.xml").write_bytes(plistlib.dumps({"ROIPoints": ["{1, 2}"]}))
    (root / "AllDICOMs" / "._20000100_junk.dcm").write_bytes(b"junk")
    films = phantom.scan(phantom.Options(pairs=len(rows)), 96).records[: len(rows) // 2 + 1] if pixels else ()
    drawn = [image for record in films for image in record.load()[:2]]
    for index, row in enumerate(rows):
        if row.trap != NO_FILM:
            view = "ML" if row.view == "MLO" else row.view
            path = root / "AllDICOMs" / f"{row.number}_{row.woman}_MG_{row.side}_{view}_ANON.dcm"
            if pixels:
                _write_film(path, row, drawn[index % len(drawn)])
            else:
                path.write_text(str(row.number))
        if row.rois:
            (root / "AllXML" / f"{row.number}.xml").write_bytes(plistlib.dumps(_plist(row)))
    if csv:
        lines = [HEADER, *(";".join(map(str, _cells(row))) for row in rows)]
        (root / "INbreast.csv").write_bytes("".join(f"{line}\r\n" for line in lines).encode("latin-1"))
    if xls:
        _write_xls(root / "INbreast.xls", rows)
    return root


def _cells(row: Row) -> list[Any]:
    acr = " " * 193 if row.view == "FB" else 2
    return ["removed", "removed", row.side, row.view, row.month, row.number, acr, row.birads]


def _write_xls(path: Path, rows: list[Row]) -> None:
    book = xlwt.Workbook()
    book.add_sheet("Readers").write(0, 0, "names of people")
    sheet = book.add_sheet("Sheet1")
    lines: list[list[Any]] = [XLS_HEADER]
    for index, row in enumerate(rows):
        flags = ["X" if letter in row.flags else " " if index % 2 else "" for letter in "MCDA"]
        cells = [float(cell) if isinstance(cell, int) else cell for cell in _cells(row)]
        cells[-1] = float(row.birads) if row.birads.isdigit() and index % 2 else row.birads
        lines.append([*cells, *flags, "nódulo", "", "", "YES"])
    lines += [[""] * 12, ["Total", "", "", "", "", float(len(rows)), "", "", 8.0, 3.0, 1.0, 1.0]]
    for y, line in enumerate(lines):
        for x, cell in enumerate(line):
            sheet.write(y, x, cell)
    book.save(str(path))


def _plist(row: Row) -> dict[str, Any]:
    rois = [
        {
            "Area": 1.0,
            "IndexInImage": index,
            "Name": name,
            "NumberOfPoints": len(points),
            "Point_px": [f"({x:f}, {y:f})" for x, y in points],
        }
        for index, (name, points) in enumerate(row.rois)
    ]
    return {"Images": [{"ImageIndex": 0, "NumberOfROIs": len(rois), "ROIs": rois}]}


def _write_film(path: Path, row: Row, image: Any) -> None:
    """A drawn breast, its chest wall where INbreast has it: on the left for left breasts."""
    rows, columns = row.shape
    pixels = image.pixels if image.chest_wall == "left" else image.pixels[:, ::-1]
    pixels = cv2.resize(np.ascontiguousarray(pixels), (columns, rows), interpolation=cv2.INTER_AREA)
    if row.side == "R":
        pixels = pixels[:, ::-1]
    view = "ML" if row.view == "MLO" else row.view
    save(path, pixels, 14, ImageLaterality=row.side, ViewPosition=view, PatientID="removed")


def save(path: Path, pixels: Any, bits: int, **tags: str) -> None:
    """A DICOM film of these stored values."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = pydicom.uid.generate_uid(
        entropy_srcs=[str(path)]
    )
    dataset.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored = 8 * pixels.itemsize, bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
    dataset.save_as(path, enforce_file_format=True)
