"""What has to agree before a report is published: log = read models = lake = report, to the minor unit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
from pymongo.database import Database

from ledgerlake.eventstore.archived import ARCHIVED
from ledgerlake.eventstore.bson_columns import Kind
from ledgerlake.eventstore.event_columns import SCHEMA
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.pinned import connect
from ledgerlake.reconciliation import lake_side, read_side
from ledgerlake.reconciliation.booked import Key, Line, booked, lines_of
from ledgerlake.reconciliation.log import Document, Log
from ledgerlake.reconciliation.model import MOST_DIFFERENCES, Check, units
from ledgerlake.reconciliation.payments import read
from ledgerlake.reconciliation.verify import verify
from ledgerlake.reports.errors import PublicationBlocked

if TYPE_CHECKING:
    from ledgerlake.reports.spec import ReportSpec

_EVENT: Final = {
    "position": ("position", Kind.INTEGER),
    "aggregateId": ("payment_id", Kind.STRING),
    "eventType": ("event_type", Kind.STRING),
    "eventData.amountMinor": ("amount_minor", Kind.INTEGER),
    "eventData.unreferenced": ("unreferenced", Kind.BOOL),
    "timestamp": ("occurred_at", Kind.DATE),
}
_FEW: Final = 10
# What the log has for so many months is held at once: a year of ten thousand organizations is some 300 MB.
_AT_ONCE: Final = 12


class Gate:
    """Lets reports pass that are what the log says; call it with the rows of their summaries."""

    def __init__(self, db: Database[Document], lake: EventLake) -> None:
        self._db = db
        self._lake = lake
        self._agreed: set[int] = set()
        self._coming: list[ReportSpec] = []
        # What the log has for those that come next.
        self._booked: dict[Any, dict[Key, Line]] = {}

    def everything(self, position: int, coming: Sequence[ReportSpec] = ()) -> None:
        """Let a position pass that every layer has reached, if all of `verify` is in order.

        Reports that are `coming` as of it are to be asked for one by one, in this order: the log is then read
        once a year of them, and not once a month.

        Raises:
            PublicationBlocked: it is not.
        """
        checks = verify(self._db, self._lake, up_to=position).checks
        _pass(f"The log up to position {position:,}", checks)
        self._agreed.add(position)
        self._coming, self._booked = list(coming), {}

    def lake(self, position: int) -> list[str]:
        """How the lake up to a position differs from the log, in words; files are read to the last bit."""
        with (
            self._db.client.start_session(snapshot=True) as session,
            lake_side.LakeViews(self._lake) as views,
        ):
            log = Log(self._db, session, self._lake.archive)
            checks = [
                lake_side.check_segments(log, self._lake, position),
                lake_side.check_events(log, views, position),
            ]
        return [f"{check.name}: {each}" for check in checks for each in check.differences]

    def __call__(
        self, specs: Sequence[ReportSpec], position: int, rows: Sequence[Sequence[Mapping[str, Any]]]
    ) -> None:
        """Let reports as of a position pass, each with the rows of its summary.

        The specs differ in their intervals only, which do not overlap and come in order. Read models and lake
        are compared with the log first, each as of its own checkpoint; one that was never built says nothing.

        Raises:
            PublicationBlocked: something is not what the log says.
        """
        if position not in self._agreed:
            self._layers(position)
        with self._db.client.start_session(snapshot=True) as session:
            log = Log(self._db, session, self._lake.archive)
            for at in range(0, len(specs), _AT_ONCE):
                some = specs[at : at + _AT_ONCE]
                found = zip(some, self._of_log(log, some, position), rows[at : at + _AT_ONCE], strict=True)
                for spec, expected, summary in found:
                    if told := self._differences(log, position, expected, lines_of(summary)):
                        # Whoever tries again asks the log as it is then.
                        self._coming, self._booked = [], {}
                        raise PublicationBlocked(f"The report of {spec.interval.label}", told)

    def _of_log(self, log: Log, specs: Sequence[ReportSpec], position: int) -> list[dict[Key, Line]]:
        """What the log has for these reports; of one alone, it is read for those that come next, too."""
        named = [_named(spec, position) for spec in specs]
        if not self._booked.keys() >= set(named):
            coming = [_named(spec, position) for spec in self._coming]
            if named[0] in coming and len(specs) == 1:
                at = coming.index(named[0])
                specs = self._coming[at : at + _AT_ONCE]
            found = booked(log, specs, position)
            self._booked = {_named(spec, position): each for spec, each in zip(specs, found, strict=True)}
        return [self._booked.pop(name) for name in named]

    def _differences(
        self, log: Log, position: int, expected: Mapping[Key, Line], found: Mapping[Key, Line]
    ) -> list[str]:
        """How a summary differs from what the log has, in words, with the payments that differ."""
        nothing = Line()
        wrong = [
            key
            for key in sorted({*expected, *found})
            if expected.get(key, nothing) != found.get(key, nothing)
        ]
        told = [
            _described(key, expected.get(key, nothing), found.get(key, nothing))
            for key in wrong[:MOST_DIFFERENCES]
        ]
        if len(wrong) > MOST_DIFFERENCES:
            told.append(f"... and {len(wrong) - MOST_DIFFERENCES} more")
        groups = list(dict.fromkeys(key[:2] for key in wrong))
        for organization, currency in groups[: read_side.GROUPS_LOOKED_INTO]:
            told += self._differing_payments(log, organization, currency, position)
        return told

    def _layers(self, position: int) -> None:
        with (
            self._db.client.start_session(snapshot=True) as session,
            lake_side.LakeViews(self._lake) as views,
        ):
            log = Log(self._db, session, self._lake.archive)
            checks = [lake_side.check_events(log, views, position)]
            at = read_side.positions(log)
            if read_side.uneven(log, "payment_read_models") is None:
                checks.append(read_side.check_read_models(log, at["payment_read_models"]))
            checks.append(read_side.check_statistics(log, at["payment_statistics"]))
            checks.append(read_side.check_trends(log, at["payment_trends"]))
            if read_side.dropped(log):  # what is gone reads as empty
                return self._layers(position)
        built = [check for check in checks if check.ok or check.position]
        _pass(f"The log up to position {position:,}", built)
        self._agreed.add(position)
        return None

    def _differing_payments(self, log: Log, organization: str, currency: str, position: int) -> list[str]:
        """Up to ten payments whose events the lake has otherwise than the log, in words."""
        names = ", ".join(name for name, _ in _EVENT.values())
        mine = {"organization": organization, "currency": currency, "position": position}
        where = "WHERE organization_id = $organization AND currency = $currency AND position <= $position"
        with self._lake.pin(position).duckdb() as connection:
            lake = connection.sql(f"SELECT {names} FROM events {where}", params=mine).to_arrow_table()
        documents = read(
            log.db["events"],
            {
                "metadata.organizationId": organization,
                "eventData.currency": currency,
                "position": {"$lte": position},
                **({ARCHIVED: None} if log.archived.any else {}),
            },
            _EVENT,
            log.session,
        )
        with connect() as connection:
            connection.register("documents", documents)
            connection.register("lake", lake)
            connection.register("archived", pa.concat_tables([SCHEMA.empty_table(), *log.archived.tables()]))
            connection.execute(
                f"CREATE TABLE log AS SELECT * FROM documents UNION ALL SELECT {names} FROM archived {where}",
                mine,
            )
            found = connection.execute(
                "SELECT payment_id, position, side, event_type, amount_minor FROM ("
                " SELECT *, 'log' AS side FROM (SELECT * FROM log EXCEPT ALL SELECT * FROM lake) UNION ALL"
                " SELECT *, 'lake' FROM (SELECT * FROM lake EXCEPT ALL SELECT * FROM log)"
                f") ORDER BY payment_id, position, side LIMIT {2 * _FEW}"
            ).fetchall()
        told: dict[tuple[str, int], list[str]] = defaultdict(list)
        for payment, at, side, kind, minor in found:
            told[payment, at].append(f"{side} {kind} {units(minor, currency)} {currency}")
        if not told:
            return [f"organization {organization!r}, {currency}: its events are the same in log and lake"]
        return [
            f"payment {payment!r}, position {at:,}: {', '.join(sides)}" + ("" if len(sides) > 1 else " only")
            for (payment, at), sides in list(told.items())[:_FEW]
        ]


def _named(spec: ReportSpec, position: int) -> tuple[Any, ...]:
    """What the log has for a report as of a position depends on these alone."""
    return position, spec.organization, spec.interval.start, spec.interval.end, spec.books.shut(position)


def _described(key: Key, expected: Line, found: Line) -> str:
    organization, currency, category = key

    def told(line: Line) -> str:
        return ", ".join(
            f"{name.removesuffix('_minor')} {units(value, currency) if name.endswith('_minor') else value}"
            for name, value in asdict(line).items()
            if value != getattr(expected if line is found else found, name)
        )

    return f"organization {organization!r}, {currency} {category}: log {told(expected)}; report {told(found)}"


def _pass(what: str, checks: Iterable[Check]) -> None:
    wrong = [f"{check.name}: {each}" for check in checks if not check.ok for each in check.differences]
    if wrong:
        raise PublicationBlocked(what, wrong)
