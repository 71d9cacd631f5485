"""Which model reads an event, by its type and schema version: an explicit table, and nothing else.

A document only ever holds a name and a number. They are looked up here; nothing is imported, and no class
is found, by a name that stands in the data.

An event is never rewritten. When the shape of eventData changes, the model moves on to the next schema
version, and an upcaster turns data of the version before into it, one step at a time, when it is read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

from ledgerlake.errors import LedgerLakeError

E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)

Data: TypeAlias = Mapping[str, Any]
Read: TypeAlias = Callable[[Data], E]
Upcast: TypeAlias = Callable[[dict[str, Any]], Data]

FIRST_VERSION: Final = 1


class UnknownEvent(LedgerLakeError):
    """An event whose type and schema version this program has no model for."""


class UnreadableEvent(LedgerLakeError):
    """An event whose data is not what its type and schema version promise."""


class RegistryError(LedgerLakeError):
    """A registry that contradicts itself, or has a hole: found when the program starts."""


@dataclass(frozen=True, slots=True)
class Model(Generic[E_co]):
    """An event type, its current schema version, and how data of that version is read.

    `read` ignores fields that it does not know: they may come from a later program.
    """

    event_type: str
    version: int
    read: Callable[[Data], E_co]


@dataclass(frozen=True, slots=True)
class Upcaster:
    """Turns data of one event type from schema version `from_version` into the next.

    `upcast` gets a copy, which it may change and return. What it does not know it passes through.
    """

    event_type: str
    from_version: int
    upcast: Upcast


class EventRegistry(Generic[E]):
    """The event types of an aggregate: one model each, and upcasters from every older version.

    Raises:
        RegistryError: a type with two models; two upcasters from one version; an upcaster for a type
            without a model, or from the model's version or a later one; a version from 1 on that no
            upcaster takes.
    """

    def __init__(self, models: Iterable[Model[E]], upcasters: Iterable[Upcaster] = ()) -> None:
        self._models: dict[str, Model[E]] = {}
        self._upcasters: dict[tuple[str, int], Upcast] = {}
        for model in models:
            if model.event_type in self._models:
                raise RegistryError(f"Event type {model.event_type!r} has two models.")
            if model.version < FIRST_VERSION:
                raise RegistryError(f"{_name(model.event_type, model.version)}: versions start at 1.")
            self._models[model.event_type] = model
        for upcaster in upcasters:
            self._add(upcaster)
        for model in self._models.values():
            for version in range(FIRST_VERSION, model.version):
                if (model.event_type, version) not in self._upcasters:
                    raise RegistryError(
                        f"Nothing upcasts {_name(model.event_type, version)}.",
                        f"Register an upcaster from every version up to {model.version - 1}: "
                        "the log may hold events of any.",
                    )

    @property
    def event_types(self) -> tuple[str, ...]:
        """The types that have a model, in the order of their registration."""
        return tuple(self._models)

    def version(self, event_type: str) -> int:
        """The current schema version of a type: the one to write.

        Raises:
            UnknownEvent: no model is registered for the type.
        """
        if event_type not in self._models:
            raise _unknown(f"event type {event_type!r}")
        return self._models[event_type].version

    def upcast(self, event_type: str, schema_version: int, data: Data) -> Data:
        """The data in the shape of the type's current version. The data given stays as it is.

        Raises:
            UnknownEvent: the type or the version is not registered.
            UnreadableEvent: the data is not what its version promises.
        """
        current = self._model(event_type, schema_version).version
        if schema_version == current:
            return data
        # The document's own sub-document comes in: readers after this one must find it as it is stored.
        upcasted: Data = copy.deepcopy(dict(data))
        for version in range(schema_version, current):
            upcasted = _checked(event_type, version, self._upcasters[event_type, version], dict(upcasted))
            upcasted = _checked(event_type, version, _a_document, upcasted)
        return upcasted

    def read(self, event_type: str, schema_version: int, data: Data) -> E:
        """The event that eventData of this type and schema version holds.

        Raises:
            UnknownEvent: the type or the version is not registered.
            UnreadableEvent: the data is not what its version promises.
        """
        current = self.upcast(event_type, schema_version, data)
        return _checked(event_type, schema_version, self._models[event_type].read, current)

    def _add(self, upcaster: Upcaster) -> None:
        name = _name(upcaster.event_type, upcaster.from_version)
        model = self._models.get(upcaster.event_type)
        if model is None:
            raise RegistryError(f"There is an upcaster from {name}, but no model of that type.")
        if not FIRST_VERSION <= upcaster.from_version < model.version:
            raise RegistryError(
                f"There is an upcaster from {name}, but the model reads version {model.version}.",
                "An upcaster leads from an older version to the model's.",
            )
        key = (upcaster.event_type, upcaster.from_version)
        if key in self._upcasters:
            raise RegistryError(f"There are two upcasters from {name}.")
        self._upcasters[key] = upcaster.upcast

    def _model(self, event_type: str, schema_version: int) -> Model[E]:
        model = self._models.get(event_type)
        # Nothing that merely equals a version, a float or a bool, is one.
        whole = isinstance(schema_version, int) and not isinstance(schema_version, bool)
        if model is None or not whole or not FIRST_VERSION <= schema_version <= model.version:
            raise _unknown(_name(event_type, schema_version))
        return model


T = TypeVar("T")
Given = TypeVar("Given")


def _checked(event_type: str, version: int, function: Callable[[Given], T], data: Given) -> T:
    try:
        return function(data)
    except RegistryError:
        raise
    except (LedgerLakeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UnreadableEvent(
            f"The data of {_name(event_type, version)} can not be read ({type(error).__name__}: {error}).",
            "Events are written by the event store only: repair or restore this event.",
        ) from error


def _a_document(upcasted: Data) -> Data:
    if not isinstance(upcasted, Mapping):
        raise TypeError(f"its upcaster returns a {type(upcasted).__name__}")
    return upcasted


def _name(event_type: str, version: int) -> str:
    return f"event type {event_type!r} with schema version {version!r}"


def _unknown(name: str) -> UnknownEvent:
    return UnknownEvent(f"No model for {name}.", "A newer LedgerLake wrote it: upgrade this one.")
