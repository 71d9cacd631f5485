-- Failed attempts per organization, UTC day, currency and reason; an empty reason is none.
-- Reads the view `events`. Amounts are minor units of the currency; the session's time zone is UTC.
SELECT
  organization_id,
  CAST(occurred_at AS DATE) AS day,
  currency,
  NULLIF(reason, '') AS reason,
  COUNT(*) AS count,
  SUM(CAST(amount_minor AS DECIMAL(38, 0))) AS total_minor
FROM events
WHERE event_type = 'PaymentFailed'
GROUP BY organization_id, day, currency, NULLIF(reason, '')
ORDER BY organization_id, day, currency, reason
