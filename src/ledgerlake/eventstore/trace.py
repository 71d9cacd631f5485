"""What led to what: the events of one correlation as the tree of their causes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ledgerlake.eventstore.model import StoredEvent


@dataclass(frozen=True, slots=True)
class Node:
    """An event, and what it caused, in position order.

    `unknown_cause` is the id that a root names as its cause where no event of the tree goes by it: a
    message from outside, or one of another correlation. None for what began by itself.
    """

    event: StoredEvent
    children: tuple[Node, ...] = ()
    unknown_cause: str | None = None


def causation_tree(events: Iterable[StoredEvent]) -> tuple[Node, ...]:
    """The events, each under what caused it; the roots are what none of them caused, in position order.

    A cause is named by an event's id, or by a command's, which stands for the event that the command led
    to. It comes before its effect: an event that names a later one is a root. That is so for the first
    events of an append of several (the command's id is on its last one) and for ids that form a circle,
    so every event given is in the tree once.
    """
    ordered = sorted(events, key=lambda event: event.position)
    known: dict[str, StoredEvent] = {}
    for event in ordered:
        for name in (event.event_id, event.command_id):
            if name is not None:
                known.setdefault(name, event)
    effects: dict[int, list[Node]] = {}
    roots: list[Node] = []
    # From the last to the first: what an event caused is complete when its own turn comes.
    for event in reversed(ordered):
        cause = known.get(event.causation_id)
        children = tuple(reversed(effects.pop(event.position, [])))
        if cause is not None and cause.position < event.position:
            effects.setdefault(cause.position, []).append(Node(event, children))
            continue
        # A command that was told of no cause names itself, or the conversation that it belongs to.
        begins = cause is not None or event.causation_id == event.correlation_id
        roots.append(Node(event, children, None if begins else event.causation_id))
    return tuple(reversed(roots))


def walk(roots: Sequence[Node]) -> Iterator[tuple[int, Node, Node | None]]:
    """Every node, causes before their effects, with its depth (0: a root) and what it hangs on."""
    stack: list[tuple[int, Node, Node | None]] = [(0, root, None) for root in reversed(roots)]
    while stack:
        depth, node, cause = stack.pop()
        yield depth, node, cause
        stack.extend((depth + 1, child, node) for child in reversed(node.children))
