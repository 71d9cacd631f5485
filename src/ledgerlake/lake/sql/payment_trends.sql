-- Movements per organization, period, currency and outcome. The mark below stands for day, week (from
-- Monday) or month of the time in UTC, and not of the instant, which DuckDB truncates at half the rate.
-- Reads the view `events`. Amounts are minor units of the currency.
WITH movements AS (
  SELECT
    organization_id,
    CAST(DATE_TRUNC('{granularity}', occurred_at AT TIME ZONE 'UTC') AS DATE) AS period,
    currency,
    exponent,
    CASE event_type
      WHEN 'PaymentProcessed' THEN 'completed'
      WHEN 'PaymentFailed' THEN 'failed'
      WHEN 'PaymentRefunded' THEN 'refunded'
    END AS status,
    amount_minor
  FROM events
)
SELECT
  organization_id,
  period,
  currency,
  status,
  exponent,
  COUNT(*) AS count,
  SUM(CAST(amount_minor AS DECIMAL(38, 0))) AS total_minor,
  MIN(amount_minor) AS min_minor,
  MAX(amount_minor) AS max_minor
FROM movements
GROUP BY organization_id, period, currency, status, exponent
ORDER BY organization_id, period, currency, status
