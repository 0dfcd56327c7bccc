"""Phantoms as files: PNG films and a table that lists them, to try predictions and `cgn cache manifest`."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from cgn import files
from cgn.data.breast import Laterality
from cgn.data.datasets import phantom
from cgn.data.records import PairRecord, RawImage
from cgn.errors import ConfigError

TABLE = "films.csv"
COLUMNS = ("image", "patient", "laterality", "view", "label", "boxes", "chest_wall")
LABELS = "benign", "malignant"


def encode_png(image: RawImage) -> bytes:
    """A film as a PNG whose values use 16 bits."""
    full_scale = np.left_shift(image.pixels.astype(np.uint16), 16 - image.bits)
    return cv2.imencode(".png", full_scale)[1].tobytes()


def write_films(folder: Path, options: phantom.Options, size: int) -> Path:
    """Writes both films of each pair and a table for `cgn.data.datasets.manifest`; returns the table's path.

    Args:
        folder: absent or empty.
        options: which phantoms.
        size: side of the prepared image that they are drawn for, in pixels; films are about twice as large.

    Raises:
        ConfigError: the folder is not empty, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"films are drawn into an empty folder but {folder} is not: choose another")
        records = phantom.scan(options, size).records
        rows = [row for record in records for row in _write_pair(folder, record)]
        table = io.StringIO(newline="")
        csv.writer(table).writerows([COLUMNS, *rows])
        files.write(folder / TABLE, table.getvalue())
    except OSError as error:
        raise ConfigError(f"films cannot be drawn into {folder}: {error.strerror}") from error
    return folder / TABLE


def _write_pair(folder: Path, record: PairRecord) -> Iterator[tuple[str, ...]]:
    """Writes the films of a pair and yields their rows, the target's first."""
    pair, other = record.load(), {"L": "R", "R": "L"}[record.side]
    boxes = "; ".join(" ".join(f"{number:g}" for number in box) for box in record.boxes)
    films: list[tuple[Laterality | str, RawImage, str, str]] = [
        (record.side, pair.target, LABELS[record.label], boxes),
        (other, pair.reference, "normal", ""),
    ]
    for side, image, label, lesions in films:
        name = f"{record.pair_id}-{side}.png"
        files.write(folder / name, encode_png(image))
        yield name, record.patient_id, side, record.view, label, lesions, image.chest_wall or ""
