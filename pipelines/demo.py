"""The demo: commands through every room of the house, and where to look afterwards.

    python -m pipelines.demo                    a simulated business, the same every time
    python -m pipelines.demo --input FILE       the same with a file of commands

Exit codes: 0 done; 1 the Dagster run failed; 2 bad input or a part that is missing; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ledgerlake.application import LedgerLake
from ledgerlake.cli.render import progress_bar
from ledgerlake.errors import LedgerLakeError
from ledgerlake.ingest.rows import BrokenFile
from ledgerlake.settings import Settings
from ledgerlake.simulation import DEFAULT_COMMANDS, DEFAULT_DAYS, DEFAULT_SEED, simulate, write_commands
from pipelines.demo_report import shown_path, write_report

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from ledgerlake.ingest.importer import ImportSummary


class Phases:
    """Prints what is being done, and how long it took."""

    def __init__(self, out: Console) -> None:
        self.out = out
        self.started = time.monotonic()

    @contextmanager
    def phase(self, name: str, *, spinner: bool = True) -> Iterator[list[str]]:
        """One phase; the caller appends what came of it."""
        began = time.monotonic()
        said: list[str] = []
        with self._spinner(name) if spinner and self.out.is_terminal else nullcontext():
            yield said
        self.line(name, " ".join(said), time.monotonic() - began)

    def _spinner(self, name: str) -> Live:
        from rich.live import Live
        from rich.spinner import Spinner

        # stdout and stderr go where the phase sends them, not through this console.
        return Live(
            Spinner("dots", name),
            console=self.out,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def line(self, name: str, text: str, seconds: float) -> None:
        self.out.print(f"{name:<38}{seconds:5.1f} s  {text}", markup=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    options = _parse(arguments)
    try:
        return _demo(options)
    except LedgerLakeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0  # the reader of our output (head, less) has seen enough
    except KeyboardInterrupt:
        print("demo: interrupted; what was committed stays, and a re-run does the rest.", file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipelines.demo", description="Run the demo.")
    parser.add_argument("--input", type=Path, metavar="FILE", help="commands: CSV, CSV.gz, JSONL or Parquet")
    parser.add_argument("--commands", type=int, default=DEFAULT_COMMANDS, help="how many to simulate")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="of the simulation")
    return parser.parse_args(arguments)


def _demo(options: argparse.Namespace) -> int:
    settings = Settings.from_env()
    if not os.environ.get("LEDGERLAKE_NOTEBOOK_MINUTES"):
        # Whoever runs a demo wants to see what has come of it.
        settings = replace(settings, notebook_minutes=0)
    if options.input is not None and not options.input.is_file():
        # Before a server is started for nothing.
        raise BrokenFile(options.input, None, "there is no such file.", "Check the path given as INPUT.")
    with _console() as out:
        phases = Phases(out)
        file = options.input or _simulated(settings, options.seed, options.commands, phases)
        with phases.phase("MongoDB") as said:
            ledger = LedgerLake.open(settings)
            said.append(_server(ledger))
        with ledger:
            summary = _import(ledger, file, phases)
        from pipelines.demo_run import refresh_all

        with phases.phase("Dagster run") as said:
            run = refresh_all(settings, lambda step, what, seconds: phases.line(f"  {step}", what, seconds))
            said.append(f"run {run.run_id[:8]}, log in {shown_path(run.log)}")
        if run.failure is not None:
            print(f"demo: {run.failure}", file=sys.stderr)
            print(f"The log of the run: {shown_path(run.log)}", file=sys.stderr)
            return 1
        with LedgerLake.open(settings) as ledger:
            write_report(out, ledger, summary, time.monotonic() - phases.started)
    return 0


def _simulated(settings: Settings, seed: int, commands: int, phases: Phases) -> Path:
    file = settings.home / "demo" / f"simulated-{seed}-{commands}.csv.gz"
    with phases.phase("Simulated business") as said:
        if file.exists():
            said.append(f"{shown_path(file)} is there already")
        else:
            count = write_commands(simulate(seed=seed, commands=commands), file)
            said.append(f"{count:,} commands of {DEFAULT_DAYS} days in {shown_path(file)}")
    return file


def _server(ledger: LedgerLake) -> str:
    address = ":".join(map(str, ledger.db.client.address or ("?",)))
    kind = "embedded" if ledger.settings.mongodb_uri is None else "yours"
    return f"{kind}, {address}, database {ledger.settings.database}"


def _import(ledger: LedgerLake, file: Path, phases: Phases) -> ImportSummary:
    with phases.phase("Import", spinner=False) as said:
        with progress_bar(quiet=not phases.out.is_terminal) as bar:
            summary = ledger.import_file(
                file, lambda p: bar("import", p.done, p.total, note=f"{p.rows:,} rows")
            )
        said.append(
            f"{summary.events:,} new events from {summary.rows:,} commands "
            f"({summary.duplicates:,} duplicates, {summary.rejected:,} refused)"
        )
    return summary


@contextmanager
def _console() -> Iterator[Console]:
    """A console on a copy of stdout: it still speaks while a noisy run has stdout sent to its log."""
    from rich.console import Console

    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace") as stdout:
        out = Console(file=stdout, highlight=False)
        if not out.is_terminal:
            out.width = 120
        yield out


if __name__ == "__main__":
    sys.exit(main())
