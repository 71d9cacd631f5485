"""The state of a payment as plain data, and back: what a snapshot keeps of it.

It holds nothing personal: no user, no reason, no free key of an event takes part in the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ledgerlake.domain.payment import Payment

# Of the data below, and of what `evolve` makes of events: a change of either raises it, and every snapshot
# that was taken before is ignored.
SNAPSHOT_VERSION: Final = 1

_FIELDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "organizationId": str,
    "currency": str,
    "processedMinor": (int, type(None)),
    "refundedMinor": int,
    "attempts": int,
    "unreferenced": bool,
}


def snapshot_data(state: Payment) -> dict[str, Any]:
    """What a snapshot of the state holds, besides its version. Amounts are minor units."""
    return {
        "organizationId": state.organization_id,
        "currency": state.currency,
        "processedMinor": state.processed,
        "refundedMinor": state.refunded,
        "attempts": state.attempts,
        "unreferenced": state.unreferenced,
    }


def snapshot_state(data: Mapping[str, Any], version: int) -> Payment:
    """The state after `version` events that the data stands for.

    Raises:
        ValueError: a field is missing, unknown or of another type, or no payment could be in that state.
    """
    if data.keys() != _FIELDS.keys():
        raise ValueError(f"the fields are {sorted(data)}, not {sorted(_FIELDS)}")
    for name, kind in _FIELDS.items():
        if not isinstance(data[name], kind) or (isinstance(data[name], bool) and kind is not bool):
            raise ValueError(f"{name} is {data[name]!r}")
    processed = data["processedMinor"]
    state = Payment(
        version=version,
        organization_id=data["organizationId"],
        currency=data["currency"],
        # A driver's own kinds of int end here.
        processed=None if processed is None else int(processed),
        refunded=int(data["refundedMinor"]),
        attempts=int(data["attempts"]),
        unreferenced=data["unreferenced"],
    )
    paid = state.processed or 0
    if (
        version < 1
        or not 0 <= state.attempts <= version
        or state.refunded < 0
        or (state.refunded > paid and not state.unreferenced)
    ):
        raise ValueError(f"no payment is ever in the state {state}")
    return state
