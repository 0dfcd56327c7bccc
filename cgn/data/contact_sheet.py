"""Cached pairs as one picture, for a person to check."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cgn import files
from cgn.data.pairs import Pairs
from cgn.errors import ConfigError

FILM_SIDE = 160
"""Smaller films are enlarged to at least this side, in pixels."""
LINE = 18
"""Height of a line of text in pixels."""
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42

Colour = tuple[int, int, int]
LABELS: dict[int, tuple[str, Colour]] = {0: ("benign", (0, 220, 220)), 1: ("malignant", (60, 60, 255))}
"""Word and colour (BGR) of each class."""
WHITE: Colour = (255, 255, 255)


def write_contact_sheet(pairs: Pairs, indices: Sequence[int], path: Path, columns: int = 2) -> None:
    """Fig. 5. Target, reference and, for phantoms, counterfactual of each pair as a PNG, with a legend.

    Boxes are drawn on the target, yellow if benign, red if malignant; `columns` pairs in a row.

    Raises:
        ConfigError: no pair was requested, or the picture cannot be written.
    """
    if not len(indices):
        raise ConfigError("a contact sheet needs at least one pair but got none")
    if path.suffix != ".png" or not path.parent.is_dir():
        raise ConfigError(f"the picture must be a .png file in an existing folder but got {path}")
    films = [_films(pairs, index) for index in indices]
    width = films[0].shape[1]
    captions = [_wrapped(_caption(pairs, index), width) for index in indices]
    lines = max(map(len, captions))
    tiles = [
        np.vstack([_text(caption, width, LABELS[int(pairs.label[index])][1], lines), film])
        for index, caption, film in zip(indices, captions, films, strict=True)
    ]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    sheet = np.vstack([*rows, _legend(pairs, width * columns)])
    try:
        files.write(path, cv2.imencode(".png", sheet)[1].tobytes())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def enlargement(size: int) -> int:
    """How many times a film of this side is enlarged."""
    return max(1, -(-FILM_SIDE // size))


def _films(pairs: Pairs, index: int) -> NDArray[np.uint8]:
    """The films of a pair side by side, with the boxes of its lesions."""
    images = [pairs.target[index], pairs.reference[index]]
    if pairs.counterfactual is not None:
        images.append(pairs.counterfactual[index])
    times = enlargement(pairs.size)
    side = (times * pairs.size,) * 2
    panels = [cv2.cvtColor(cv2.resize(image, side), cv2.COLOR_GRAY2BGR) for image in images]
    for box in pairs.boxes[index]:
        x0, y0, x1, y1 = (round(times * place) for place in box)
        cv2.rectangle(panels[0], (x0, y0), (x1 - 1, y1 - 1), LABELS[int(pairs.label[index])][1], 1)
    return np.asarray(np.hstack(panels), np.uint8)


def _caption(pairs: Pairs, index: int) -> str:
    both = ", lesion on both sides" if pairs.reference_has_lesion[index] else ""
    kinds = " ".join(("", *pairs.kinds[index]))
    return f"{pairs.pair_id[index]} {pairs.side[index]}: {LABELS[int(pairs.label[index])][0]}{kinds}{both}"


def _legend(pairs: Pairs, width: int) -> NDArray[np.uint8]:
    """What is shown from left to right, and what the colours mean."""
    third = ", the target without its lesion" if pairs.counterfactual is not None else ""
    order = f"Left to right: target (the film with a finding), reference (the other side){third}."
    paragraphs = [(order, WHITE)]
    paragraphs += [
        (f"Boxes of this colour: annotated lesion, {word}", colour) for word, colour in LABELS.values()
    ]
    return np.vstack([_text(_wrapped(text, width), width, colour) for text, colour in paragraphs])


def _wrapped(text: str, width: int) -> list[str]:
    """Lines that fit into a width in pixels; a longer word has a line to itself."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if cv2.getTextSize(longer, FONT, FONT_SCALE, 1)[0][0] <= width - 4:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line for line in lines if line]


def _text(lines: Sequence[str], width: int, colour: Colour, height: int | None = None) -> NDArray[np.uint8]:
    """Lines of text on black, padded to a height in lines."""
    image = np.zeros((LINE * (height or len(lines)), width, 3), np.uint8)
    for number, line in enumerate(lines, 1):
        cv2.putText(image, line, (2, LINE * number - 5), FONT, FONT_SCALE, colour, 1, cv2.LINE_AA)
    return image
