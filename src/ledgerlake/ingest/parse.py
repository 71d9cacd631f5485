"""A row of an imported file into a command, or into the reason why it is none."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from ledgerlake.commands.middleware import validate
from ledgerlake.domain.commands import COMMANDS, FailPayment, ProcessPayment, RefundPayment
from ledgerlake.domain.money import Money, MoneyError
from ledgerlake.domain.payment import Command, CommandRejected


def parse_command(fields: Mapping[str, Any]) -> Command:
    """The command of a row with the import's columns.

    Values are text, or what Parquet and JSON have typed (Decimal, int, datetime, date, None).

    Raises:
        CommandRejected: with the code of the first rule, in this order: unknown_command,
            missing_/bad_ command_id, organization_id, payment_id, user_id; unknown_currency, bad_amount,
            bad_date.
    """
    name = _text(fields, "command")
    kind = COMMANDS.get(name or "")
    if "payment_id" not in fields:
        # Only JSON can leave it out in one row. Taken for empty, a mistyped key would make of a refund
        # a credit note that leaves its payment untouched.
        raise CommandRejected("missing_payment_id", "payment_id is missing; for a credit note it is null.")
    if kind is None:
        raise CommandRejected("unknown_command", f"{name!r} is none of {', '.join(COMMANDS)}.")
    payment_id = _text(fields, "payment_id")
    bad_amount: MoneyError | None = None
    try:
        amount = _money(fields)
    except MoneyError as error:
        # The ids come first in the order of the rules: they are checked on a stand-in.
        amount, bad_amount = Money(0, "EUR"), error
    common: dict[str, Any] = {
        "command_id": _text(fields, "command_id") or "",
        "organization_id": _text(fields, "organization_id") or "",
        "user_id": _text(fields, "user_id"),
        "amount": amount,
        "occurred_at": _UNKNOWN if bad_amount is not None else _instant(fields.get("occurred_at")),
        "reason": _text(fields, "reason"),
    }
    command: Command
    if kind is RefundPayment:
        command = RefundPayment(payment_id=payment_id, **common)
    elif kind is FailPayment:
        command = FailPayment(payment_id=payment_id or "", **common)
    else:
        command = ProcessPayment(payment_id=payment_id or "", **common)
    validate(command)
    if bad_amount is not None:
        raise CommandRejected(bad_amount.code, str(bad_amount))
    return command


_UNKNOWN = datetime(1970, 1, 1, tzinfo=UTC)


def _text(fields: Mapping[str, Any], column: str) -> str | None:
    value = fields.get(column)
    if type(value) is not str:
        if value is None:
            return None
        value = str(value)
    return value.strip() or None


def _money(fields: Mapping[str, Any]) -> Money:
    currency = _text(fields, "currency")
    if currency is None:
        raise MoneyError("unknown_currency", "currency is missing.")
    amount = fields.get("amount")
    if amount is None:
        raise MoneyError("bad_amount", "amount is missing.")
    # An int is in units, as text is; a float, a bool or anything else is refused by the type.
    return Money.parse(amount, currency)


def _instant(value: Any) -> datetime:
    """An instant in UTC, in whole milliseconds; a time without a zone is taken as UTC, a date as midnight."""
    if isinstance(value, datetime):
        instant = value
    elif isinstance(value, date):
        instant = datetime(value.year, value.month, value.day, tzinfo=UTC)
    else:
        text = "" if value is None else str(value).strip()
        try:
            instant = datetime.fromisoformat(text)
        except ValueError:
            raise CommandRejected(
                "bad_date", f"occurred_at {text!r} is not an ISO 8601 date or time."
            ) from None
    try:
        instant = instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except OverflowError:
        raise CommandRejected("bad_date", f"occurred_at {value} is out of range.") from None
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)
