"""Checkpoints of a fold that is not finished, in the folder of its unit.

A checkpoint is one file, `at-<epochs>-<sha256>.safetensors`: the name holds the number of epochs and the hash
of the content, so no second file has to be kept consistent. Its metadata name the unit. The newest undamaged
checkpoint counts. Stages before the first epoch (`cgn.stages`) write `before-<steps>-<sha256>.safetensors`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cgn.errors import LedgerError, one_line
from cgn.places import Place
from cgn.results import FoldState
from cgn.sealed import sha256
from cgn_platform.store.unit_files import from_safetensors, to_safetensors, unit_named_in

PREFIX, STAGE_PREFIX, SUFFIX = "at-", "before-", ".safetensors"


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
        """The newest undamaged state; None if there is none.

        Raises:
            LedgerError: the unit's folder cannot be read, so its result could not be written either.
        """
        try:
            names = [name for name in self.place.names(self.unit_id) if is_checkpoint(name)]
        except OSError as error:
            raise LedgerError(
                f"the folder of unit {self.unit_id} cannot be read: {one_line(error)}",
                remedy="correct its permissions or remove it",
            ) from None
        for name in sorted(names, key=_progress, reverse=True):
            if (state := self._read(name)) is not None:
                return state
            self.warn(
                f"checkpoint {name} of unit {self.unit_id} is damaged or of another unit: training resumes "
                "from an older one, or starts again"
            )
        return None

    def _read(self, name: str) -> FoldState | None:
        """The state in a checkpoint; None if it is damaged or belongs to another unit."""
        try:
            content = self.place.read(f"{self.unit_id}/{name}")
            if content is None or sha256(content) != name.removesuffix(SUFFIX).rpartition("-")[2]:
                return None
            if unit_named_in(name, content) not in (None, self.unit_id):
                return None
            return FoldState(*from_safetensors(content))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, state: FoldState) -> None:
        """Write a state, then remove older ones. If the storage refuses it, training continues."""
        content = to_safetensors(state.tensors, state.facts, self.unit_id)
        number = f"{PREFIX}{state.epochs:05d}" if state.epochs else f"{STAGE_PREFIX}{state.facts['done']:07d}"
        written = f"{number}-{sha256(content)}{SUFFIX}"
        try:
            self.place.write(f"{self.unit_id}/{written}", content)
            for name in self.place.names(self.unit_id):
                if is_checkpoint(name) and _progress(name) < _progress(written):
                    self.place.remove(f"{self.unit_id}/{name}")
        except OSError as error:  # a later checkpoint, or the result, may succeed
            self.warn(f"a checkpoint of unit {self.unit_id} cannot be written: {one_line(error)}")


def epochs_of(name: str) -> int:
    """Epochs that a checkpoint holds, from its file name; 0 for those of stages and for other files."""
    return _progress(name)[0]


def is_checkpoint(name: str) -> bool:
    """Whether this is the name of a checkpoint."""
    return _progress(name) != (0, 0)


def _progress(name: str) -> tuple[int, int]:
    """Epochs, and steps of the stages before them; (0, 0) for other files."""
    return _number(name, PREFIX), _number(name, STAGE_PREFIX)


def _number(name: str, prefix: str) -> int:
    number = name.removeprefix(prefix).partition("-")[0]
    return int(number) if name.startswith(prefix) and number.isdigit() else 0
