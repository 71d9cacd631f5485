"""Personal fields in events, tokens and keys, without a database."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerlake.eventstore.model import Append, NewEvent
from ledgerlake.privacy.cipher import MasterKey, new_key, seal, unseal
from ledgerlake.privacy.fields import PersonalFields
from ledgerlake.privacy.protection import PersonalDataError, Protection
from ledgerlake.privacy.token import Token, is_token, read_token
from ledgerlake.settings import Settings, SettingsError

SUBJECT = "0123456789abcdef" * 2
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def event(data: dict[str, Any] | None = None, **metadata: Any) -> NewEvent:
    return NewEvent("Happened", data or {}, datetime(2026, 1, 1, tzinfo=UTC), "c", "c", metadata)


@given(texts)
def test_a_token_is_read_back_and_opens_under_its_key_only(text: str) -> None:
    key = new_key()
    token = read_token(str(Token(SUBJECT, seal(key, SUBJECT, text))))
    assert token is not None
    assert unseal(key, token.subject, token.sealed) == text
    assert unseal(new_key(), token.subject, token.sealed) is None
    assert unseal(key, "f" * 32, token.sealed) is None


@given(texts)
def test_equal_values_of_a_subject_give_equal_tokens_which_hide_them(text: str) -> None:
    key = new_key()
    assert seal(key, SUBJECT, text) == seal(key, SUBJECT, text)
    assert seal(key, SUBJECT, text) != seal(new_key(), SUBJECT, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alice",
        "pii:",
        "pii:1:alice:AAAA",
        f"pii:2:{SUBJECT}:AAAA",
        f"pii:1:{SUBJECT}:",
        f"pii:1:{SUBJECT}:A",
        f"pii:1:{SUBJECT}:AA AA",
        f"pii:1:{SUBJECT}:AAAA\n",
        f" pii:1:{SUBJECT}:AAAA",
    ],
)
def test_what_is_no_token_is_not_read_as_one(text: str) -> None:
    assert read_token(text) is None
    assert is_token(text) == text.startswith("pii:")


def test_a_master_key_gives_back_what_it_wrapped_and_no_other_does() -> None:
    key, master = new_key(), MasterKey(b"m" * 32)
    wrapped = master.wrap(SUBJECT, key)
    assert key not in wrapped
    assert MasterKey(b"m" * 32).unwrap(SUBJECT, wrapped) == key
    assert MasterKey(b"n" * 32).unwrap(SUBJECT, wrapped) is None
    # A key that was put in another person's place does not open either.
    assert master.unwrap("f" * 32, wrapped) is None
    names = {master.name("alice"), master.name("bob"), MasterKey(b"n" * 32).name("alice")}
    assert len(names) == 3
    assert not any("alice" in name or "bob" in name for name in names)


def test_declared_fields_are_changed_wherever_they_are_and_nothing_else_is() -> None:
    fields = PersonalFields.of(
        ["eventData.reason", "eventData.shipping.street", "metadata.personal", "metadata.userId"]
    )
    before = event(
        {"reason": "stolen", "shipping": {"street": "Elm", "zip": "1"}, "note": "n", "amount": 5},
        personal={"name": "Al", "mails": ["a@b", None, ""], "deeper": {"x": "y"}},
        userId="u",
        channel="web",
    )
    after = fields.changed(before, str.upper)
    assert after.data == {
        "reason": "STOLEN",
        "shipping": {"street": "ELM", "zip": "1"},
        "note": "n",
        "amount": 5,
    }
    assert after.metadata == {
        "personal": {"name": "AL", "mails": ["A@B", None, ""], "deeper": {"x": "Y"}},
        "userId": "U",
        "channel": "web",
    }
    assert before.data["reason"] == "stolen"
    assert fields.unhashed == {"user_id", "reason"}


@pytest.mark.parametrize("given", [{"reason": None}, {}, {"shipping": "by air"}])
def test_a_declared_field_that_is_not_there_is_no_matter(given: dict[str, Any]) -> None:
    fields = PersonalFields.of(["eventData.reason", "eventData.shipping.street"])
    assert fields.changed(event(given), str.upper).data == given


@pytest.mark.parametrize("path", ["reason", "eventData", "eventData.", "metadata..userId", "position.x", ""])
def test_a_path_that_is_no_field_of_an_event_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no field of an event"):
        PersonalFields.of([path])


@pytest.mark.parametrize(
    ("happened", "code"),
    [
        (event({"age": 41}, userId="u"), "bad_personal"),
        (event({"age": "pii:1:x"}, userId="u"), "bad_personal"),
        (event({"age": "41"}), "personal_without_user"),
        (event({"age": "41"}, userId="u"), "bad_personal"),  # there are no keys here
    ],
)
def test_what_can_not_be_put_under_a_key_does_not_get_through(happened: NewEvent, code: str) -> None:
    protection = Protection(PersonalFields.of(["eventData.age"]), None)
    append = Append("s", "Thing", [happened])

    def take() -> None:
        protection.check(append)
        protection.protect([append])

    with pytest.raises(PersonalDataError) as refused:
        take()
    assert refused.value.code == code


def test_appends_without_anything_personal_are_handed_on_as_they_are() -> None:
    appends = [Append("s", "Thing", [event({"age": None}, userId="u")])]
    assert (
        Protection(PersonalFields.of(["eventData.age", "metadata.personal"]), None).protect(appends)
        is appends
    )


@dataclass(frozen=True, slots=True)
class _Shown:
    name: str
    more: tuple[dict[str, Any], ...] = ()


def test_opening_leaves_alone_what_holds_no_token() -> None:
    shown = _Shown("Alice", ({"a": ["b", 1, None]},))
    assert Protection(PersonalFields(), None).opened(shown) is shown


def test_free_details_are_personal_whatever_else_is_declared() -> None:
    assert Settings.from_env({}).personal_fields == ("metadata.personal",)
    given = {"LEDGERLAKE_PERSONAL_FIELDS": " metadata.userId, eventData.reason ,,"}
    expected = ("metadata.personal", "metadata.userId", "eventData.reason")
    assert Settings.from_env(given).personal_fields == expected


@pytest.mark.parametrize(
    "path", ["userId", "metadata.organizationId", "eventData.amountMinor", "metadata.", "metadata.a b", "x.y"]
)
def test_a_field_that_figures_depend_on_can_not_be_declared(path: str) -> None:
    with pytest.raises(SettingsError, match="LEDGERLAKE_PERSONAL_FIELDS names"):
        Settings.from_env({"LEDGERLAKE_PERSONAL_FIELDS": f"metadata.userId,{path}"})


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_master_key_is_32_bytes_in_base64_and_never_printed(encode: Any, tmp_path: Path) -> None:
    secret = bytes(range(223, 255))
    settings = Settings.from_env({"LEDGERLAKE_MASTER_KEY": encode(secret).decode()})
    assert settings.master_key == secret
    assert repr(secret) not in repr(settings)
    for wrong in ("secret", encode(secret[:31]).decode(), "*" * 44):
        with pytest.raises(SettingsError, match="32 bytes in base64") as refused:
            Settings.from_env({"LEDGERLAKE_MASTER_KEY": wrong})
        assert wrong not in str(refused.value)


def test_a_path_through_a_list_is_followed() -> None:
    fields = PersonalFields.of(["eventData.payers.name"])

    def put(payers: object) -> object:
        changed: object = fields.changed(event({"payers": payers}), str.upper).data["payers"]
        return changed

    assert put([{"name": "ada"}, {"other": "x"}]) == [{"name": "ADA"}, {"other": "x"}]
