-- A line for every movement of an organization (all organizations where $organization is null) that is booked
-- in $start <= t < $end. Reads the views `events` and `frontiers`, which says for ranges of positions how far
-- the books were shut when those events came: a movement is booked when it occurred, or at that frontier if it
-- is later. Frontiers only grow with the position: up to $after they lie before $start, so that what is booked
-- in the interval also occurred in it; up to $until they lie before $end. Amounts are minor units.
-- amount: what the movement does to the balance. A charge counts positive, refunds and credits negative, a
-- failed attempt zero; what it tried to move stands in failed. opening: what the organization's movements in the
-- currency came to before the interval; running balances begin there.
WITH in_question AS (
  SELECT *
  FROM events
  WHERE position <= $after
    AND occurred_at >= $start
    AND occurred_at < $end
    AND ($organization IS NULL OR organization_id = $organization)
  UNION ALL
  SELECT *
  FROM events
  WHERE position > $after
    AND position <= $until
    AND occurred_at < $end
    AND ($organization IS NULL OR organization_id = $organization)
),
booked AS (
  SELECT
    organization_id,
    event_id,
    position,
    payment_id,
    attempt,
    CASE
      WHEN event_type = 'PaymentProcessed' THEN 'charge'
      WHEN event_type = 'PaymentFailed' THEN 'failure'
      WHEN event_type = 'PaymentRefunded' AND unreferenced THEN 'unreferenced_credit'
      WHEN event_type = 'PaymentRefunded' THEN 'refund'
    END AS movement,
    occurred_at,
    GREATEST(occurred_at, frontier) AS booked_at,
    currency,
    exponent,
    amount_minor,
    CASE event_type
      WHEN 'PaymentProcessed' THEN amount_minor
      WHEN 'PaymentRefunded' THEN -amount_minor
      ELSE CAST(0 AS BIGINT)
    END AS change,
    reason,
    user_id,
    correlation_id,
    command_id
  FROM in_question
  JOIN frontiers
    ON in_question.position > frontiers.after
    AND in_question.position <= frontiers.up_to
),
openings AS (
  SELECT
    organization_id,
    currency,
    SUM(
      CASE event_type
        WHEN 'PaymentProcessed' THEN CAST(amount_minor AS DECIMAL(38, 0))
        WHEN 'PaymentRefunded' THEN CAST(-amount_minor AS DECIMAL(38, 0))
        ELSE CAST(0 AS DECIMAL(38, 0))
      END
    ) AS opening
  FROM events
  WHERE position <= $after
    AND occurred_at < $start
    AND ($organization IS NULL OR organization_id = $organization)
  GROUP BY organization_id, currency
),
originals AS (
  SELECT refunds.position, charges.event_id, charges.occurred_at
  FROM booked AS refunds
  JOIN events AS charges
    ON charges.payment_id = refunds.payment_id
  WHERE refunds.movement = 'refund'
    AND charges.event_type = 'PaymentProcessed'
)
SELECT
  booked.organization_id,
  booked.event_id,
  booked.position,
  booked.payment_id,
  booked.attempt,
  CASE WHEN booked.booked_at > booked.occurred_at THEN 'correction' ELSE booked.movement END AS category,
  booked.movement,
  booked.occurred_at,
  booked.booked_at,
  booked.currency,
  booked.exponent,
  booked.change AS amount_minor,
  CASE WHEN booked.movement = 'failure' THEN booked.amount_minor END AS failed_minor,
  COALESCE(openings.opening, CAST(0 AS DECIMAL(38, 0))) AS opening_minor,
  booked.reason,
  originals.occurred_at AS original_at,
  originals.event_id AS original_event_id,
  booked.user_id,
  booked.correlation_id,
  booked.command_id
FROM booked
LEFT JOIN openings
  ON openings.organization_id = booked.organization_id
  AND openings.currency = booked.currency
LEFT JOIN originals
  ON originals.position = booked.position
ORDER BY booked.organization_id, booked.booked_at, booked.position
