"""Commands that look back: trace (what led to what) and audit (who did what to a payment)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ledgerlake.cli.render import AsJson, console, plain, print_json

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from ledgerlake.eventstore.model import StoredEvent
    from ledgerlake.queries import AuditStep, StateAfter


def register(app: typer.Typer) -> None:
    """Add these commands to the tool."""
    app.command("trace")(trace)
    app.command("audit")(audit)


def trace(
    correlation_id: Annotated[
        str, typer.Argument(help="The conversation; of a command that names none, the command's own id.")
    ],
    json: AsJson = False,
) -> None:
    """The events of one correlation id as a tree: what caused what. Exit 1 if there is none."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.eventstore.trace import causation_tree, walk

    with LedgerLake.open() as ledger:
        events = ledger.store.read_correlation(correlation_id)
    if not events:
        console(stderr=True).print(
            f"No event has the correlation id {correlation_id!r}. A command that names none has its own.",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)
    nodes = list(walk(causation_tree(events)))
    if json:
        # A list, not nested: a long chain of causes would be nested deeper than readers of JSON follow.
        traced = [
            {
                "depth": depth,
                "caused_by": None if cause is None else cause.event.position,
                "unknown_cause": node.unknown_cause,
                **_event(node.event),
            }
            for depth, node, cause in nodes
        ]
        print_json({"correlation_id": correlation_id, "events": traced})
        return
    from rich.text import Text
    from rich.tree import Tree

    count = f"{len(events):,} event{'' if len(events) == 1 else 's'}"
    trees = [Tree(Text(f"Correlation {correlation_id}: {count}", "bold"))]
    for depth, node, _ in nodes:
        del trees[depth + 1 :]
        trees.append(trees[depth].add(_label(node.event, node.unknown_cause)))
    console().print(trees[0])


def audit(payment_id: Annotated[str, typer.Argument(help="The payment's id.")], json: AsJson = False) -> None:
    """Who did what to a payment, when and why, refused commands too, and the state after each step."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.queries import GetAudit, PaymentNotFound
    from ledgerlake.queries.audit import MOST_REFUSALS

    with LedgerLake.open() as ledger:
        try:
            found = ledger.queries_in_clear.ask(GetAudit(payment_id))
        except PaymentNotFound as error:
            console(stderr=True).print(str(error), markup=False, soft_wrap=True)
            raise typer.Exit(1) from None
    if json:
        print_json(found)
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.ROUNDED, show_lines=True, expand=False)
    table.add_column("step", no_wrap=True)
    table.add_column("what happened, who did it, and why", overflow="fold", ratio=1)
    table.add_column("state after", no_wrap=True)
    for step in found.steps:
        table.add_row(_place(step), _story(step), _state(step.state))
    out = console()
    out.print(f"Audit of payment {payment_id}", style="bold", markup=False, soft_wrap=True)
    out.print(table)
    if found.older_refusals:
        note = f"Of refused commands the latest {MOST_REFUSALS} are shown, and there are more."
        out.print(note, style="yellow", markup=False, soft_wrap=True)
    out.print(f"as of position {found.as_of.position:,}", style="dim", markup=False)


def _event(event: StoredEvent) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "event_type": event.event_type,
        "stream_id": event.stream_id,
        "version": event.version,
        "position": event.position,
        "recorded_at": event.recorded_at,
        "occurred_at": event.timestamp,
        "command_id": event.command_id,
        "causation_id": event.causation_id,
        "amount": _amount(event),
        "currency": event.data.get("currency"),
    }


def _amount(event: StoredEvent) -> Decimal | None:
    from bson import Decimal128

    amount = event.data.get("amount")
    return amount.to_decimal() if isinstance(amount, Decimal128) else None


def _label(event: StoredEvent, unknown_cause: str | None) -> Text:
    from rich.text import Text

    amount = _amount(event)
    label = Text(event.event_type, "bold")
    if amount is not None:
        label.append(f"  {amount:,f} {event.data.get('currency', '')}".rstrip(), "green")
    label.append(f"  {event.stream_id}@{event.version}  position {event.position:,}", "not bold")
    label.append(f"\n{_time(event.recorded_at)}", "not bold dim")
    if event.command_id is not None:
        label.append(f"  command {event.command_id}", "not bold dim")
    if unknown_cause is not None:
        label.append(
            f"\ncaused by {unknown_cause}, which is no event or command of this correlation",
            "not bold yellow",
        )
    return label


def _place(step: AuditStep) -> Text:
    from rich.text import Text

    if step.refused is not None:
        return Text("refused", "yellow" if step.refused.resolved_at else "red")
    return Text(f"version {step.version}\nposition {step.position:,}")


def _story(step: AuditStep) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    amount = f"{step.amount:,f}" if isinstance(step.amount, Decimal) else step.amount
    story = Text(step.what, "bold")
    if amount is not None:
        story.append(f"  {amount} {step.currency or ''}".rstrip(), "green")
    refused = step.refused
    if refused is not None:
        story.append(f"\n{refused.reason_code}: {refused.detail}", "not bold red")
        if refused.resolved_at is not None:
            story.append(f"\naccepted after all, {_time(refused.resolved_at)}", "not bold yellow")
        if refused.file is not None:
            story.append(f"\nfrom {refused.file}, line {refused.line}", "not bold")
    lines: list[tuple[str, Any]] = [
        ("user", step.user_id),
        ("organization", step.organization_id),
        ("reason", step.reason),
        ("happened", _time(step.occurred_at)),
        ("refused" if refused else "recorded", _time(step.recorded_at)),
        ("command", step.command_id),
        ("correlation", None if step.correlation_id == step.command_id else step.correlation_id),
        ("caused by", None if step.causation_id == step.command_id else step.causation_id),
        *(line for name, value in sorted(step.metadata.items()) for line in _flat(name, value)),
    ]
    details = Table.grid(padding=(0, 1))
    details.add_column(style="dim", no_wrap=True)
    details.add_column(overflow="fold")
    for name, value in lines:
        if value is not None:
            details.add_row(Text(name), Text(str(plain(value))))
    return Group(story, details)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value of the metadata as lines of a name and a text; a document gives a line for each of its own."""
    if isinstance(value, Mapping):
        for inner, held in sorted(value.items()):
            yield from _flat(f"{name}.{inner}", held)
    elif isinstance(value, list | tuple):
        for number, held in enumerate(value, 1):
            yield from _flat(f"{name}.{number}", held)
    elif isinstance(value, bool):
        yield name, "yes" if value else "no"
    else:
        yield name, value


def _state(state: StateAfter | None) -> Text:
    from rich.text import Text

    if state is None:
        return Text("no payment yet", "dim")
    processed = "-" if state.processed is None else f"{state.processed:,f}"
    text = Text(state.status, "bold")
    text.append(f"\nin {state.currency}", "not bold")
    width = max(len(processed), len(f"{state.refunded:,f}"), len(f"{state.left:,f}"))
    for name, value in (
        ("processed", processed),
        ("refunded", f"{state.refunded:,f}"),
        ("left", f"{state.left:,f}"),
    ):
        text.append(f"\n{name:9}  {value:>{width}}", "not bold")
    return text


def _time(instant: datetime | str | None) -> str | None:
    if isinstance(instant, datetime):  # the log keeps milliseconds
        return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return instant
