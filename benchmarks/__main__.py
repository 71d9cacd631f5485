"""Runs the benchmarks and prints a table of ratios.

Each figure is a ratio of two rates that were measured alternately (A B A B ...) in this run, on this
machine; the median of the rounds is shown, with the lowest and the highest beside it. Absolute rates
are printed for orientation only: they say more about the machine than about the program.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import append, dagster, lake, live, load, projections, queries, reading, rebuild, reports, web
from benchmarks.measure import Figure, Scale
from ledgerlake.mongo.embedded import ensure_running, stop
from ledgerlake.settings import Settings

BENCHMARKS = {
    "append": append.run,
    "reading": reading.run,
    "import": load.run,
    "lake": lake.run,
    "reports": reports.run,
    "projections": projections.run,
    "queries": queries.run,
    "live": live.run,
    "rebuild": rebuild.run,
    "dagster": dagster.run,
    "web": web.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="A B rounds for each ratio (default 3)")
    parser.add_argument("--events", type=int, default=1_000_000, help="events of the large log (default 1M)")
    parser.add_argument("--shared-data", type=Path, default=Path("../shared/data"), help="real payment data")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}: there are {', '.join(BENCHMARKS)}")
    out = Console(stderr=options.json)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="ledgerlake-bench-") as folder:
        settings = Settings(home=Path(folder))
        uri = ensure_running(settings)
        scale = Scale(Path(folder), uri, options.rounds, options.events, options.shared_data, out.print)
        try:
            for name in options.names or BENCHMARKS:
                out.print(f"[bold]{name}[/bold]")
                figures += BENCHMARKS[name](scale)
        finally:
            stop(settings)
    if options.json:
        print(json.dumps([asdict(figure) for figure in figures], indent=2))
        return 0
    table = Table(title="Ratios (median of the rounds; lowest to highest)", title_justify="left")
    for column in ("measured", "against", "ratio", "rounds", "target", "note"):
        table.add_column(column, overflow="fold")
    for figure in figures:
        met = "" if figure.target is None else ("met" if figure.met else "MISSED")
        table.add_row(
            figure.measured,
            figure.against,
            f"{figure.ratio:.2f}",
            f"{min(figure.ratios):.2f} to {max(figure.ratios):.2f}",
            "" if figure.target is None else f"{figure.target:g} {met}",
            figure.note,
        )
    out.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
