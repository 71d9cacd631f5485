"""What an append's transaction writes beside the events: a port, of which the store knows nothing more.

What is written there is stored with the events or not at all, so a reader never finds the one without
the other. Without it nothing is called, and the transaction is what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from bson.raw_bson import RawBSONDocument

from ledgerlake.mongo.steps import Steps


class NotWritten(Exception):
    """What was written for a batch so far is not to be committed: abort, `mend`, and try the batch again."""


class InlineBatch(Protocol):
    """What is written beside one batch of events, through all the tries that the batch takes.

    The methods are bodies of driver calls, for the driver of the store that the batch is of.
    """

    def write(
        self, database: Any, session: Any, documents: Sequence[RawBSONDocument], after: int
    ) -> Steps[None]:
        """Write in the session's transaction what comes of the documents, which it has inserted.

        Args:
            after: the position that the first document follows; the transaction has locked the counter.

        Raises:
            NotWritten: see there. It must not refuse the batch: after `mend` it comes further.
            PyMongoError: one that passes; the transaction is tried again, as for the events' own sake.
        """
        ...

    def mend(self) -> Steps[None]:
        """See to what NotWritten was raised for, outside of any transaction. Raises nothing."""
        ...

    def committed(self) -> Steps[None]:
        """The batch is stored; its writers have not been told yet. Raises nothing."""
        ...


class Inline(Protocol):
    """Makes the InlineBatch of every batch of events."""

    def batch(self) -> InlineBatch: ...
