-- Payments per organization, currency, UTC day of completion, and time from there to the first refund: hours,
-- rounded down to a whole hour below seven days and to a whole day above, -1 for a refund dated earlier.
-- The mark below stands for payments.sql, which folds every payment from its events.
WITH payments AS (
{payments}
),
refunded AS (
  SELECT
    organization_id,
    currency,
    CAST(completed_at AS DATE) AS day,
    DATE_DIFF('millisecond', completed_at, first_refund_at) AS latency
  FROM payments
  WHERE completed_at IS NOT NULL AND first_refund_at IS NOT NULL
)
SELECT
  organization_id,
  day,
  currency,
  CASE
    WHEN latency < 0 THEN -1
    WHEN latency < 604800000 THEN latency // 3600000
    ELSE latency // 86400000 * 24
  END AS bucket,
  COUNT(*) AS payments
FROM refunded
GROUP BY organization_id, day, currency, bucket
ORDER BY organization_id, day, currency, bucket
