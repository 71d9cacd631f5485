"""Which fields of events are personal, and how they are found in an event."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.model import NewEvent
from ledgerlake.settings import FREE_DETAILS

__all__ = ["FREE_DETAILS", "NotText", "PersonalFields"]

# What a command's request hash covers, by the field of the event that it becomes.
_HASHED: Final = {("metadata", "userId"): "user_id", ("eventData", "reason"): "reason"}

Keys: TypeAlias = tuple[str, ...]
Change: TypeAlias = Callable[[str], str]


class NotText(LedgerLakeError):
    """A field that is declared personal holds something else than text."""


@dataclass(frozen=True, slots=True)
class PersonalFields:
    """The declared fields, as keys inside eventData and inside metadata.

    A field that holds a document or a list stands for all texts in it. `unhashed` are the fields of a
    command that its request hash must not cover: it would be a fingerprint of them.
    """

    data: tuple[Keys, ...] = ()
    metadata: tuple[Keys, ...] = ()
    unhashed: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        paths = {("eventData", *keys) for keys in self.data} | {("metadata", *keys) for keys in self.metadata}
        unhashed = frozenset(name for path, name in _HASHED.items() if path in paths)
        object.__setattr__(self, "unhashed", unhashed)

    @classmethod
    def of(cls, paths: Collection[str]) -> PersonalFields:
        """From paths such as "metadata.userId" and "eventData.reason".

        Raises:
            ValueError: a path that begins with neither part of an event.
        """
        parts: dict[str, list[Keys]] = {"eventData": [], "metadata": []}
        for path in dict.fromkeys(paths):
            part, *keys = path.split(".")
            if part not in parts or not all(keys) or not keys:
                raise ValueError(f"{path!r} is no field of an event: eventData.NAME or metadata.NAME.")
            parts[part].append(tuple(keys))
        return cls(tuple(parts["eventData"]), tuple(parts["metadata"]))

    def concern(self, event: NewEvent) -> bool:
        """Whether the event may hold anything personal: a look-up per declared field, no more."""
        # Every command comes through here: plain loops, at half the cost of any().
        for keys in self.metadata:
            if event.metadata.get(keys[0]):
                return True
        for keys in self.data:  # noqa: SIM110
            if event.data.get(keys[0]):
                return True
        return False

    def changed(self, event: NewEvent, change: Change) -> NewEvent:
        """The event with each personal text, but empty ones, put through `change`.

        Raises:
            NotText: a declared field holds a number, a date or the like.
        """
        data, metadata = event.data, event.metadata
        for keys in self.data:
            data = _changed(data, keys, change, "eventData")
        for keys in self.metadata:
            metadata = _changed(metadata, keys, change, "metadata")
        return replace(event, data=data, metadata=metadata)


def _changed(document: Mapping[str, Any], keys: Keys, change: Change, path: str) -> Mapping[str, Any]:
    name, *rest = keys
    value = document.get(name)
    if value is None:
        return document
    path = f"{path}.{name}"
    if not rest:
        return {**document, name: _through(value, change, path)}
    return {**document, name: _within(value, tuple(rest), change, path)}


def _within(value: Any, keys: Keys, change: Change, path: str) -> Any:
    """The value with what lies at `keys` in it, or in each of its parts, changed."""
    if isinstance(value, Mapping):
        return _changed(value, keys, change, path)
    if isinstance(value, list | tuple):
        return [_within(inner, keys, change, path) for inner in value]
    return value


def _through(value: Any, change: Change, path: str) -> Any:
    if isinstance(value, str):
        return change(value) if value else value
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {key: _through(inner, change, f"{path}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_through(inner, change, path) for inner in value]
    raise NotText(f"{path} is personal, and a {type(value).__name__}.", "Give it as text.")
