"""The positions of the log: from 1 to the counter, each once."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from ledgerlake.eventstore.bson_columns import Kind
from ledgerlake.reconciliation.log import Log
from ledgerlake.reconciliation.model import Check, checked
from ledgerlake.reconciliation.payments import read

_NAMED: Final = 10


def check_positions(log: Log) -> Check:
    """Positions run from 1 to the counter, each once: looked at one by one, as sums can cancel out."""
    head = log.head
    # Sorted and projected so that the index alone answers: a million positions in a second or two.
    columns = {"position": ("position", Kind.INTEGER)}
    found = read(
        log.db["events"], {}, columns, log.session, {"position": 1, "_id": 0}, sort=[("position", 1)]
    )["position"]
    events, unplaced = len(found), found.null_count
    positions = found.drop_null().to_numpy()
    differences = []
    if events != head:
        differences.append(f"the counter says {head} events, the log holds {events}")
    if unplaced:
        differences.append(f"{unplaced} events have no position")
    if len(positions) and (positions[0], positions[-1]) != (1, head):
        differences.append(f"positions run from {positions[0]} to {positions[-1]}, not from 1 to {head}")
    doubled = np.unique(positions[1:][positions[1:] == positions[:-1]])
    if len(doubled):
        differences.append(f"held twice: {_named(doubled)}")
    if missing := _missing(positions, head):
        differences.append(f"missing: {missing}")
    check = checked("log positions", f"the head is {head:,}", differences)
    return replace(check, part="events", position=head, lag=0)


def _missing(positions: npt.NDArray[np.int64], head: int) -> str:
    """The gaps between 1 and the head, the first ones in words."""
    held = positions[(positions > 0) & (positions <= head)]
    edges = np.concatenate(([0], held, [head + 1]))
    before = np.flatnonzero(np.diff(edges) > 1)
    gaps = [(int(edges[i]) + 1, int(edges[i + 1]) - 1) for i in before[:_NAMED]]
    told = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in gaps)
    return told + (f" and {len(before) - _NAMED:,} more gaps" if len(before) > _NAMED else "")


def _named(positions: npt.NDArray[np.int64]) -> str:
    shown = ", ".join(str(each) for each in positions[:_NAMED])
    return f"{shown} and {len(positions) - _NAMED:,} more" if len(positions) > _NAMED else shown
