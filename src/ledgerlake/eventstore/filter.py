"""Which events a reader wants: one value, understood by the server and by memory alike."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

from ledgerlake.eventstore.model import StoredEvent


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Events whose every named property is one of those given; None leaves a property open.

    `organizations` are those of `metadata.organizationId`.
    """

    event_types: frozenset[str] | None = None
    aggregate_types: frozenset[str] | None = None
    organizations: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        *,
        event_types: Iterable[str] | None = None,
        aggregate_types: Iterable[str] | None = None,
        organizations: Iterable[str] | None = None,
    ) -> Self:
        """A filter from iterables of names. A single text is refused: it would be taken letter by letter."""
        return cls(_names(event_types), _names(aggregate_types), _names(organizations))

    @property
    def selects_all(self) -> bool:
        """Whether nothing is left out, so that the positions read must have no gap."""
        return self == EVERYTHING

    def matches(self, event: StoredEvent) -> bool:
        """Whether the reader wants this event."""
        return (
            (self.event_types is None or event.event_type in self.event_types)
            and (self.aggregate_types is None or event.aggregate_type in self.aggregate_types)
            and (self.organizations is None or event.metadata.get("organizationId") in self.organizations)
        )

    def condition(self) -> dict[str, Any]:
        """The same as conditions of a MongoDB query."""
        wanted: tuple[tuple[str, Collection[str] | None], ...] = (
            ("eventType", self.event_types),
            ("aggregateType", self.aggregate_types),
            ("metadata.organizationId", self.organizations),
        )
        return {name: {"$in": sorted(values)} for name, values in wanted if values is not None}


EVERYTHING: Final = EventFilter()


def _names(names: Iterable[str] | None) -> frozenset[str] | None:
    if isinstance(names, str):
        raise TypeError(f"A collection of names is wanted, not the text {names!r}: write [{names!r}].")
    return None if names is None else frozenset(names)
