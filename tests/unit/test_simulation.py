"""What the simulated business promises: the same every time, and every pattern that a report should show."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from ledgerlake.domain.money import Money, MoneyError, exponent
from ledgerlake.simulation import (
    COLUMNS,
    DEFAULT_COMMANDS,
    DEFAULT_DAYS,
    DEFAULT_SEED,
    INCIDENT_DAY,
    LAST_DAY,
    ORGANIZATIONS,
    simulate,
    write_commands,
)
from ledgerlake.simulation.business import SimulationError
from tests.replay import Replay, replay

Rows = list[dict[str, str]]

# The default simulation, row by row. Where it changes, so must VERSION: else the same id would stand for
# another command in ledgers that were filled before.
DEFAULT_SHA256 = "61a9b19e22d3b1147e8ab76f4e7680f1f6fa2ac9b86d6e60e844286dd6c9bed9"


@pytest.fixture(scope="module")
def rows() -> Rows:
    return list(simulate())


@pytest.fixture(scope="module")
def outcome(rows: Rows) -> Replay:
    return replay(rows)


def digest(rows: Rows) -> str:
    text = "\n".join("|".join(row[name] for name in COLUMNS) for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()


def day_of(row: dict[str, str]) -> date:
    return date.fromisoformat(row["occurred_at"][:10])


def test_the_default_business_is_the_one_on_record(rows: Rows) -> None:
    assert digest(rows) == DEFAULT_SHA256


def test_the_same_seed_gives_the_same_rows_in_a_process_with_another_hash_order() -> None:
    script = (
        "import hashlib; from ledgerlake.simulation import simulate, COLUMNS;"
        "print(hashlib.sha256('\\n'.join('|'.join(r[c] for c in COLUMNS)"
        " for r in simulate(seed=3, commands=2000)).encode()).hexdigest())"
    )
    expected = digest(list(simulate(seed=3, commands=2000)))
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert run.stdout.strip() == expected


def test_another_seed_or_size_is_another_business_and_shares_no_id() -> None:
    ids = [
        {row["command_id"] for row in simulate(seed=seed, days=days, commands=commands)}
        for seed, days, commands in ((1, 30, 900), (2, 30, 900), (1, 31, 900), (1, 30, 901))
    ]
    assert sum(map(len, ids)) == len(set().union(*ids))


@pytest.mark.parametrize("commands", [1, 10, 999, 5_000])
@pytest.mark.parametrize("days", [1, 7, 180])
def test_there_are_at_least_as_many_commands_as_asked_for_and_hardly_more(commands: int, days: int) -> None:
    assert commands <= sum(1 for _ in simulate(seed=5, days=days, commands=commands)) <= commands + 12


def test_the_default_is_sixty_thousand_commands_on_180_days_of_at_least_12_organizations(rows: Rows) -> None:
    assert 60_000 <= DEFAULT_COMMANDS <= len(rows) <= DEFAULT_COMMANDS + 12
    assert {day_of(row) for row in rows} == {LAST_DAY - timedelta(days=n) for n in range(DEFAULT_DAYS)}
    assert {row["organization_id"] for row in rows} == {organization.id for organization in ORGANIZATIONS}
    assert len(ORGANIZATIONS) >= 12
    assert {row["currency"] for row in rows} == {"EUR", "USD", "GBP", "JPY", "BHD"}


def test_rows_are_ordered_by_time(rows: Rows) -> None:
    times = [row["occurred_at"] for row in rows]
    assert times == sorted(times)
    assert all(time.endswith("Z") and len(time) == 20 for time in times)


def test_amounts_have_the_decimals_of_their_currency_but_for_a_few_that_must_be_refused(rows: Rows) -> None:
    wrong = [row for row in rows if -Decimal(row["amount"]).as_tuple().exponent != exponent(row["currency"])]
    assert 5 <= len(wrong) <= 60
    for row in wrong:
        with pytest.raises(MoneyError):
            Money.parse(row["amount"], row["currency"])


def test_every_refund_names_a_payment_that_came_before_it_or_none_at_all(rows: Rows) -> None:
    begun: set[str] = set()
    credit_notes = 0
    for row in rows:
        if row["command"] != "RefundPayment":
            begun.add(row["payment_id"])
        elif row["payment_id"]:
            assert row["payment_id"] in begun
        else:
            credit_notes += 1
    assert 50 <= credit_notes <= 400


def test_a_payment_keeps_its_organization_and_user(rows: Rows) -> None:
    owners: dict[str, tuple[str, str]] = {}
    for row in rows:
        if row["payment_id"]:
            owner = (row["organization_id"], row["user_id"])
            assert owners.setdefault(row["payment_id"], owner) == owner


def test_the_rules_refuse_some_commands_of_each_kind_and_few_in_all(rows: Rows, outcome: Replay) -> None:
    assert set(outcome.refused) == {
        "zero_amount",
        "bad_amount",
        "already_completed",
        "refund_exceeds_payment",
        "currency_mismatch",
        "not_completed",
    }
    assert 60 <= outcome.refused.total() <= 240
    assert min(outcome.refused.values()) >= 3
    assert 20 <= outcome.duplicates <= 120
    assert outcome.events + outcome.refused.total() + outcome.duplicates == len(rows)


def test_commands_delivered_twice_are_the_same_to_the_byte(rows: Rows) -> None:
    first: dict[str, dict[str, str]] = {}
    for row in rows:
        assert first.setdefault(row["command_id"], row) == row


def test_failed_payments_are_retried_and_some_recover(
    outcome: Replay,
) -> None:
    failed_first = [
        state for state in outcome.states.values() if state.attempts > 1 or state.status == "failed"
    ]
    recovered = sum(1 for state in failed_first if state.processed is not None)
    assert 0.3 < recovered / len(failed_first) < 0.8
    assert max(state.attempts for state in failed_first) >= 4


def test_refunds_are_full_partial_and_several_to_a_payment(rows: Rows, outcome: Replay) -> None:
    statuses = Counter(state.status for state in outcome.states.values() if not state.unreferenced)
    assert statuses["refunded"] > 500
    assert statuses["partially_refunded"] > 500
    refunds = Counter(
        row["payment_id"] for row in rows if row["command"] == "RefundPayment" and row["payment_id"]
    )
    assert max(refunds.values()) >= 3


def test_refunds_come_days_after_the_payment(rows: Rows) -> None:
    completed: dict[str, date] = {}
    waits: list[int] = []
    for row in rows:
        if row["command"] == "ProcessPayment":
            completed.setdefault(row["payment_id"], day_of(row))
        elif row["command"] == "RefundPayment" and row["payment_id"] in completed:
            waits.append((day_of(row) - completed[row["payment_id"]]).days)
    waits.sort()
    assert 2 <= waits[len(waits) // 2] <= 12
    assert waits[-1] >= 25


def test_weekends_are_quieter(rows: Rows) -> None:
    started = Counter(day_of(row) for row in rows)
    weekend = [count for day, count in started.items() if day.weekday() >= 5]
    week = [count for day, count in started.items() if day.weekday() < 5]
    assert sum(weekend) / len(weekend) < 0.8 * sum(week) / len(week)


def test_the_business_grows_and_one_organization_begins_later(rows: Rows) -> None:
    started = Counter(day_of(row) for row in rows)
    first = sum(started[LAST_DAY - timedelta(days=DEFAULT_DAYS - 1 - n)] for n in range(28))
    last = sum(started[LAST_DAY - timedelta(days=n)] for n in range(28))
    assert 1.4 < last / first < 2.2
    begins = {organization.id: min(day_of(row) for row in rows if row["organization_id"] == organization.id)
              for organization in ORGANIZATIONS if organization.since_day}  # fmt: skip
    assert min(begins.values()) >= LAST_DAY - timedelta(days=DEFAULT_DAYS - 31)


def test_the_incident_is_one_day_of_timeouts_and_the_next_day_is_well(rows: Rows) -> None:
    attempts: defaultdict[date, Counter[str]] = defaultdict(Counter)
    for row in rows:
        attempts[day_of(row)][row["command"]] += 1
    rate = {day: c["FailPayment"] / (c["FailPayment"] + c["ProcessPayment"]) for day, c in attempts.items()}
    others = [rate[day] for day in rate if day != INCIDENT_DAY]
    assert rate[INCIDENT_DAY] > 2 * max(others)
    assert rate[INCIDENT_DAY + timedelta(days=1)] < 0.15
    that_day = [row for row in rows if day_of(row) == INCIDENT_DAY and row["command"] == "FailPayment"]
    assert Counter(row["reason"] for row in that_day).most_common(1)[0][0] == "processor_timeout"


@pytest.mark.parametrize("name", ["c.csv", "c.csv.gz", "c.jsonl", "c.parquet"])
def test_the_same_seed_gives_the_same_file(tmp_path: Path, name: str) -> None:
    for folder in ("a", "b"):
        assert write_commands(simulate(seed=9, commands=500), tmp_path / folder / name) >= 500
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == [name]


def test_every_format_holds_the_same_commands(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    rows = list(simulate(seed=9, commands=500))
    for name in ("c.csv", "c.csv.gz", "c.jsonl", "c.parquet"):
        write_commands(rows, tmp_path / name)
    with gzip.open(tmp_path / "c.csv.gz", "rt", encoding="utf-8", newline="") as packed:
        assert list(csv.DictReader(packed)) == rows
    absent_as_null = [{name: value or None for name, value in row.items()} for row in rows]
    assert [
        json.loads(line) for line in (tmp_path / "c.jsonl").read_text("utf-8").splitlines()
    ] == absent_as_null
    assert pq.read_table(tmp_path / "c.parquet").to_pylist() == absent_as_null


def test_a_file_that_cannot_be_written_is_refused_with_its_path_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match=r"c\.xlsx"):
        write_commands(simulate(commands=10), tmp_path / "c.xlsx")
    (tmp_path / "file").write_text("")
    with pytest.raises(SimulationError, match=r"file/c\.csv"):
        write_commands(simulate(commands=10), tmp_path / "file" / "c.csv")

    def breaks() -> object:
        yield next(iter(simulate(commands=10)))
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        write_commands(breaks(), tmp_path / "c.csv")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nonsense_sizes_are_refused() -> None:
    with pytest.raises(SimulationError):
        next(simulate(days=0))
    with pytest.raises(SimulationError):
        next(simulate(commands=0))


def test_the_default_seed_is_stated() -> None:
    assert next(simulate(DEFAULT_SEED)) == next(simulate())
