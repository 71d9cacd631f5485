"""The web: an HTTP API for services and pages for finance, on one ledger.

`app.create_app` puts it together. `tokens` and `access` say who may do what, `api` holds the routes of the
API, `pages` those of the pages, and `service` what both work with.
"""
