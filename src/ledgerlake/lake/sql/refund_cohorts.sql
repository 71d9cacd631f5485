-- Payments that completed, per organization, UTC day of completion and currency: what they came to, and what has
-- been refunded of them since, however much later. Refunds that name no payment are in no cohort.
-- The mark below stands for payments.sql, which folds every payment from its events. Amounts are minor units.
WITH payments AS (
{payments}
)
SELECT
  organization_id,
  CAST(completed_at AS DATE) AS period,
  currency,
  COUNT(*) AS payments,
  SUM(amount_minor) AS amount_minor,
  COUNT(*) FILTER (WHERE refunded_minor > 0) AS refunded_payments,
  SUM(refunded_minor) AS refunded_minor
FROM payments
WHERE completed_at IS NOT NULL
GROUP BY organization_id, period, currency
ORDER BY organization_id, period, currency
