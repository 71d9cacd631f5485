-- Counts and sums per organization, currency and category, and the balances before and after, of what is booked
-- in each of the wanted intervals (all organizations where $organization is null). Reads the views `events`,
-- `frontiers` (see billing_itemised.sql) and `intervals`: number, start, before and wanted, numbered in the
-- order of time. They touch, and the first begins before all events: so what is booked in all earlier ones is
-- the opening balance. What can not be booked before $end, the end of the last one, is left out early: it
-- occurred later, or came after $until, when the books were shut beyond. Amounts are minor units, not negative but for net = gross - refunded and balances. Refunds include
-- the credits that name no payment. A movement booked later than it occurred is a correction, of whatever kind.
WITH booked AS (
  SELECT
    organization_id,
    currency,
    exponent,
    event_type,
    unreferenced,
    CAST(amount_minor AS DECIMAL(38, 0)) AS amount,
    GREATEST(occurred_at, frontier) AS booked_at,
    frontier > occurred_at AS late
  FROM events
  JOIN frontiers
    ON events.position > frontiers.after
    AND events.position <= frontiers.up_to
  WHERE occurred_at < $end
    AND position <= $until
    AND ($organization IS NULL OR organization_id = $organization)
),
sums AS (
  SELECT
    number,
    organization_id,
    currency,
    exponent,
    CASE
      WHEN late THEN 'correction'
      WHEN event_type = 'PaymentProcessed' THEN 'charge'
      WHEN event_type = 'PaymentFailed' THEN 'failure'
      WHEN unreferenced THEN 'unreferenced_credit'
      ELSE 'refund'
    END AS category,
    COUNT(*) AS movements,
    SUM(CASE WHEN event_type = 'PaymentProcessed' THEN amount ELSE CAST(0 AS DECIMAL(38, 0)) END) AS gross,
    COUNT(*) FILTER (WHERE event_type = 'PaymentRefunded') AS refunds,
    SUM(CASE WHEN event_type = 'PaymentRefunded' THEN amount ELSE CAST(0 AS DECIMAL(38, 0)) END) AS refunded,
    COUNT(*) FILTER (WHERE event_type = 'PaymentFailed') AS failures,
    SUM(CASE WHEN event_type = 'PaymentFailed' THEN amount ELSE CAST(0 AS DECIMAL(38, 0)) END) AS failed
  FROM booked
  JOIN intervals
    ON booked.booked_at >= intervals.start
    AND booked.booked_at < intervals.before
  GROUP BY 1, 2, 3, 4, 5
),
per_currency AS (
  SELECT number, organization_id, currency, exponent, SUM(movements) AS movements, SUM(gross - refunded) AS net
  FROM sums
  GROUP BY number, organization_id, currency, exponent
),
currencies AS (
  SELECT DISTINCT organization_id, currency, exponent FROM sums
),
balances AS (
  SELECT
    intervals.number,
    intervals.wanted,
    currencies.organization_id,
    currencies.currency,
    currencies.exponent,
    COALESCE(per_currency.movements, 0) AS movements,
    COALESCE(per_currency.net, CAST(0 AS DECIMAL(38, 0))) AS net,
    SUM(COALESCE(per_currency.net, CAST(0 AS DECIMAL(38, 0)))) OVER (
      PARTITION BY currencies.organization_id, currencies.currency
      ORDER BY intervals.number
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS closing
  FROM currencies
  CROSS JOIN intervals
  LEFT JOIN per_currency
    ON per_currency.number = intervals.number
    AND per_currency.organization_id = currencies.organization_id
    AND per_currency.currency = currencies.currency
),
categories AS (
  SELECT 1 AS place, 'charge' AS category
  UNION ALL SELECT 2, 'refund'
  UNION ALL SELECT 3, 'unreferenced_credit'
  UNION ALL SELECT 4, 'failure'
  UNION ALL SELECT 5, 'correction'
)
SELECT
  balances.number,
  balances.organization_id,
  balances.currency,
  balances.exponent,
  categories.category,
  COALESCE(sums.movements, 0) AS count,
  COALESCE(sums.gross, CAST(0 AS DECIMAL(38, 0))) AS gross_minor,
  COALESCE(sums.refunds, 0) AS refunds,
  COALESCE(sums.refunded, CAST(0 AS DECIMAL(38, 0))) AS refunded_minor,
  COALESCE(sums.gross - sums.refunded, CAST(0 AS DECIMAL(38, 0))) AS net_minor,
  COALESCE(sums.failures, 0) AS failures,
  COALESCE(sums.failed, CAST(0 AS DECIMAL(38, 0))) AS failed_minor,
  balances.closing - balances.net AS opening_minor,
  balances.closing AS closing_minor
FROM balances
CROSS JOIN categories
LEFT JOIN sums
  ON sums.number = balances.number
  AND sums.organization_id = balances.organization_id
  AND sums.currency = balances.currency
  AND sums.category = categories.category
WHERE balances.wanted
  AND (balances.movements > 0 OR balances.closing - balances.net <> 0)
ORDER BY balances.number, balances.organization_id, balances.currency, categories.place
