-- Every payment folded from its events: a row per payment. Reads the view `events`. Amounts are minor units.
-- amount_minor: what was processed; of a payment never completed, its last failed attempt; of a refund
-- that names no payment, the refund. Organization and currency never change in a payment, so their
-- minimum is they. failures_before: failed attempts before the one that went through, or all of them: attempts
-- are numbered from 1.
WITH folded AS (
  SELECT
    payment_id,
    MIN(organization_id) AS organization_id,
    MIN(currency) AS currency,
    MIN(exponent) AS exponent,
    SUM(CAST(amount_minor AS DECIMAL(38, 0))) FILTER (WHERE event_type = 'PaymentProcessed') AS processed,
    SUM(CAST(amount_minor AS DECIMAL(38, 0))) FILTER (WHERE event_type = 'PaymentRefunded') AS refunded,
    MAX(version) FILTER (WHERE event_type = 'PaymentFailed') AS last_failure,
    MAX(CASE WHEN unreferenced THEN 1 ELSE 0 END) AS unreferenced,
    COUNT(*) FILTER (WHERE event_type <> 'PaymentRefunded') AS attempts,
    COUNT(*) FILTER (WHERE event_type = 'PaymentFailed') AS failures,
    COUNT(*) FILTER (WHERE event_type = 'PaymentRefunded') AS refunds,
    MIN(occurred_at) FILTER (WHERE event_type = 'PaymentProcessed') AS completed_at,
    MIN(occurred_at) FILTER (WHERE event_type = 'PaymentRefunded') AS first_refund_at,
    MIN(occurred_at) FILTER (WHERE event_type = 'PaymentFailed') AS first_failed_at,
    MIN(attempt) FILTER (WHERE event_type = 'PaymentProcessed') - 1 AS failures_before,
    MAX(version) AS version
  FROM events
  GROUP BY payment_id
),
failed AS (
  SELECT payment_id, version, amount_minor
  FROM events
  WHERE event_type = 'PaymentFailed'
)
SELECT
  folded.payment_id,
  folded.organization_id,
  folded.currency,
  folded.exponent,
  CASE
    WHEN folded.unreferenced = 1 THEN 'refunded'
    WHEN folded.processed IS NULL THEN 'failed'
    WHEN folded.refunded IS NULL THEN 'completed'
    WHEN folded.refunded = folded.processed THEN 'refunded'
    ELSE 'partially_refunded'
  END AS status,
  folded.unreferenced = 1 AS unreferenced,
  CASE
    WHEN folded.processed IS NOT NULL THEN folded.processed
    WHEN folded.unreferenced = 1 THEN folded.refunded
    ELSE CAST(failed.amount_minor AS DECIMAL(38, 0))
  END AS amount_minor,
  COALESCE(folded.refunded, CAST(0 AS DECIMAL(38, 0))) AS refunded_minor,
  folded.attempts,
  folded.failures,
  folded.refunds,
  folded.completed_at,
  folded.first_refund_at,
  folded.first_failed_at,
  COALESCE(folded.failures_before, folded.failures) AS failures_before,
  folded.version
FROM folded
LEFT JOIN failed
  ON failed.payment_id = folded.payment_id
  AND failed.version = folded.last_failure
