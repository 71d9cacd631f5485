-- Payments that failed before they completed, or so far, per organization, currency, UTC day of the earliest
-- failure, number of failures, and whether a later attempt went through. Amounts are minor units.
-- The mark below stands for payments.sql, which folds every payment from its events.
WITH payments AS (
{payments}
)
SELECT
  organization_id,
  CAST(first_failed_at AS DATE) AS day,
  currency,
  failures_before,
  completed_at IS NOT NULL AS recovered,
  COUNT(*) AS payments,
  SUM(amount_minor) AS amount_minor
FROM payments
WHERE failures_before > 0
GROUP BY organization_id, day, currency, failures_before, recovered
ORDER BY organization_id, day, currency, failures_before, recovered
