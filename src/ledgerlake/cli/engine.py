"""`--engine` and `--url`: what computes tables and reports from the lake, for one command."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import typer

from ledgerlake.settings import Settings, SettingsError

EngineName = Annotated[
    Literal["duckdb", "spark"] | None,
    typer.Option("--engine", help="What computes from the lake. Default: LEDGERLAKE_ENGINE, else duckdb."),
]
SparkUrl = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="With --engine spark: a master such as local[*], or sc://HOST:PORT for Spark Connect."
        " Default: LEDGERLAKE_SPARK_URL.",
    ),
]


def with_engine(settings: Settings, engine: str | None, url: str | None) -> Settings:
    """The settings with what the command line says about the engine.

    Raises:
        SettingsError: a URL, and no Spark to go with it.
    """
    settings = replace(settings, engine=engine or settings.engine, spark_url=url or settings.spark_url)
    if url is not None and settings.engine != "spark":
        raise SettingsError(f"The engine {settings.engine} has no --url.", "Give --engine spark with it.")
    return settings
