"""`ledgerlake simulate`: the simulated business as a file."""

from __future__ import annotations

import json as json_text
import time
from pathlib import Path
from typing import Annotated

import typer

from ledgerlake.simulation import (
    DEFAULT_COMMANDS,
    DEFAULT_DAYS,
    DEFAULT_SEED,
    LAST_DAY,
    simulate,
    write_commands,
)


def simulate_command(
    out: Annotated[Path, typer.Option(help="The file to write: .csv, .csv.gz, .jsonl or .parquet.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = DEFAULT_SEED,
    days: Annotated[int, typer.Option(min=1, help=f"Days up to {LAST_DAY.isoformat()}.")] = DEFAULT_DAYS,
    commands: Annotated[int, typer.Option(min=1, help="How many commands, at least.")] = DEFAULT_COMMANDS,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Write the commands of a simulated payment business to a file that `ledgerlake import` reads."""
    started = time.perf_counter()
    count = write_commands(simulate(seed=seed, days=days, commands=commands), out)
    seconds = time.perf_counter() - started
    if json:
        figures = {
            "file": str(out),
            "commands": count,
            "seed": seed,
            "days": days,
            "last_day": LAST_DAY.isoformat(),
        }
        typer.echo(json_text.dumps(figures))
        return
    typer.echo(f"{count:,} commands of {days} days up to {LAST_DAY.isoformat()} in {out} ({seconds:.1f} s)")
    typer.echo(f"Next: ledgerlake import {out}")
