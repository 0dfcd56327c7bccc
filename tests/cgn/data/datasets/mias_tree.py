"""A small mini-MIAS, true in form (prose, CRLF, several rows, missing locations): `write(folder)`.

Loaded by path, as `inbreast_tree.py`.
"""

from pathlib import Path

import cv2
import numpy as np

PROSE = """              MiniMammographic Database
1st column: MIAS database reference number.
NOTES: (left: even filename numbers) and (right: odd)
mdb films are 1024 pixels x 1024 pixels
=====
"""
TABLE = """mdb001 G CIRC B 535 425 97
mdb002 G NORM
mdb003 D NORM
mdb004 D SPIC M 522 280 69
mdb005 F CIRC B 477 133 30
mdb005 F CIRC B 500 168 26
mdb006 F CIRC B 510 480 40
mdb007 F MISC B 633 894 29
mdb007 F MISC M 613 540 27
mdb008 F NORM
mdb009 F CIRC B
mdb010 F NORM
mdb011 D CALC M *NOTE 3*
mdb012 D NORM
mdb013 G ASYM M 600 500 50
mdb014 G ARCH B 420 500 33
"""


def film(number: int, white_border: bool = False) -> np.ndarray:
    """Half an ellipse with the chest wall on that breast's side, a label and faint grain."""
    row, column = np.mgrid[:1024, :1024]
    inside = ((column - 200) / 500) ** 2 + ((row - 512) / 450) ** 2 < 1
    image = np.where(inside & (column >= 200), 120, 2).astype(np.uint8)
    image += np.random.default_rng(number).integers(0, 5, image.shape, np.uint8)
    image[60:140, 820:880] = 255
    if white_border:
        image[:, 930:] = 245
    return np.ascontiguousarray(image[:, ::-1]) if number % 2 else image


def write(folder: Path, numbers: range = range(1, 15), table: str = TABLE, newline: str = "\r\n") -> Path:
    """Info.txt and the films `numbers`, even ones as PNG, odd ones as PGM; returns the folder."""
    folder.mkdir(exist_ok=True)
    text = (PROSE + table + "\n=====\n").replace("\n", newline)
    (folder / "Info.txt").write_bytes(text.encode("latin-1"))
    for number in numbers:
        name = f"mdb{number:03d}.png" if number % 2 == 0 else f"MDB{number:03d}.PGM"
        content = cv2.imencode(name[-4:].lower(), film(number, white_border=number in (4, 7)))[1]
        (folder / name).write_bytes(content.tobytes())
    return folder
