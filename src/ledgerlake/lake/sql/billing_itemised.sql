-- A line for every movement of an organization (all organizations where $organization is null) that
-- occurred in $start <= t < $end. Reads the view `events`.
-- amount: what the movement does to the balance. A charge counts positive, refunds and credits
-- negative, a failed attempt zero; what it tried to move stands in failed.
SELECT
  organization_id,
  event_id,
  position,
  payment_id,
  attempt,
  CASE
    WHEN event_type = 'PaymentProcessed' THEN 'charge'
    WHEN event_type = 'PaymentFailed' THEN 'failure'
    WHEN unreferenced THEN 'unreferenced_credit'
    ELSE 'refund'
  END AS category,
  occurred_at,
  CAST(occurred_at AS DATE) AS day,
  currency,
  exponent,
  CASE event_type
    WHEN 'PaymentProcessed' THEN amount_minor
    WHEN 'PaymentRefunded' THEN -amount_minor
    ELSE CAST(0 AS BIGINT)
  END AS amount_minor,
  CASE WHEN event_type = 'PaymentFailed' THEN amount_minor END AS failed_minor,
  user_id,
  reason,
  correlation_id,
  command_id
FROM events
WHERE occurred_at >= $start
  AND occurred_at < $end
  AND ($organization IS NULL OR organization_id = $organization)
ORDER BY organization_id, occurred_at, position
