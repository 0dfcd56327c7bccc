"""A job for the pool of processes that read films: what a film gives, or why it is refused."""

from typing import Any

from cgn.data.records import PairRecord
from cgn.errors import UnreadableImageError


def outcome(record: PairRecord) -> Any:
    """What `record.load` returns, or message and reason of its error, which would end the process."""
    try:
        return record.load()
    except UnreadableImageError as error:
        return str(error), error.reason
