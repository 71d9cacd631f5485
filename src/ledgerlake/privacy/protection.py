"""Personal values out of events, and back onto the screen of whoever may see them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import compress
from typing import Any, Final, TypeVar

from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.model import Append, NewEvent
from ledgerlake.privacy.cipher import seal, unseal
from ledgerlake.privacy.fields import NotText, PersonalFields
from ledgerlake.privacy.keys import KeyRing, SubjectKey
from ledgerlake.privacy.token import PREFIX, Token, is_token, read_token

T = TypeVar("T")

# What is shown in the place of a value whose key was destroyed, and of one whose key was never here.
FORGOTTEN: Final = "(forgotten)"
NO_KEY: Final = "(no key)"


class PersonalDataError(LedgerLakeError):
    """A personal value that can not be put under a key. `code` is the reason code of a refused command."""

    def __init__(self, code: str, message: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy)
        self.code = code


@dataclass(frozen=True, slots=True)
class Protection:
    """What is personal, and the keys it is put under. Without `keys` nothing personal is let through."""

    fields: PersonalFields
    keys: KeyRing | None

    @property
    def unhashed(self) -> frozenset[str]:
        """The fields of a command that its request hash leaves out."""
        return self.fields.unhashed

    def check(self, append: Append) -> None:
        """See that what is personal in the events can be put under a key.

        Raises:
            PersonalDataError: `personal_without_user`: the event names no user in metadata.userId, so there
                is no key; `bad_personal`: it is no text, or looks like a token already.
        """
        for event in append.events:
            if self.fields.concern(event):
                self._changed(event, lambda text: text)

    def protect(self, appends: Sequence[Append]) -> Sequence[Append]:
        """The appends with a token in the place of each personal value.

        Raises:
            PersonalDataError: see `check`.
            MasterKeyError, KeysUnavailable: no key could be had; nothing was stored.
        """
        concerned = [any(map(self.fields.concern, append.events)) for append in appends]
        if not any(concerned):
            return appends
        users = {
            str(event.metadata["userId"])
            for append in compress(appends, concerned)
            for event in append.events
            if event.metadata.get("userId")
        }
        keys = self._ring().of_users(users)
        return [
            replace(append, events=tuple(self._sealed(event, keys) for event in append.events))
            if personal
            else append
            for append, personal in zip(appends, concerned, strict=True)
        ]

    def tokens(self, user_ids: Collection[str]) -> dict[str, str]:
        """What stands for each of the users where metadata.userId is personal; else the ids as they are."""
        if "user_id" not in self.unhashed:
            return {user_id: user_id for user_id in user_ids}
        keys = self._ring().of_users(user_ids)
        return {user_id: _token(keys[user_id], user_id) for user_id in user_ids}

    def opened(self, value: T) -> T:
        """The value, a text, document, list or dataclass, with its tokens replaced by what they hold.

        Where the key is gone, by "(forgotten)". For a screen: what is opened must not be written anywhere.

        Raises:
            MasterKeyError.
        """
        tokens: dict[str, Token] = {}

        def note(text: str) -> str:
            if (token := read_token(text)) is not None:
                tokens[text] = token
            return text

        _walk(value, note)
        if not tokens:
            return value
        keys = self._ring().of_subjects({token.subject for token in tokens.values()})
        clear = {text: _clear(text, token, keys) for text, token in tokens.items()}
        opened: T = _walk(value, lambda text: clear.get(text, text))
        return opened

    def _changed(self, event: NewEvent, change: Callable[[str], str]) -> NewEvent:
        """The event with each personal text, fit to be put under its user's key, put through `change`."""
        owned = bool(event.metadata.get("userId"))

        def checked(text: str) -> str:
            if not owned:
                raise PersonalDataError(
                    "personal_without_user",
                    "Something personal comes without a user to whose key it belongs.",
                    "Name the user, or leave the personal details out.",
                )
            if is_token(text):
                raise PersonalDataError("bad_personal", f"A personal value may not begin with {PREFIX!r}.")
            return change(text)

        try:
            return self.fields.changed(event, checked)
        except NotText as error:
            raise PersonalDataError("bad_personal", error.message, error.remedy) from error

    def _sealed(self, event: NewEvent, keys: Mapping[str, SubjectKey]) -> NewEvent:
        user_id = str(event.metadata.get("userId"))
        return self._changed(event, lambda text: _token(keys[user_id], text))

    def _ring(self) -> KeyRing:
        if self.keys is None:
            raise PersonalDataError(
                "bad_personal",
                "This handler has no keys for personal data.",
                "Take the one of LedgerLake, or hand in a Protection with a KeyRing.",
            )
        return self.keys


def _token(key: SubjectKey, text: str) -> str:
    return str(Token(key.subject, seal(key.key, key.subject, text)))


def _clear(text: str, token: Token, keys: Mapping[str, SubjectKey | None]) -> str:
    if token.subject not in keys:
        return NO_KEY
    key = keys[token.subject]
    if key is None:
        return FORGOTTEN
    clear = unseal(key.key, key.subject, token.sealed)
    # Not made by us, or changed since: it is shown as it is.
    return text if clear is None else clear


def _walk(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        # No enumeration, and no other kind of text, is ever a token.
        return change(value) if type(value) is str else value
    if isinstance(value, Mapping):
        return {key: _walk(inner, change) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_walk(inner, change) for inner in value)
    if is_dataclass(value) and not isinstance(value, type):
        before = {each.name: getattr(value, each.name) for each in fields(value) if each.init}
        after = {name: _walk(inner, change) for name, inner in before.items()}
        changed = {name: inner for name, inner in after.items() if inner != before[name]}
        return replace(value, **changed) if changed else value
    return value
