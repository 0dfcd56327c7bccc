"""Lists and reads the files of units. What a storage raises is either damage of a unit or an outage."""

from dataclasses import dataclass

from cgn.errors import LedgerError, one_line
from cgn.places import DAMAGE, Place

REMEDY = "the unit is computed again when a run needs it"


class UnreachableError(LedgerError):
    """The storage of a ledger failed, which says nothing about its units: none of them counts as missing."""


@dataclass(frozen=True)
class UnitStorage:
    """The folders of units at one place. All methods raise LedgerError in place of OSError."""

    place: Place

    def read(self, unit_id: str, name: str) -> bytes | None:
        """The content of a file; None if it is not there."""
        try:
            return self.place.read(f"{unit_id}/{name}")
        except OSError as error:
            raise self._error(unit_id, name, error) from None

    def entries(self, unit_id: str) -> list[str]:
        """Names of all that a unit's folder holds, broken links included; empty if it is not there."""
        try:
            return self.place.entries(unit_id)
        except OSError as error:
            raise self._error(unit_id, "the folder", error) from None

    def all_entries(self) -> dict[str, list[str] | None]:
        """What the folder of each unit holds, by id; None for a folder that cannot be listed."""
        try:
            folders = self.place.folders()
        except OSError as error:
            raise self._unreachable(error) from None
        return {unit_id: self._entries_if_listed(unit_id) for unit_id in folders}

    def check_writable(self, unit_id: str, names: tuple[str, ...]) -> None:
        """Raise LedgerError if a unit could not be written, as far as it is known before it is trained."""
        try:
            self.place.check_writable(unit_id, names)
        except OSError as error:
            raise LedgerError(
                f"unit {unit_id} cannot be written: {_reason(error)}",
                remedy="move it away or correct its rights, and run the same command again",
            ) from None

    def _entries_if_listed(self, unit_id: str) -> list[str] | None:
        try:
            return self.entries(unit_id)
        except UnreachableError:
            raise
        except LedgerError:
            return None

    def _error(self, unit_id: str, name: str, error: OSError) -> LedgerError:
        if error.errno in DAMAGE:
            return damaged(unit_id, name, _reason(error), f"correct its rights or move it away; {REMEDY}")
        return self._unreachable(error)

    def _unreachable(self, error: OSError) -> UnreachableError:
        return UnreachableError(
            f"the ledger {self.place.shown} cannot be read ({_reason(error)})",
            remedy="make its storage available and run the same command again: finished folds are kept",
        )


def damaged(unit_id: str, name: str, why: str, remedy: str = REMEDY) -> LedgerError:
    """A file of a unit cannot be read, or is not what was written."""
    return LedgerError(f"{name} of unit {unit_id} is damaged ({why})", remedy=remedy)


def _reason(error: OSError) -> str:
    return error.strerror or one_line(error)
