"""One class for every storage: a folder here; object stores in the ledger's and the cache's tests."""

import pickle
from pathlib import Path

import pytest

from cgn.places import Place, is_remote, shown


@pytest.fixture(params=["folder", "file"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    return Place(tmp_path / "units" if request.param == "folder" else f"file://{tmp_path}/units")


def test_files_are_written_listed_read_and_removed(place: Place) -> None:
    assert not place.exists()
    assert place.names() == place.folders() == place.names("a") == []
    assert place.read("a/x") is None
    place.write("a/x", b"1")
    place.write("a/x", b"2")
    place.write("b/y", b"")
    assert place.exists()
    assert (place.folders(), place.names("a"), place.names()) == (["a", "b"], ["x"], [])
    assert (place.read("a/x"), place.read("b/y"), place.read("a/x/z")) == (b"2", b"", None)
    place.remove("a/x")
    place.remove("a/x")
    assert place.names("a") == []


def test_the_size_of_a_file_is_known_before_it_is_read(place: Place) -> None:
    place.write("a/x", b"123")
    assert (place.size("a/x"), place.size("a/y"), place.size("a/x/z"), place.size("b/x")) == (
        3,
        None,
        None,
        None,
    )
    with pytest.raises(OSError, match="a is a directory and no file"):
        place.size("a")


def test_drafts_are_hidden_and_removed(place: Place) -> None:
    place.write("a/x", b"1")
    assert place.folder is not None
    draft = place.folder / "a" / ".x.0123abcd.tmp"
    draft.touch()
    assert place.names("a") == ["x"]
    place.remove_drafts("a")
    assert not draft.exists()


def test_a_place_travels_by_its_address(place: Place) -> None:
    place.write("a/x", b"1")
    assert pickle.loads(pickle.dumps(place)).read("a/x") == b"1"  # noqa: S301 - what Ray does


def test_secrets_of_an_address_are_not_shown() -> None:
    assert shown("s3://key:secret@bucket/a?endpoint_override=x") == "s3://bucket/a"
    assert shown("/a/b@c") == "/a/b@c"
    assert is_remote("s3://b/a")
    assert not is_remote("file:///a")
    with pytest.raises(OSError, match="nosuch"):
        Place("nosuch://bucket/a")
