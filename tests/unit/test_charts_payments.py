"""Charts of payments and their events: success, failures, retries, refunds and who stays, counted by hand."""

from __future__ import annotations

from datetime import date
from random import Random

import duckdb
import polars as pl
import pytest

from ledgerlake import charts
from ledgerlake.analyst.payments import fold
from ledgerlake.charts.failures import Attempt, Reason, attempts_by_currency, reasons_by_currency
from ledgerlake.charts.latency import lasting, latencies_by_currency, reached_within
from ledgerlake.charts.refunds import Cohort, cohorts_by_currency
from ledgerlake.charts.retention import Stay, stays_by_currency
from ledgerlake.charts.success import wilson
from ledgerlake.lake.definitions import REFUND_COHORTS, REFUND_LATENCY, RETRY_RECOVERY
from tests.charting import at, events_frame, headings, message, note, payments_frame, traces

DAY = 24


def test_a_payment_that_a_retry_saved_is_a_success() -> None:
    figure = charts.success_by_payment(
        payments_frame(
            *({"first_at": at(1)} for _ in range(2)),
            {"first_at": at(1), "completed_at": at(9), "failures_before": 3},
            {"first_at": at(2), "completed_at": None, "failures_before": 2},
            {"first_at": at(8)},
            {"first_at": at(8), "completed_at": None, "unreferenced": True},
        )
    )
    [week] = traces(figure, "week")
    assert list(week.x) == [date(2026, 3, 2), date(2026, 3, 9)]
    assert list(week.y) == [0.75, 1.0]
    assert week.customdata[0] == "75.00 %, 3 of 4 payments (95 %: 30.1 to 95.4 %)"
    assert wilson(3, 4) == pytest.approx((0.30064, 0.95441), abs=5e-6)
    assert headings(figure) == {"EUR": "80.00 % of 5 payments, 1 failed"}


def test_reasons_come_most_frequent_first_with_what_they_add_up_to() -> None:
    events = events_frame(
        *(("PaymentFailed", "EUR", "insufficient_funds", 1000) for _ in range(5)),
        *(("PaymentFailed", "EUR", "card_expired", 25) for _ in range(3)),
        ("PaymentFailed", "EUR", None, 7),
        ("PaymentFailed", "EUR", "", 8),
        ("PaymentProcessed", "EUR", None, 99_999),
        ("PaymentFailed", "JPY", "<i>fraud</i>", 500),
    )
    assert reasons_by_currency(events)["EUR"] == [
        Reason("insufficient_funds", 5, 5000),
        Reason("card_expired", 3, 75),
        Reason("no reason given", 2, 15),
    ]
    figure = charts.failure_pareto(events)
    bars, yen_bars = traces(figure, "failed attempts")
    line, _ = traces(figure, "this reason and those above")
    assert list(bars.x) == [0.5, 0.3, 0.2]
    assert list(line.x) == [0.5, 0.8, 1.0]
    assert bars.customdata[1] == (
        "card_expired<br>3 failed attempts, 30.00 %<br>for 0.75 EUR<br>with those above: 8, 80.00 %"
    )
    assert headings(figure) == {
        "EUR": "10 failed attempts at 50.90",
        "JPY": "1 failed attempt at 500",
    }
    assert "&lt;i&gt;fraud&lt;/i&gt;" in yen_bars.customdata[0]
    assert figure.layout.yaxis2.ticktext == ("&lt;i&gt;fraud&lt;/i&gt;",)


def test_reasons_beyond_the_top_are_put_together_unless_it_is_only_one() -> None:
    events = events_frame(
        *(("PaymentFailed", "EUR", reason, 1) for reason, times in (("a", 4), ("b", 3), ("c", 2), ("d", 1))
          for _ in range(times))
    )  # fmt: skip
    [bars] = traces(charts.failure_pareto(events, top=2), "failed attempts")
    assert list(bars.x) == [0.4, 0.3, 0.3]
    assert bars.customdata[2].startswith("2 other reasons<br>3 failed attempts, 30.00 %")
    figure = charts.failure_pareto(events, top=3)
    assert figure.layout.yaxis.ticktext == ("a", "b", "c", "d")
    with pytest.raises(charts.ChartError, match="top 0"):
        charts.failure_pareto(events, top=0)


def test_without_a_failure_the_charts_of_failures_say_so() -> None:
    assert message(charts.failure_pareto(events_frame(("PaymentProcessed", "EUR", None, 1)))) == (
        "There are no failed attempts."
    )
    assert message(charts.retry_funnel(payments_frame({}))) == "No payment failed at its first attempt."


def test_the_funnel_follows_every_payment_to_its_end() -> None:
    payments = payments_frame(
        *({} for _ in range(10)),
        *({"failures_before": 1, "amount_minor": 1001} for _ in range(4)),
        {"failures_before": 2},
        *({"failures_before": 1, "completed_at": None} for _ in range(3)),
        *({"failures_before": 2, "completed_at": None, "amount_minor": 50} for _ in range(2)),
        {"unreferenced": True, "completed_at": None},
        {"currency": "CHF"},
    )
    assert attempts_by_currency(payments)["EUR"] == [
        Attempt(1, 10, 7, 3, completed_amount=1000, given_up_amount=300),
        Attempt(2, 4, 1, 2, completed_amount=4004, given_up_amount=100),
        Attempt(3, 1, 0, 0, completed_amount=100, given_up_amount=0),
    ]
    figure = charts.retry_funnel(payments)
    assert headings(figure) == {"EUR": "10 of 20 payments failed at first, retries recovered 50.00 %"}
    assert note(figure) == "No payment failed at first in CHF"
    [completed], [again], [given_up] = (
        traces(figure, name) for name in ("completed", "failed, tried again", "failed, not tried since")
    )
    # What completed at once is no part of the funnel: it would dwarf all that it is about.
    assert (completed.x, again.x, given_up.x) == ((0, 4, 1), (7, 1, 0), (3, 2, 0))
    assert completed.customdata[1] == (
        "2nd attempt: 7 payments tried<br>4 completed (57.14 %), 40.04 EUR<br>"
        "3 failed: 1 tried again,<br>2 not tried since, 1.00 EUR"
    )


def test_the_sixth_attempt_stands_for_all_later_ones() -> None:
    attempts = attempts_by_currency(
        payments_frame(
            {"failures_before": 5}, {"failures_before": 9}, {"failures_before": 8, "completed_at": None}
        )
    )["EUR"]
    assert [(each.tried, each.completed, each.given_up) for each in attempts] == [(3, 0, 0)] * 5 + [(3, 2, 1)]


def test_a_cohort_is_what_completed_in_a_month_whenever_it_was_refunded() -> None:
    payments = payments_frame(
        {"amount_minor": 10_000, "refunded_minor": 2_500, "first_refund_at": at(70)},
        {"amount_minor": 10_000},
        {"amount_minor": 4_000, "refunded_minor": 4_000, "completed_at": at(61)},
        {"amount_minor": 700, "refunded_minor": 700, "completed_at": None, "unreferenced": True},
    )
    figure = charts.refund_cohorts(payments, known_until=at(70))
    [bars] = traces(figure, "refunded so far")
    assert list(bars.x) == [date(2026, 3, 1), date(2026, 4, 1), date(2026, 5, 1)]
    assert list(bars.y) == [0.125, None, 1.0]
    assert bars.customdata[0] == "12.50 %: 25.00 of 200.00 EUR, 1 of 2 payments"
    assert headings(figure) == {"EUR": "27.08 %: 65.00 refunded of 240.00"}
    [shade] = figure.layout.shapes  # May, to half a month on either side of where its bar stands
    assert (shade.x0.date(), shade.x1.date()) == (date(2026, 4, 16), date(2026, 5, 16))


def test_latency_is_counted_in_the_buckets_of_the_query() -> None:
    after = (-0.5, 0.5, 1, 7 * DAY - 0.5, 7 * DAY)  # hours
    payments = payments_frame(
        *({"first_refund_at": at(hours / DAY)} for hours in after),
        {},
        {"completed_at": None, "first_refund_at": at(0)},
    )
    latencies = latencies_by_currency(payments)["EUR"]
    assert latencies == {0: 1, 1: 1, 2: 1, 168: 1, 192: 1}
    assert reached_within(latencies, 50) == 2
    assert reached_within(latencies, 60) == 2
    assert reached_within(latencies, 61) == 168
    figure = charts.refund_latency(payments)
    assert headings(figure) == {"EUR": "half of 5 within 2 hours, nine tenths within 8 days"}
    [curve] = traces(figure, "refunded")
    assert list(curve.y) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    assert list(curve.x)[:5] == [0.5, 0.5, 1, 2, 168]
    assert curve.customdata[1] == "dated before the payment: 20.00 %, 1 of 5"
    assert curve.customdata[4] == "within 7 days: 80.00 %, 4 of 5"
    assert [lasting(hours) for hours in (1, 71, 72, 135)] == ["1 hour", "71 hours", "3 days", "5 days 15 h"]
    assert message(charts.refund_latency(payments_frame({}))) == "There are no refunded payments."


def test_latency_retries_and_cohorts_agree_with_the_definitions_in_sql() -> None:
    events = _random_events(Random(7), 300)
    payments = fold(events.lazy())
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("events", events.to_arrow())
        latency = connection.sql(REFUND_LATENCY.sql).pl()
        recovery = connection.sql(RETRY_RECOVERY.sql).pl()
        cohorts = connection.sql(REFUND_COHORTS.sql).pl()
    for currency, counted in latencies_by_currency(payments).items():
        of = latency.filter(pl.col("currency") == currency)
        by_bucket = dict(of.group_by("bucket").agg(pl.col("payments").sum()).iter_rows())
        ends = {
            (0 if bucket < 0 else bucket + 1 if bucket < 168 else bucket + 24): int(payments)
            for bucket, payments in by_bucket.items()
        }
        assert counted == ends
    for currency, attempts in attempts_by_currency(payments).items():
        of = recovery.filter(pl.col("currency") == currency)
        first = attempts[0]
        assert first.again + first.given_up == of["payments"].sum()
        assert sum(each.completed for each in attempts[1:]) == of.filter("recovered")["payments"].sum()
        assert (
            sum(each.completed_amount for each in attempts[1:])
            == of.filter("recovered")["amount_minor"].sum()
        )
    sums = pl.col("payments", "amount_minor", "refunded_payments", "refunded_minor").sum().cast(pl.Int64)
    months = cohorts.group_by("currency", pl.col("period").dt.truncate("1mo")).agg(sums).rows()
    drawn = cohorts_by_currency(payments)
    assert {(currency, month): Cohort(*figures) for currency, month, *figures in months} == {
        (currency, month): cohort
        for currency, by_month in drawn.items()
        for month, cohort in by_month.items()
        if cohort.payments
    }
    assert any(cohort.refunded for by_month in drawn.values() for cohort in by_month.values())


def test_organizations_are_followed_from_the_month_they_began() -> None:
    payments = payments_frame(
        *({"organization_id": "a", "completed_at": at(day)} for day in (0, 1, 31, 61)),
        {"organization_id": "b"},
        *({"organization_id": "c", "completed_at": at(day)} for day in (35, 62)),
        {"organization_id": "d", "completed_at": None},
    )
    assert stays_by_currency(payments) == {
        "EUR": [Stay(date(2026, 3, 1), 2, (2, 1, 1)), Stay(date(2026, 4, 1), 1, (1, 1))]
    }
    figure = charts.retention(payments, known_until=at(70))
    [cells] = figure.data
    assert cells.z == ([1.0, 0.5, 0.5], [1.0, 1.0, None])
    assert cells.customdata[0][1] == "began in March 2026, April 2026:<br>1 of 2 organizations paid, 50.00 %"
    assert figure.layout.yaxis.ticktext == ("Mar 2026 (2)", "Apr 2026 (1)")
    assert headings(figure) == {"EUR": "2 of 3 organizations paid in the last month"}
    # May is not over: the last cell of each row may yet grow.
    assert [(shape.x0, shape.y0) for shape in figure.layout.shapes] == [(1.5, -0.5), (0.5, 0.5)]
    assert note(figure) == "Outlined: unfinished, known until 10 May 2026 00:00 UTC"
    assert not charts.retention(payments, known_until=at(100)).layout.shapes


def _random_events(random: Random, payments: int) -> pl.DataFrame:
    """Payments that fail, are tried again, complete and are refunded, now and then before they complete."""
    rows = []
    for number in range(payments):
        key = {"payment_id": f"P-{number}", "organization_id": "a", "currency": random.choice(["EUR", "JPY"])}
        day, version, attempt = random.random() * 90, 0, 0
        steps = ["PaymentFailed"] * random.choice([0, 0, 1, 2, 7])
        steps += ["PaymentProcessed"] * random.choice([0, 1, 1, 1])
        if steps and steps[-1] == "PaymentProcessed":
            steps += ["PaymentRefunded"] * random.choice([0, 0, 1, 2])
        for kind in steps or ["PaymentProcessed"]:
            version, attempt = version + 1, attempt + (kind != "PaymentRefunded")
            day += random.choice([0.001, 0.02, 1.0, 6.99, 8.0, 40.0, -0.01])
            rows.append(
                key
                | {
                    "event_type": kind,
                    "version": version,
                    "attempt": None if kind == "PaymentRefunded" else attempt,
                    "amount_minor": 1 if kind == "PaymentRefunded" else 1000 + number,
                    "exponent": 2,
                    "occurred_at": at(day),
                    "unreferenced": False,
                    "user_id": None,
                    "reason": None,
                }
            )
    schema = {"attempt": pl.Int64, "user_id": pl.String, "reason": pl.String,
              "occurred_at": pl.Datetime("ms", "UTC")}  # fmt: skip
    return pl.DataFrame(rows, schema_overrides=schema)
