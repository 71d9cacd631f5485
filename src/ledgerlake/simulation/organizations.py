"""Who pays in the simulated business: sixteen organizations that differ in every way reports care about."""

from __future__ import annotations

from dataclasses import dataclass

# Weight of each local hour, 0 to 23.
SHOP_HOURS = (2, 1, 1, 1, 1, 2, 4, 8, 12, 16, 19, 21, 23, 21, 19, 19, 20, 23, 28, 32, 33, 28, 17, 7)
OFFICE_HOURS = (1, 1, 1, 1, 1, 2, 6, 16, 32, 42, 44, 38, 26, 34, 40, 38, 32, 20, 9, 5, 3, 2, 1, 1)
RENEWAL_HOURS = (38, 34, 30, 24, 18, 12, 10, 10, 12, 14, 15, 15, 14, 14, 14, 14, 13, 12, 11, 10, 9, 9, 8, 8)

WEEKEND = (5, 6)  # Saturday and Sunday, as date.weekday() counts
GULF_WEEKEND = (4, 5)  # Friday and Saturday


@dataclass(frozen=True, slots=True)
class Organization:
    """One customer of the ledger.

    volume: weight of its payments on the first day; growth: change of it per 180 days (0.5 is +50 %).
    prices: ranges in euro cents, drawn evenly between ranges, low within one; equal ends are a fixed price.
    failure_rate: chance that a first attempt fails; refund_rate: chance that a completed payment is refunded.
    """

    id: str
    volume: float
    growth: float
    currencies: tuple[tuple[str, float], ...]
    prices: tuple[tuple[int, int], ...]
    failure_rate: float
    refund_rate: float
    hours: tuple[int, ...] = SHOP_HOURS
    utc_offset: int = 0
    weekend: float = 0.6
    weekend_days: tuple[int, int] = WEEKEND
    customers: int = 800
    since_day: int = 0


ORGANIZATIONS = (
    Organization(
        "alpine-outdoor", 60, 0.70, (("EUR", 0.9), ("GBP", 0.1)),
        ((1900, 24900), (4900, 64900)), 0.055, 0.075,
        utc_offset=1, customers=5200,
    ),
    Organization(
        "bluebird-books", 45, 0.40, (("GBP", 0.85), ("EUR", 0.15)),
        ((599, 3999), (899, 899), (1299, 1299)), 0.045, 0.030,
        customers=4100, weekend=0.75,
    ),
    Organization(
        "cedar-health", 26, 0.30, (("USD", 1.0),),
        ((4500, 32000), (12000, 12000)), 0.060, 0.018,
        hours=OFFICE_HOURS, utc_offset=-5, weekend=0.15, customers=2300,
    ),
    Organization(
        "delta-freight", 11, 0.15, (("USD", 0.7), ("EUR", 0.3)),
        ((48000, 980000), (150000, 2400000)), 0.035, 0.020,
        hours=OFFICE_HOURS, utc_offset=-6, weekend=0.08, customers=190,
    ),
    Organization(
        "evergreen-energy", 38, 0.20, (("EUR", 1.0),),
        ((5200, 18900), (7900, 7900), (11900, 11900)), 0.085, 0.012,
        hours=RENEWAL_HOURS, utc_offset=1, weekend=0.7, customers=6400,
    ),
    Organization(
        "fjord-travel", 24, 1.60, (("EUR", 0.5), ("GBP", 0.3), ("USD", 0.2)),
        ((12900, 189000), (39000, 420000)), 0.075, 0.140,
        utc_offset=1, weekend=0.8, customers=2900,
    ),
    Organization(
        "gulf-logistics", 14, 0.70, (("BHD", 0.75), ("USD", 0.25)),
        ((9500, 260000),), 0.050, 0.025,
        hours=OFFICE_HOURS, utc_offset=3, weekend=0.2, weekend_days=GULF_WEEKEND, customers=260,
    ),
    Organization(
        "hinode-games", 52, 1.20, (("JPY", 1.0),),
        ((80, 800), (320, 320), (640, 640), (2000, 6400)), 0.070, 0.022,
        utc_offset=9, weekend=0.85, customers=7600,
    ),
    Organization(
        "iris-fashion", 42, 0.60, (("EUR", 0.7), ("GBP", 0.3)),
        ((1499, 18900), (2999, 39900)), 0.058, 0.165,
        utc_offset=1, weekend=0.7, customers=4700,
    ),
    Organization(
        "juniper-software", 30, 1.30, (("USD", 0.7), ("EUR", 0.3)),
        ((1200, 1200), (2900, 2900), (9900, 9900), (49900, 49900)), 0.095, 0.025,
        hours=RENEWAL_HOURS, utc_offset=-8, weekend=0.65, customers=3300,
    ),
    Organization(
        "kumo-hosting", 20, 0.80, (("JPY", 0.8), ("USD", 0.2)),
        ((660, 660), (1320, 1320), (3000, 48000)), 0.050, 0.010,
        hours=RENEWAL_HOURS, utc_offset=9, weekend=0.7, customers=1700,
    ),
    Organization(
        "lantern-charity", 18, -0.15, (("GBP", 1.0),),
        ((500, 500), (1000, 1000), (2500, 2500), (1000, 50000)), 0.080, 0.004,
        weekend=0.7, customers=3900,
    ),
    Organization(
        "manama-market", 22, 0.70, (("BHD", 1.0),),
        ((350, 9900), (1200, 24000)), 0.065, 0.040,
        utc_offset=3, weekend=0.7, weekend_days=GULF_WEEKEND, customers=1500,
    ),
    Organization(
        "nimbus-mobile", 16, 5.00, (("USD", 1.0),),
        ((999, 999), (1999, 1999), (4999, 99900)), 0.090, 0.045,
        utc_offset=-5, weekend=0.6, customers=5100, since_day=45,
    ),
    Organization(
        "oak-street-dental", 5, 0.05, (("USD", 1.0),),
        ((6500, 145000),), 0.050, 0.015,
        hours=OFFICE_HOURS, utc_offset=-5, weekend=0.1, customers=310,
    ),
    Organization(
        "pebble-parking", 34, -0.10, (("GBP", 0.6), ("EUR", 0.4)),
        ((150, 150), (320, 320), (480, 480), (650, 2400)), 0.040, 0.008,
        hours=OFFICE_HOURS, weekend=0.55, customers=5900,
    ),
)  # fmt: skip

# Price level: minor units of the currency per euro cent, as numerator and denominator. Whole numbers, so that
# an amount is the same on every machine.
PRICE_LEVEL = {"EUR": (1, 1), "USD": (1, 1), "GBP": (1, 1), "JPY": (3, 2), "BHD": (4, 1)}
