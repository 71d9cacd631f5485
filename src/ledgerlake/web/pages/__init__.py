"""The pages for finance: find reports, look at them, download them, and follow a payment.

Rendered here, by Jinja2; the scripts draw charts and nothing else, and every page works without them.
"""

from __future__ import annotations

from fastapi import APIRouter

from ledgerlake.web.pages.charts import router as _charts
from ledgerlake.web.pages.organizations import router as _organizations
from ledgerlake.web.pages.payments import router as _payments
from ledgerlake.web.pages.periods import router as _periods
from ledgerlake.web.pages.signing import router as _signing
from ledgerlake.web.pages.static import router as _static

router = APIRouter(include_in_schema=False)
for _part in (_signing, _organizations, _periods, _charts, _payments, _static):
    router.include_router(_part)

__all__ = ["router"]
