-- What payments have come to, per organization, state and currency. The mark below stands
-- for payments.sql, which folds every payment from its events. Amounts are minor units of the currency.
WITH payments AS (
{payments}
)
SELECT
  organization_id,
  status,
  unreferenced,
  currency,
  exponent,
  COUNT(*) AS count,
  SUM(amount_minor) AS amount_minor,
  SUM(refunded_minor) AS refunded_minor
FROM payments
GROUP BY organization_id, status, unreferenced, currency, exponent
ORDER BY organization_id, status, unreferenced, currency
