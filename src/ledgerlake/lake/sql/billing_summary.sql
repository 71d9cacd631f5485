-- Counts and sums per organization and currency of what occurred in $start <= t < $end (all
-- organizations where $organization is null). Reads the view `events`. Amounts are minor units, not
-- negative but for net = gross - refunded. Refunds include the credits that name no payment.
WITH totals AS (
  SELECT
    organization_id,
    currency,
    exponent,
    COUNT(*) FILTER (WHERE event_type = 'PaymentProcessed') AS charges,
    SUM(CAST(amount_minor AS DECIMAL(38, 0))) FILTER (WHERE event_type = 'PaymentProcessed') AS gross,
    COUNT(*) FILTER (WHERE event_type = 'PaymentRefunded') AS refunds,
    SUM(CAST(amount_minor AS DECIMAL(38, 0))) FILTER (WHERE event_type = 'PaymentRefunded') AS refunded,
    COUNT(*) FILTER (WHERE unreferenced) AS credits,
    SUM(CAST(amount_minor AS DECIMAL(38, 0))) FILTER (WHERE unreferenced) AS credited,
    COUNT(*) FILTER (WHERE event_type = 'PaymentFailed') AS failures,
    SUM(CAST(amount_minor AS DECIMAL(38, 0))) FILTER (WHERE event_type = 'PaymentFailed') AS failed
  FROM events
  WHERE occurred_at >= $start
    AND occurred_at < $end
    AND ($organization IS NULL OR organization_id = $organization)
  GROUP BY organization_id, currency, exponent
)
SELECT
  organization_id,
  currency,
  exponent,
  charges,
  COALESCE(gross, CAST(0 AS DECIMAL(38, 0))) AS gross_minor,
  refunds,
  COALESCE(refunded, CAST(0 AS DECIMAL(38, 0))) AS refunded_minor,
  credits,
  COALESCE(credited, CAST(0 AS DECIMAL(38, 0))) AS credited_minor,
  COALESCE(gross, CAST(0 AS DECIMAL(38, 0))) - COALESCE(refunded, CAST(0 AS DECIMAL(38, 0))) AS net_minor,
  failures,
  COALESCE(failed, CAST(0 AS DECIMAL(38, 0))) AS failed_minor
FROM totals
ORDER BY organization_id, currency
