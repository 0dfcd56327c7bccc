"""Cached pairs as one picture, for a person to check."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cgn import files
from cgn.data.pairs import Pairs
from cgn.errors import ConfigError

CAPTION = 14
"""Height of a caption in pixels."""

COLOURS = {0: (0, 220, 220), 1: (60, 60, 255)}


def write_contact_sheet(pairs: Pairs, indices: Sequence[int], path: Path, columns: int = 2) -> None:
    """Fig. 5. Target, reference and, for phantoms, counterfactual of each pair as a PNG.

    Boxes are drawn on the target, yellow if benign, red if malignant; `columns` pairs in a row.

    Raises:
        ConfigError: no pair was requested, or the picture cannot be written.
    """
    if not len(indices):
        raise ConfigError("a contact sheet needs at least one pair but got none")
    if path.suffix != ".png" or not path.parent.is_dir():
        raise ConfigError(f"the picture must be a .png file in an existing folder but got {path}")
    tiles = [_tile(pairs, index) for index in indices]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    sheet = np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])
    try:
        files.write(path, cv2.imencode(".png", sheet)[1].tobytes())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _tile(pairs: Pairs, index: int) -> NDArray[np.uint8]:
    label = int(pairs.label[index])
    images = [pairs.target[index], pairs.reference[index]]
    if pairs.counterfactual is not None:
        images.append(pairs.counterfactual[index])
    panels = [cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) for image in images]
    for x0, y0, x1, y1 in pairs.boxes[index]:
        corners = (round(x0), round(y0)), (round(x1) - 1, round(y1) - 1)
        cv2.rectangle(panels[0], *corners, COLOURS[label], 1)
    caption = np.zeros((CAPTION, pairs.size * len(panels), 3), np.uint8)
    both = ", lesion on both sides" if pairs.reference_has_lesion[index] else ""
    text = f"{pairs.pair_id[index]} {pairs.side[index]} {'BM'[label]} {' '.join(pairs.kinds[index])}{both}"
    cv2.putText(
        caption, text, (2, CAPTION - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.35, COLOURS[label], 1, cv2.LINE_AA
    )
    return np.asarray(np.vstack([caption, np.hstack(panels)]))
