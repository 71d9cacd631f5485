"""Dagster on top of LedgerLake: what runs when and in which order, and what a run shows."""
