"""Looking back: what led to what, what a payment was at any moment, and everything done or tried on it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database
from typer.testing import CliRunner

from ledgerlake.application import LedgerLake
from ledgerlake.cli import app
from ledgerlake.domain.commands import FailPayment, PaymentCommand, ProcessPayment, RefundPayment
from ledgerlake.domain.money import Money
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.eventstore.model import StoredEvent
from ledgerlake.projections import PROJECTIONS, advance
from ledgerlake.queries import GetAudit, GetPayment, GetPaymentAt, PaymentNotFound, QueryBus, QueryError
from ledgerlake.settings import Settings
from tests.builders import event, insert_events, payment_history

Db = Database[dict[str, Any]]
NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def ledger(settings: Settings, database: Db) -> Iterator[LedgerLake]:
    with LedgerLake.open(settings) as opened:
        yield opened


def command(kind: type[PaymentCommand], command_id: str, amount: str, **fields: Any) -> Any:
    given: dict[str, Any] = {"payment_id": "p", "organization_id": "acme", "occurred_at": NOON, **fields}
    return kind(command_id=command_id, amount=Money.parse(amount, "EUR"), **given)


def recorded_apart(ledger: LedgerLake, commands: list[Any]) -> list[datetime]:
    """Does the commands in different milliseconds; the recorded time of each one's event."""
    for each in commands:
        ledger.commands.dispatch(each)
        time.sleep(0.003)
    return [found.recorded_at for found in ledger.store.read_all()]


class Tool:
    """`ledgerlake` in this process, on the test's own ledger."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._environ = environ

    def __call__(self, *words: str, exit_code: int = 0, width: int | None = None) -> str:
        """With a `width`, as it is shown on a terminal that is so wide; else as a pipe gets it."""
        terminal = {} if width is None else {"COLUMNS": str(width), "FORCE_COLOR": "1"}
        result = CliRunner().invoke(app, words, env={**self._environ, **terminal}, color=True)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == exit_code, result.output
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", result.output)

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))


@pytest.fixture
def tool(environ: dict[str, str], database: Db) -> Tool:
    return Tool(environ)


def test_at_every_position_a_payment_is_what_its_read_model_was_there(
    database: Db, ledger: LedgerLake
) -> None:
    history = payment_history(31, 240, payments=12)
    insert_events(database, history)
    payments = {document["aggregateId"] for document in history}
    for position in (1, 60, 61, 140, 240):
        for projection in PROJECTIONS.values():
            advance(database, projection, up_to=position)
        for payment_id in payments:
            try:
                then = ledger.queries.ask(GetPaymentAt(payment_id, position=position))
            except PaymentNotFound:
                with pytest.raises(PaymentNotFound):
                    ledger.queries.ask(GetPayment(payment_id))
                continue
            assert then.payment == ledger.queries.ask(GetPayment(payment_id)).payment
            assert then.as_of.position == position


def test_at_a_version_a_payment_is_what_its_first_events_come_to(database: Db, ledger: LedgerLake) -> None:
    history = payment_history(32, 200, payments=6)
    insert_events(database, history)
    for document in history:
        at_version = ledger.queries.ask(
            GetPaymentAt(document["aggregateId"], version=int(document["version"]))
        )
        at_position = ledger.queries.ask(
            GetPaymentAt(document["aggregateId"], position=int(document["position"]))
        )
        assert at_version.payment == at_position.payment
        assert at_version.as_of.position == document["position"]
        assert at_version.as_of.time == document["recordedAt"]


def test_an_instant_means_what_the_ledger_knew_then_and_not_when_it_happened(ledger: LedgerLake) -> None:
    late = {"occurred_at": NOON - timedelta(days=40)}
    times = recorded_apart(
        ledger,
        [
            command(ProcessPayment, "c1", "10.00"),
            command(RefundPayment, "c2", "4.00", **late),  # happened long before, reported now
            command(RefundPayment, "c3", "1.00"),
        ],
    )

    def refunded(instant: datetime) -> Decimal:
        return ledger.queries.ask(GetPaymentAt("p", instant=instant)).payment.refunded

    assert [refunded(at) for at in times] == [Decimal("0.00"), Decimal("4.00"), Decimal("5.00")]
    assert refunded(times[1] - timedelta(milliseconds=1)) == 0
    assert ledger.queries.ask(GetPaymentAt("p", instant=times[1])).as_of.position == 2
    with pytest.raises(PaymentNotFound, match=r"knew no payment 'p' at .* first event was recorded at"):
        ledger.queries.ask(GetPaymentAt("p", instant=NOON - timedelta(days=30)))


def test_an_event_that_was_known_brings_those_it_was_decided_on_along(
    database: Db, ledger: LedgerLake
) -> None:
    documents = [
        event(1, "p", "PaymentProcessed", 1_000),
        event(2, "p", "PaymentRefunded", 300, version=2),
        event(3, "p", "PaymentRefunded", 200, version=3),
    ]
    # The second writer's clock was fast.
    for document, second in zip(documents, (0, 5, 3), strict=True):
        document["recordedAt"] = NOON + timedelta(seconds=second)
    insert_events(database, documents)
    found = ledger.queries.ask(GetPaymentAt("p", instant=NOON + timedelta(seconds=3)))
    assert (found.payment.version, found.payment.refunded) == (3, Decimal("5.00"))
    assert ledger.queries.ask(GetPaymentAt("p", instant=NOON + timedelta(seconds=2))).payment.version == 1


@pytest.mark.parametrize(
    ("moment", "error", "says"),
    [
        ({}, QueryError, "one version, position or instant"),
        ({"version": 1, "position": 1}, QueryError, "give one of them"),
        ({"version": 0}, QueryError, "version is a whole number from 1, not 0"),
        ({"version": True}, QueryError, "not True"),
        ({"position": -1}, QueryError, "position is a whole number from 0"),
        ({"position": 9}, QueryError, "ends at position 3: there is no position 9 yet"),
        ({"instant": datetime(2026, 6, 1)}, QueryError, "time zone"),
        ({"instant": datetime(9000, 6, 1, tzinfo=UTC)}, QueryError, "still to come"),
        ({"version": 3}, PaymentNotFound, r"'p' has come to version 2 \(position 3\): there is no version 3"),
        ({"position": 1}, PaymentNotFound, r"no payment 'p' at position 1: it begins at position 2"),
    ],
)
def test_a_moment_that_can_not_be_is_a_clear_answer(
    database: Db, ledger: LedgerLake, moment: dict[str, Any], error: type[Exception], says: str
) -> None:
    insert_events(
        database,
        [
            event(1, "another", "PaymentProcessed", 1_000),
            event(2, "p", "PaymentProcessed", 1_000),
            event(3, "p", "PaymentRefunded", 300, version=2),
        ],
    )
    with pytest.raises(error, match=says):
        ledger.queries.ask(GetPaymentAt("p", **moment))


def test_what_is_no_payment_is_not_taken_for_one(database: Db, ledger: LedgerLake) -> None:
    insert_events(database, [{**event(1, "cart", "ItemAdded", 1), "aggregateType": "Cart"}])
    for question in (GetPaymentAt("cart", version=1), GetAudit("cart")):
        with pytest.raises(PaymentNotFound, match="'cart' is no payment: it is of type Cart"):
            ledger.queries.ask(question)
        with pytest.raises(QueryError, match="was not given"):
            QueryBus(database).ask(question)


def refused(ledger: LedgerLake, given: Any) -> None:
    with pytest.raises(CommandRejected):
        ledger.commands.dispatch(given)
    time.sleep(0.003)


def test_an_audit_tells_who_did_what_when_and_why_with_the_state_after_each_step(ledger: LedgerLake) -> None:
    refused(ledger, command(RefundPayment, "early", "2.00", user_id="ann"))
    ledger.commands.dispatch(
        command(FailPayment, "c1", "10.00", user_id="ann", reason="card_expired", metadata={"channel": "web"})
    )
    time.sleep(0.003)
    ledger.commands.dispatch(
        command(ProcessPayment, "c2", "10.00", user_id="ann", correlation_id="talk", causation_id="order-7")
    )
    time.sleep(0.003)
    refused(ledger, command(RefundPayment, "greedy", "10.01", user_id="bob"))
    ledger.commands.dispatch(command(RefundPayment, "early", "2.00", user_id="ann"))  # right by now
    found = ledger.queries.ask(GetAudit("p"))
    told = [
        (
            step.what,
            step.version,
            step.user_id,
            step.refused and step.refused.reason_code,
            step.state and (step.state.status, step.state.processed, step.state.refunded, step.state.left),
        )
        for step in found.steps
    ]
    ten, two, zero = Decimal("10.00"), Decimal("2.00"), Decimal("0.00")
    failed, completed = ("failed", None, zero, zero), ("completed", ten, zero, ten)
    assert told == [
        ("RefundPayment", None, "ann", "unknown_payment", None),
        ("PaymentFailed", 1, "ann", None, failed),
        ("PaymentProcessed", 2, "ann", None, completed),
        ("RefundPayment", None, "bob", "refund_exceeds_payment", completed),
        ("PaymentRefunded", 3, "ann", None, ("partially_refunded", ten, two, ten - two)),
    ]
    first, failure, success, greedy, _ = found.steps
    assert first.refused is not None
    assert first.refused.resolved_at is not None
    assert greedy.refused is not None
    assert greedy.refused.resolved_at is None
    assert "exceeds" in greedy.refused.detail
    assert (failure.reason, dict(failure.metadata)) == ("card_expired", {"channel": "web"})
    assert (failure.command_id, failure.correlation_id, failure.causation_id) == ("c1", "c1", "c1")
    assert (success.correlation_id, success.causation_id) == ("talk", "order-7")
    assert success.occurred_at == NOON
    assert success.recorded_at > NOON or success.recorded_at.tzinfo is not None
    assert found.as_of.position == 3


def test_an_audit_of_a_payment_that_was_only_ever_refused_says_so(ledger: LedgerLake) -> None:
    refused(ledger, command(RefundPayment, "r", "2.00"))
    [step] = ledger.queries.ask(GetAudit("p")).steps
    assert (step.refused and step.refused.reason_code, step.state) == ("unknown_payment", None)
    with pytest.raises(PaymentNotFound, match="'nobody'"):
        ledger.queries.ask(GetAudit("nobody"))


def test_a_credit_note_is_audited_by_its_stream_with_what_was_refused_under_its_id(
    ledger: LedgerLake,
) -> None:
    refused(ledger, command(RefundPayment, "note", "0.00", payment_id=None))
    done = ledger.commands.dispatch(command(RefundPayment, "note", "3.00", payment_id=None))
    steps = ledger.queries.ask(GetAudit(done.stream_id)).steps
    assert [step.what for step in steps] == ["RefundPayment", "PaymentRefunded"]
    assert steps[1].state is not None
    assert (steps[1].state.processed, steps[1].state.left) == (None, 0)


def test_a_trace_prints_what_led_to_what(tool: Tool, ledger: LedgerLake) -> None:
    first = ledger.commands.dispatch(command(ProcessPayment, "c1", "1234.50", correlation_id="talk"))
    [stored] = ledger.store.read_stream("p")
    for n, cause in enumerate(("c1", stored.event_id, "r0"), start=0):
        ledger.commands.dispatch(
            command(RefundPayment, f"r{n}", "1.00", correlation_id="talk", causation_id=cause)
        )
    ledger.commands.dispatch(command(ProcessPayment, "other", "9.00", payment_id="q"))
    printed = tool("trace", "talk")
    lines = [line for line in printed.splitlines() if "position" in line]
    assert [(line.find("Payment") // 4, line.split("position ")[1]) for line in lines] == [
        (1, "1"),
        (2, "2"),
        (3, "4"),
        (2, "3"),
    ]
    assert "1,234.50 EUR" in lines[0]
    assert "p@1" in lines[0]
    assert "command c1" in printed
    events = tool.json("trace", "talk")["events"]
    assert [(e["depth"], e["position"], e["caused_by"]) for e in events] == [
        (0, 1, None),
        (1, 2, 1),
        (2, 4, 2),
        (1, 3, 1),
    ]
    assert (events[0]["amount"], events[0]["currency"], events[0]["stream_id"]) == ("1234.50", "EUR", "p")
    assert first.position == 1
    assert "No event has the correlation id 'nobody'" in tool("trace", "nobody", exit_code=1)


def test_the_command_line_travels_in_time(tool: Tool, ledger: LedgerLake) -> None:
    times = recorded_apart(
        ledger, [command(ProcessPayment, "c1", "10.00"), command(RefundPayment, "c2", "4.00")]
    )
    assert tool.json("payment", "p", "--version", "1")["payment"]["status"] == "completed"
    assert tool.json("payment", "p", "--position", "2")["payment"]["status"] == "partially_refunded"
    assert tool.json("payment", "p", "--at", times[0].isoformat())["payment"]["net"] == "10.00"
    assert "as of position 1" in tool("payment", "p", "--version", "1")
    assert "no version 7 yet" in tool("payment", "p", "--version", "7", exit_code=1)
    tool("payment", "p", "--at", "yesterday", exit_code=2)
    with pytest.raises(QueryError):
        tool("payment", "p", "--version", "1", "--position", "1")


def test_the_audit_prints_within_the_width_of_a_terminal(tool: Tool, ledger: LedgerLake) -> None:
    ledger.commands.dispatch(command(ProcessPayment, "c" * 60, "1234567.89", user_id="u" * 70))
    refused(ledger, command(RefundPayment, "greedy", "1234567.90", reason="[bold]not markup[/bold]"))
    for width in (80, 120):
        printed = tool("audit", "p", width=width)
        assert max(map(len, printed.splitlines())) <= width
        assert "refund_exceeds_payment" in printed
        assert "1,234,567.89" in printed
        assert "2026-06-01T12:00:00.000Z" in printed
    steps = tool.json("audit", "p")["steps"]
    assert [step["what"] for step in steps] == ["PaymentProcessed", "RefundPayment"]
    assert steps[0]["state"]["left"] == "1234567.89"
    assert "'nobody'" in tool("audit", "nobody", exit_code=1)


def test_an_audit_prints_details_line_by_line(tool: Tool, ledger: LedgerLake, database: Db) -> None:
    details = {"name": "Ann Example", "address": "Rue des Lilas 12"}
    ledger.commands.dispatch(
        command(ProcessPayment, "c1", "1.00", user_id="ann", personal=details, metadata={"channel": "web"})
    )
    # Whatever another program may have put there.
    other = {"metadata.tags": ["new", {"risk": "low"}], "metadata.first": True, "metadata.none": None}
    database["events"].update_one({"position": 1}, {"$set": other})
    printed = tool("audit", "p", width=80)
    lines = [" ".join(line.strip("\u2502 ").split()) for line in printed.splitlines()]
    for said in (
        "channel web",
        "first yes",
        "personal.address Rue des Lilas 12",
        "personal.name Ann Example",
        "tags.1 new",
        "tags.2.risk low",
    ):
        assert any(said in line for line in lines), printed
    assert "{" not in printed
    assert "None" not in printed


def test_what_was_refused_under_the_name_of_a_credit_note_is_in_its_audit(ledger: LedgerLake) -> None:
    refused(ledger, command(RefundPayment, "note", "0.00", payment_id=None))
    refused(ledger, command(ProcessPayment, "mine", "1.00", payment_id="credit-note/note"))
    steps = ledger.queries.ask(GetAudit("credit-note/note")).steps
    assert [step.refused and step.refused.reason_code for step in steps] == ["zero_amount", "bad_payment_id"]


def test_events_of_one_correlation_come_in_the_order_of_the_log(ledger: LedgerLake) -> None:
    for n in range(5):
        ledger.commands.dispatch(
            command(ProcessPayment, f"c{n}", "1.00", payment_id=f"p{9 - n}", correlation_id="talk")
        )
    found: list[StoredEvent] = ledger.store.read_correlation("talk")
    assert [each.command_id for each in found] == [f"c{n}" for n in range(5)]


def test_what_a_refused_row_says_can_not_blow_up_or_shift_its_audit(
    ledger: LedgerLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(
        "command,command_id,payment_id,organization_id,user_id,amount,currency,occurred_at,reason\n"
        "refund,huge,p9,acme,u,1e999999999,EUR,2024-01-02T10:00:00,\n"
    )
    ledger.import_file(file)
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        [step] = ledger.queries.ask(GetAudit("p9")).steps
    finally:
        monkeypatch.undo()
        time.tzset()
    assert step.amount == "1e999999999"
    assert step.occurred_at == datetime(2024, 1, 2, 10, tzinfo=UTC)


def test_a_command_that_no_utf8_can_hold_is_refused_and_kept(ledger: LedgerLake) -> None:
    broken = ProcessPayment(
        command_id="surrogate",
        payment_id="p8",
        organization_id="acme",
        user_id="\ud800",
        amount=Money(1, "EUR"),
        occurred_at=datetime(2024, 1, 2, tzinfo=UTC),
    )
    with pytest.raises(CommandRejected):
        ledger.commands.dispatch(broken)
    kept = ledger.db["command_rejections"].find_one({"commandId": "surrogate"})
    assert kept is not None
    assert kept["userId"] == "\\ud800"


def test_a_terminal_that_is_too_narrow_cuts_no_figure_off_and_no_hash(tool: Tool, ledger: LedgerLake) -> None:
    ledger.commands.dispatch(command(ProcessPayment, "c1", "1234567.89"))
    ledger.refresh()
    [chain] = [check for check in ledger.verify().checks if check.name == "log chain"]
    head = chain.detail.rpartition(" ")[2]
    printed = tool("verify", width=80)
    assert f"To be noted outside: {head}" in printed.splitlines()
    assert "\u2026" not in printed
    assert "as it was noted at position 1" in tool("verify", "--head", head, width=120)
    narrow = tool("statistics", width=40)
    assert "1,234,567.89" in narrow
    assert "\u2026" not in narrow


def test_an_archiving_without_a_sealed_segment_says_why_nothing_leaves(
    tool: Tool, ledger: LedgerLake
) -> None:
    ledger.commands.dispatch(command(ProcessPayment, "c1", "1.00"))
    ledger.refresh()
    assert "the lake has sealed nothing" in tool("archive", "--before", "2026-09-01", "--dry-run")
