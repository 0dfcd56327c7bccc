"""A small CBIS-DDSM of drawn films: `write(folder)`. Loaded by path, as `inbreast_tree.py`."""

import csv
import runpy
from pathlib import Path

import numpy as np

SAVE = runpy.run_path(str(Path(__file__).with_name("inbreast_tree.py")))["save"]

HEADER = (
    "patient_id",
    "breast_density",
    "left or right breast",
    "image view",
    "abnormality id",
    "abnormality type",
    "assessment",
    "pathology",
    "subtlety",
    "image file path",
    "cropped image file path",
    "ROI mask file path",
)


def row(kind: str, woman: int, side: str, view: str, number: int, pathology: str) -> tuple[str | int, ...]:
    folder = f"{kind[:4].title()}-Training_P_{woman:05d}_{side}_{view}"
    path = f"{folder}/1.3.6/1.3.7/000000.dcm"
    mask = f"{folder}_{number}/1.3.8/1.3.9/000001.dcm"
    patient = f"P_{woman:05d}"
    return patient, 2, side, view, number, kind, 4, pathology, 3, path, mask, f"{mask}\n"


TABLE = (
    row("mass", 1, "LEFT", "CC", 1, "BENIGN"),
    row("mass", 1, "RIGHT", "CC", 1, "BENIGN_WITHOUT_CALLBACK"),
    row("mass", 2, "LEFT", "MLO", 1, "BENIGN"),
    row("mass", 2, "RIGHT", "MLO", 1, "MALIGNANT"),
    row("mass", 3, "LEFT", "CC", 1, "MALIGNANT"),
    row("mass", 4, "LEFT", "CC", 1, "MALIGNANT"),  # its film is not there
    row("calcification", 1, "LEFT", "CC", 2, "MALIGNANT"),
)
MASKS = {
    "Mass-Training_P_00001_LEFT_CC_1": (40, 60, 70, 100),
    "Calc-Training_P_00001_LEFT_CC_2": (80, 110, 95, 130),
    "Mass-Training_P_00002_LEFT_MLO_1": (40, 60, 70, 100),
}


def write(folder: Path) -> Path:
    """The tables and, one folder deeper, the films and some masks; gives the folder of the tables."""
    for name, kind in (("calc", "calcification"), ("mass", "mass")):
        with (folder / f"{name}_case_description_train_set.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(HEADER)
            writer.writerows(line for line in TABLE if line[5] == kind)
    for line in TABLE:
        if line[0] != "P_00004":
            _film(folder / "CBIS-DDSM" / str(line[9]).split("/")[0], side=str(line[2]))
    for name, (x0, y0, x1, y1) in MASKS.items():
        inner = folder / "CBIS-DDSM" / name / "07-20-2016-DDSM" / "1.000000-ROI mask images"
        inner.mkdir(parents=True)
        mask = np.zeros((200, 160), np.uint8)
        mask[y0:y1, x0:x1] = 255
        SAVE(inner / "mask.dcm", mask, 8)
        SAVE(inner / "cropped.dcm", mask[:50, :50].astype(np.uint16), 16)
    return folder


def _film(folder: Path, side: str) -> None:
    inner = folder / "07-20-2016-DDSM" / "1.000000-full mammogram images"
    inner.mkdir(parents=True)
    rows, columns = np.mgrid[:200, :160]
    inside = (columns / 110) ** 2 + ((rows - 100) / 90) ** 2 < 1
    grain = np.random.default_rng(len(str(folder))).integers(0, 900, inside.shape)
    image = (np.where(inside, 30000, 200) + grain).astype(np.uint16)
    SAVE(inner / "1-1.dcm", image if side == "LEFT" else image[:, ::-1], 16, PatientID=folder.name)
