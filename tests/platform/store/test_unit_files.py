"""Files of a unit as bytes."""

import torch

from cgn_platform.store.unit_files import from_safetensors, to_safetensors


def test_equal_tensors_give_equal_bytes():
    """Otherwise a resumed unit would not equal an undisturbed one. Metadata come in a random order."""
    tensors = {"b": torch.arange(5.0), "a": torch.ones(2, 3, dtype=torch.int64), "c": torch.zeros(())}
    files = {to_safetensors(tensors, {"x": 1, "y": [2]}, "unit") for _ in range(30)}
    assert len(files) == 1
    read, facts = from_safetensors(files.pop())
    assert facts == {"x": 1, "y": [2]}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert len({to_safetensors({}, {"x": 1}, "unit") for _ in range(30)}) == 1
