"""Sealed JSON: what was written comes back, and nothing else does."""

import contextlib
import json

import pytest

from cgn.sealed import DamagedError, FormatError, canonical, digest, seal, unseal

FACTS = {"format": 2, "b": [1, 2.5, None], "a": {"text": "ü"}}


def test_a_sealed_file_is_read_back() -> None:
    assert unseal(seal(FACTS), (1, 2)) == FACTS
    assert json.loads(seal(FACTS))["sha256"] == digest(FACTS)
    assert seal(FACTS).endswith(b"}\n")


@pytest.mark.parametrize("at", range(0, len(seal(FACTS)), 7))
def test_any_changed_byte_is_noticed_or_changes_nothing(at: int) -> None:
    content = bytearray(seal(FACTS))
    content[at] ^= 1
    with contextlib.suppress(DamagedError, FormatError):
        assert unseal(bytes(content), (2,)) == FACTS  # a changed blank changes nothing


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"null", b'{"format": 2}', b'{"sha256": ""}', b"\xff"]
)
def test_what_is_no_sealed_file_is_refused(content: bytes) -> None:
    with pytest.raises(DamagedError, match="cannot be read"):
        unseal(content, (2,))


def test_another_format_is_named() -> None:
    with pytest.raises(FormatError, match="has format 2 but this version reads format 3 or 4"):
        unseal(seal(FACTS), (3, 4))
    nested = {"recipe": {"format": 5}}
    assert unseal(seal(nested), (5,), "recipe.format") == nested


def test_canonical_text_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical({"b": 1, "a": 2}) == canonical({"a": 2, "b": 1}) == '{"a":2,"b":1}'
