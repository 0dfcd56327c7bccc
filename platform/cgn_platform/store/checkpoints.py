"""Checkpoints of a fold that is not finished, in the folder of its unit.

A checkpoint is one file, `at-<epochs>-<sha256>.safetensors`: the name holds the number of epochs and the hash
of the content, so no second file has to be kept consistent. The newest undamaged checkpoint counts.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cgn.errors import one_line
from cgn.places import Place
from cgn.results import FoldState
from cgn.sealed import sha256

PREFIX, SUFFIX = "at-", ".safetensors"


@dataclass
class Checkpoints:
    """The checkpoints of one fold.

    Attributes:
        place: the ledger's storage.
        unit_id: of the fold.
        checkpoint_every: epochs between two checkpoints.
        warn: called with a line on each damaged checkpoint and each failed write.
    """

    place: Place
    unit_id: str
    checkpoint_every: int
    warn: Callable[[str], None]

    def load(self) -> FoldState | None:
        """The newest undamaged state; None if there is none."""
        names = [name for name in self.place.names(self.unit_id) if epochs_of(name)]
        for name in sorted(names, key=epochs_of, reverse=True):
            content = self.place.read(f"{self.unit_id}/{name}")
            if content is not None and sha256(content) == name.removesuffix(SUFFIX).rpartition("-")[2]:
                return FoldState(*from_safetensors(content))
            self.warn(
                f"checkpoint {name} of unit {self.unit_id} is damaged: training resumes from an older one, "
                "or starts again"
            )
        return None

    def save(self, state: FoldState) -> None:
        """Write a state, then remove older ones. If the storage refuses it, training continues."""
        content = to_safetensors(state.tensors, state.facts)
        epochs = len(state.facts["reports"])
        try:
            self.place.write(f"{self.unit_id}/{PREFIX}{epochs:05d}-{sha256(content)}{SUFFIX}", content)
            for name in self.place.names(self.unit_id):
                if 0 < epochs_of(name) < epochs:
                    self.place.remove(f"{self.unit_id}/{name}")
        except OSError as error:  # a later checkpoint, or the result, may succeed
            self.warn(f"a checkpoint of unit {self.unit_id} cannot be written: {one_line(error)}")


def epochs_of(name: str) -> int:
    """Epochs that a checkpoint holds, from its file name; 0 for other files."""
    number = name.removeprefix(PREFIX).partition("-")[0]
    return int(number) if name.startswith(PREFIX) and number.isdigit() else 0


def to_safetensors(tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> bytes:
    """Tensors and plain facts as one safetensors file."""
    metadata = {"facts": json.dumps(dict(facts))}
    if not tensors:  # torch is not imported for a header alone
        from safetensors.numpy import save as save_arrays

        return bytes(save_arrays({}, metadata))
    from safetensors.torch import save

    return bytes(
        save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    )


def from_safetensors(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and facts of a file whose hash was compared before."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    facts: dict[str, Any] = json.loads(header.pop("__metadata__")["facts"])
    if not header:
        return {}, facts
    from safetensors.torch import load

    return load(content), facts
