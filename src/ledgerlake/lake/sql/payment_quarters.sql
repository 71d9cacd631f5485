-- Movements per organization, quarter of an hour, currency and outcome. Reads the view `events`.
-- Amounts are minor units of the currency.
SELECT
  organization_id,
  DATE_TRUNC('hour', occurred_at) + EXTRACT(MINUTE FROM occurred_at) // 15 * INTERVAL 15 MINUTE AS quarter,
  currency,
  CASE event_type
    WHEN 'PaymentProcessed' THEN 'completed'
    WHEN 'PaymentFailed' THEN 'failed'
    WHEN 'PaymentRefunded' THEN 'refunded'
  END AS status,
  COUNT(*) AS count,
  SUM(CAST(amount_minor AS DECIMAL(38, 0))) AS total_minor
FROM events
GROUP BY organization_id, quarter, currency, status
ORDER BY organization_id, quarter, currency, status
