-- Movements per organization, outcome and currency, over the whole log.
-- Reads the view `events`. Amounts are minor units of the currency; averages are made from
-- total and count afterwards, exactly.
WITH movements AS (
  SELECT
    organization_id,
    CASE event_type
      WHEN 'PaymentProcessed' THEN 'completed'
      WHEN 'PaymentFailed' THEN 'failed'
      WHEN 'PaymentRefunded' THEN 'refunded'
    END AS status,
    currency,
    exponent,
    amount_minor,
    occurred_at
  FROM events
)
SELECT
  organization_id,
  status,
  currency,
  exponent,
  COUNT(*) AS count,
  SUM(CAST(amount_minor AS DECIMAL(38, 0))) AS total_minor,
  MIN(amount_minor) AS min_minor,
  MAX(amount_minor) AS max_minor,
  MIN(occurred_at) AS first_at,
  MAX(occurred_at) AS last_at
FROM movements
GROUP BY organization_id, status, currency, exponent
ORDER BY organization_id, status, currency
