"""What is wrong now, and telling it: once when it begins, once a day while it lasts, once when it is over.

Nothing is reacted to: every look takes all that is wrong at that moment and compares it with what was told
before. So an alert can not be missed, and who looks may be stopped and started, with its memory, at will.
"""

from __future__ import annotations

import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from ledgerlake.errors import LedgerLakeError

if TYPE_CHECKING:
    from ledgerlake.application import LedgerLake, LedgerStatus
    from ledgerlake.reconciliation import Recorded

log = logging.getLogger(__name__)

Severity: TypeAlias = Literal["error", "warning"]
Kind: TypeAlias = Literal["raised", "repeated", "resolved"]

LOOK_SECONDS: Final = 30
REPEAT_AFTER: Final = timedelta(days=1)
POST_SECONDS: Final = 5.0
_TRIES: Final = 2
_PAUSE_SECONDS: Final = 0.5
# Dagster ends a look of its sensor after 60 s, and forgets what it told: it would be told for ever.
_ENOUGH_SECONDS: Final = 20.0
# Of a 4xx, those that say "not now" rather than "not this".
_NOT_NOW: Final = (408, 429)
_SHADOW: Final = "#shadow"


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is wrong: `key` is the same as long as it is the same trouble.

    Neither text holds secrets, personal data or figures: they leave the house.
    """

    key: str
    severity: Severity
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Notice:
    """What is to be told of an alert: that it begins, lasts, or is over; `since` is when it began (UTC)."""

    kind: Kind
    alert: Alert
    since: datetime

    @property
    def text(self) -> str:
        """In a sentence or two, for people."""
        if self.kind == "resolved":
            return f"Over: {self.alert.message}"
        again = f" (since {self.since:%Y-%m-%d %H:%M} UTC)" if self.kind == "repeated" else ""
        return f"{self.alert.message}{again} {self.alert.remedy}"


class AlertNotDelivered(LedgerLakeError):
    """A channel did not take a notice; it is offered again at the next look."""


class AlertRefused(AlertNotDelivered):
    """A channel will not take this very notice; it is not offered again, and others are."""


# Tells of a notice, or raises AlertNotDelivered or AlertRefused.
Channel: TypeAlias = Callable[[Notice], None]


@dataclass(slots=True)
class _Told:
    alert: Alert
    since: datetime
    told: datetime | None = None


@dataclass(slots=True)
class _Memory:
    """What one channel was told; an alert that is over stays until the channel was told that, too."""

    told: dict[str, _Told] = field(default_factory=dict)
    silent: bool = False


class Alarm:
    """Tells channels of what has changed. `memory` is a text to be kept, and given to the next one.

    A channel that does not take a notice is offered it again at the next look, and holds up no other. One
    that is slow is told of the rest at the next look.
    """

    def __init__(self, channels: dict[str, Channel], memory: str | None = None) -> None:
        self._channels = channels
        self._memories = _loaded(memory)

    @property
    def memory(self) -> str:
        """What was told to whom, as JSON."""
        known = {name: self._memories[name] for name in self._channels if name in self._memories}
        return json.dumps(
            {
                name: {"silent": each.silent, "told": {key: _dumped(told) for key, told in each.told.items()}}
                for name, each in known.items()
            }
        )

    def look(
        self, alerts: Iterable[Alert], *, complete: bool = True, now: datetime | None = None
    ) -> list[Notice]:
        """Tell what there is to tell of all that is wrong now; gives what any channel took.

        Not `complete`: not everything could be looked at, so what is not named may last, and is not over.
        """
        now = datetime.now(UTC) if now is None else now
        started = time.monotonic()
        wrong = {alert.key: alert for alert in alerts}
        taken: dict[tuple[str, str], Notice] = {}
        for name, channel in self._channels.items():
            memory = self._memories.setdefault(name, _Memory())
            try:
                for notice in _due(memory, wrong, complete, now):
                    try:
                        channel(notice)
                        taken[notice.kind, notice.alert.key] = notice
                    except AlertRefused as error:
                        log.warning("%s", error)
                    if notice.kind == "resolved":
                        del memory.told[notice.alert.key]
                    else:
                        memory.told[notice.alert.key].told = now
                    if time.monotonic() - started >= _ENOUGH_SECONDS:
                        break
                memory.silent = False
            except AlertNotDelivered as error:
                if not memory.silent:
                    log.warning("%s", error)
                memory.silent = True
        return list(taken.values())


def _due(memory: _Memory, wrong: dict[str, Alert], complete: bool, now: datetime) -> list[Notice]:
    due = []
    for key, alert in wrong.items():
        known = memory.told.get(key)
        if known is None:
            known = memory.told[key] = _Told(alert, now)
        known.alert = alert
        if known.told is None:
            due.append(Notice("raised", alert, known.since))
        elif now - known.told >= REPEAT_AFTER:
            due.append(Notice("repeated", alert, known.since))
    if complete:
        for key, known in list(memory.told.items()):
            if key in wrong:
                continue
            if known.told is None:  # over before anybody could be told
                del memory.told[key]
            else:
                due.append(Notice("resolved", known.alert, known.since))
    return due


def to_log(notice: Notice) -> None:
    """The channel that is always there."""
    level = logging.ERROR if notice.alert.severity == "error" else logging.WARNING
    log.log(
        logging.INFO if notice.kind == "resolved" else level,
        "Alert %s: %s",
        notice.kind,
        notice.text,
        extra={"alert": notice.alert.key, "outcome": notice.kind},
    )


class Webhook:
    """Posts notices as JSON to an address. What it raises never names that: it may be as good as a password.

    The object has `event` (raised, repeated, resolved), `key`, `severity`, `message`, `remedy`, `since` and
    `at` (instants, ISO 8601, UTC), `ledger`, and `text`, which chat programs show.
    """

    def __init__(self, url: str, ledger: str, seconds: float = POST_SECONDS) -> None:
        self._url = url
        self._ledger = ledger
        self._seconds = seconds
        # A redirection would turn the POST into a GET, or lead who knows where.
        self._open = urllib.request.build_opener(_NoRedirect).open

    def __call__(self, notice: Notice) -> None:
        body = {
            "event": notice.kind,
            **asdict(notice.alert),
            "since": notice.since.isoformat(timespec="seconds"),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "ledger": self._ledger,
            "text": f"LedgerLake {self._ledger}: {notice.text}",
        }
        request = urllib.request.Request(  # noqa: S310 - settings take http and https only
            self._url,
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "User-Agent": "ledgerlake"},
            method="POST",
        )
        trouble = ""
        for left in reversed(range(_TRIES)):
            try:
                self._open(request, timeout=self._seconds).close()
                return
            except urllib.error.HTTPError as error:
                error.close()
                trouble = f"HTTP {error.code}"
                if 400 <= error.code < 500 and error.code not in _NOT_NOW:
                    raise AlertRefused(
                        f"The webhook of LEDGERLAKE_ALERT_WEBHOOK refuses the alert {notice.alert.key!r} "
                        f"({trouble}); it is not offered again.",
                        "It is in the log. Is the address right, and does it take such an object?",
                    ) from None
            # What a server that is no web server answers, or an address that can not be, is told by others.
            except (OSError, HTTPException, ValueError) as error:
                trouble = type(getattr(error, "reason", error)).__name__
            if left:
                time.sleep(_PAUSE_SECONDS)
        raise AlertNotDelivered(
            f"The webhook of LEDGERLAKE_ALERT_WEBHOOK takes no alerts ({trouble}); it is tried again.",
            "Until it does, alerts are in the log only.",
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def channels(webhook: str | None, ledger: str) -> dict[str, Channel]:
    """The log, and the webhook if there is one; `ledger` is the name of the database."""
    return {"log": to_log, **({} if webhook is None else {"webhook": Webhook(webhook, ledger)})}


def troubles(
    status: LedgerStatus, verified: Sequence[Recorded] = (), lag_seconds: float = 900.0
) -> list[Alert]:
    """What is wrong by the checkpoints, and by what the last verifications found.

    `lag_seconds` is how long an event may wait for a part. A rebuild may take as long as it takes.
    """
    found: list[Alert] = []
    for part in status.parts:
        if part.status == "stopped":
            found.append(
                Alert(
                    f"stopped/{part.name}",
                    "error",
                    f"{part.name} has stopped at position {part.position:,} and goes no further.",
                    "`ledgerlake status` says why.",
                )
            )
        elif part.status in ("newer", "outdated"):
            found.append(
                Alert(
                    f"version/{part.name}",
                    "warning",
                    f"{part.name} was filled by another version of its definition than this program has.",
                    "`ledgerlake status` says what to do.",
                )
            )
        elif part.lag_seconds > lag_seconds and not part.name.endswith(_SHADOW):
            found.append(
                Alert(
                    f"late/{part.name}",
                    "warning",
                    f"{part.name} is late: an event has waited for it for more than {lag_seconds:,.0f} s.",
                    "Is anything refreshing? `ledgerlake status --watch` tells; `ledgerlake refresh` helps.",
                )
            )
        if part.dead_letters:
            found.append(
                Alert(
                    f"set_aside/{part.name}",
                    "error",
                    f"{part.name} has set events aside that it can not fold.",
                    "`ledgerlake dead-letters list` names them.",
                )
            )
        # A subscription that goes on, but not with everything.
        if part.status == "live" and part.last_error is not None:
            found.append(
                Alert(
                    f"parked/{part.name}",
                    "error",
                    f"The subscription {part.name} has parked events that its handler failed on.",
                    "`ledgerlake status` counts them; mend the handler, then retry them.",
                )
            )
    for each in verified:
        found += [
            Alert(
                f"check/{name}",
                "error",
                f"The check {name!r} has failed, as of position {each.position:,}.",
                "`ledgerlake verify` names what differs, and Dagster publishes nothing until it agrees.",
            )
            for name in each.failed
        ]
    return found


def look_at(ledger: LedgerLake) -> tuple[list[Alert], bool]:
    """What is wrong with an open ledger, and whether all of it could be looked at."""
    from pymongo.errors import PyMongoError

    from ledgerlake.reconciliation import last_verifications

    try:
        status, verified = ledger.status(), last_verifications(ledger.db)
    except (PyMongoError, LedgerLakeError) as error:
        return [unreachable(error)], False
    return troubles(status, verified, ledger.settings.alert_lag_seconds), True


def failing_parts(names: Iterable[str], wrong: Iterable[Alert]) -> list[Alert]:
    """The alerts for parts that a runner can not bring up to the head, and tries again.

    Not for those that `wrong` tells to have stopped: that is why they fail, and it is told once.
    """
    stopped = {alert.key for alert in wrong}
    return [
        Alert(
            f"failing/{name}",
            "error",
            f"{name} can not be brought up to the head of the log, and is tried again.",
            "The log says why (LEDGERLAKE_LOG=text); `ledgerlake status` tells what has stopped.",
        )
        for name in names
        if f"stopped/{name}" not in stopped
    ]


def unreachable(error: Exception) -> Alert:
    """The alert for a ledger that can not be opened or asked; tells of the error its type alone."""
    return Alert(
        "ledger",
        "error",
        f"The ledger can not be looked at ({type(error).__name__}).",
        "Does MongoDB run? `ledgerlake status` says what is wrong.",
    )


def _dumped(told: _Told) -> dict[str, Any]:
    return {
        **asdict(told.alert),
        "since": told.since.isoformat(),
        "told": None if told.told is None else told.told.isoformat(),
    }


def _loaded(memory: str | None) -> dict[str, _Memory]:
    try:
        found = json.loads(memory or "{}")
        return {name: _Memory(_told(each["told"]), bool(each["silent"])) for name, each in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        # Of another version of this program, or not ours: all that is wrong is told again.
        return {}


def _told(found: dict[str, Any]) -> dict[str, _Told]:
    return {
        key: _Told(
            Alert(key, each["severity"], each["message"], each["remedy"]),
            datetime.fromisoformat(each["since"]),
            None if each["told"] is None else datetime.fromisoformat(each["told"]),
        )
        for key, each in found.items()
    }
