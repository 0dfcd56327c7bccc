"""Phantoms as the files that somebody would have: PNG films and a table of them, to try things on."""

import csv
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from cgn.data.breast import Laterality
from cgn.data.datasets import Image, PairRecord, phantom
from cgn.errors import ConfigError

TABLE = "films.csv"
COLUMNS = ("image", "patient", "laterality", "view", "label", "boxes", "chest_wall")
LABELS = "benign", "malignant"


def png(film: Image) -> bytes:
    """A film as a PNG whose values use 16 bits."""
    full = np.left_shift(film.pixels.astype(np.uint16), 16 - film.bits)
    return cv2.imencode(".png", full)[1].tobytes()


def write_films(folder: Path, options: phantom.Options, size: int) -> Path:
    """Both films of each pair, and a manifest of all (`cgn.data.datasets.manifest`); gives its path.

    Args:
        folder: is not there yet, or empty.
        options: which phantoms.
        size: side of the prepared image that they are drawn for, pixels; films are somewhat larger.

    Raises:
        ConfigError: the folder holds something, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"films are drawn into an empty folder but {folder} is not: choose another")
        rows = [row for record in phantom.scan(options, size).records for row in _written(folder, record)]
        with (folder / TABLE).open("w", newline="") as stream:
            csv.writer(stream).writerows([COLUMNS, *rows])
    except OSError as error:
        raise ConfigError(f"films cannot be drawn into {folder}: {error.strerror}") from error
    return folder / TABLE


def _written(folder: Path, record: PairRecord) -> Iterator[tuple[str, ...]]:
    """The rows of a pair, target first, once its films are there."""
    films, other = record.load(), {"L": "R", "R": "L"}[record.side]
    boxes = "; ".join(" ".join(f"{number:g}" for number in box) for box in record.boxes)
    told: list[tuple[Laterality | str, Image, str, str]] = [
        (record.side, films.target, LABELS[record.label], boxes),
        (other, films.reference, "normal", ""),
    ]
    for side, film, label, places in told:
        name = f"{record.pair_id}-{side}.png"
        (folder / name).write_bytes(png(film))
        yield name, record.patient_id, side, record.view, label, places, film.chest_wall
