"""A row becomes a command, or says why not, by the first rule that it breaks."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from ledgerlake.domain.commands import FailPayment, ProcessPayment, RefundPayment
from ledgerlake.domain.money import Money
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.ingest.parse import parse_command

ROW: dict[str, Any] = {
    "command": "ProcessPayment",
    "command_id": "c",
    "payment_id": "p",
    "organization_id": "o",
    "user_id": "u",
    "amount": "1.50",
    "currency": "EUR",
    "occurred_at": "2026-06-01T12:00:00.123456+02:00",
    "reason": "",
}


def test_a_row_becomes_the_command_that_it_names() -> None:
    command = parse_command(ROW)
    assert command == ProcessPayment(
        command_id="c",
        payment_id="p",
        organization_id="o",
        user_id="u",
        amount=Money(150, "EUR"),
        occurred_at=datetime(2026, 6, 1, 10, 0, 0, 123000, tzinfo=UTC),
    )
    failed = parse_command({**ROW, "command": "FailPayment", "reason": "card_expired"})
    assert isinstance(failed, FailPayment)
    assert failed.reason == "card_expired"
    note = parse_command({**ROW, "command": "RefundPayment", "payment_id": ""})
    assert isinstance(note, RefundPayment)
    assert note.payment_id is None


@pytest.mark.parametrize(
    ("given", "instant"),
    [
        ("2026-06-01", datetime(2026, 6, 1, tzinfo=UTC)),
        ("2026-06-01T01:30:00", datetime(2026, 6, 1, 1, 30, tzinfo=UTC)),
        ("2026-06-01T01:30:00Z", datetime(2026, 6, 1, 1, 30, tzinfo=UTC)),
        ("2026-06-01 01:30:00-05:00", datetime(2026, 6, 1, 6, 30, tzinfo=UTC)),
        (date(2026, 6, 1), datetime(2026, 6, 1, tzinfo=UTC)),
        (datetime(2026, 6, 1, 2, tzinfo=timezone(timedelta(hours=2))), datetime(2026, 6, 1, tzinfo=UTC)),
    ],
)
def test_an_instant_is_kept_in_utc(given: Any, instant: datetime) -> None:
    assert parse_command({**ROW, "occurred_at": given}).occurred_at == instant


@pytest.mark.parametrize("amount", ["1.5", Decimal("1.50"), "1.500"])
def test_the_same_amount_is_read_from_text_and_decimal(amount: Any) -> None:
    assert parse_command({**ROW, "amount": amount}).amount == Money(150, "EUR")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"command": "Pay"}, "unknown_command"),
        ({"command": None}, "unknown_command"),
        ({"command_id": " "}, "missing_command_id"),
        ({"organization_id": None}, "missing_organization_id"),
        ({"payment_id": ""}, "missing_payment_id"),
        ({"currency": "XXX"}, "unknown_currency"),
        ({"currency": ""}, "unknown_currency"),
        ({"amount": "1.505"}, "bad_amount"),
        ({"amount": "ten"}, "bad_amount"),
        ({"amount": ""}, "bad_amount"),
        ({"amount": None}, "bad_amount"),
        ({"amount": 1.5}, "bad_amount"),
        ({"amount": True}, "bad_amount"),
        ({"occurred_at": "01/06/2026"}, "bad_date"),
        ({"occurred_at": ""}, "bad_date"),
        ({"occurred_at": None}, "bad_date"),
        ({"occurred_at": "0001-01-01T00:00:00+14:00"}, "bad_date"),
        ({"occurred_at": "1066-10-14"}, "bad_date"),
        ({"amount": "x", "occurred_at": "x"}, "bad_amount"),
        ({"amount": "0.00", "occurred_at": "x"}, "bad_date"),
        ({"command_id": "", "amount": "x"}, "missing_command_id"),
    ],
)
def test_a_row_that_is_no_command_says_why_by_the_first_rule_it_breaks(
    change: dict[str, Any], code: str
) -> None:
    with pytest.raises(CommandRejected) as rejected:
        parse_command({**ROW, **change})
    assert rejected.value.code == code
