"""Run a notebook on the lake, and keep the result as a page while it is up to date.

The kernel is this very Python (no kernel has to be registered, none that is registered can take its
place), with the modules this process would import and the lake these settings name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import ledgerlake
from ledgerlake.errors import LedgerLakeError
from ledgerlake.lake.files import write_atomically
from ledgerlake.notebook.imports import import_jsonschema
from ledgerlake.settings import Settings

if TYPE_CHECKING:
    from nbformat import NotebookNode

_POSITION = "ledgerlake-position"
_SOURCE = "ledgerlake-notebook"
_KERNELS = 2  # at once: each is a process that computes
# Of a kernel: plotly shows figures by jsonschema, too.
_FIRST_LINE = "__import__('ledgerlake.notebook.imports').notebook.imports.import_jsonschema()"
_LONGEST_SOCKET_NAME = 90  # operating systems allow 104 or 108, and jupyter_client appends to it


class NotebookError(LedgerLakeError):
    """A notebook is missing, or a cell of it failed."""


@dataclass(frozen=True, slots=True)
class ExecutedNotebook:
    """Where the page lies, up to which position of the log it shows everything, and what making it took.

    `executed` is False when the page was already up to date; `seconds` is then next to nothing.
    """

    path: Path
    position: int
    seconds: float
    executed: bool


def refresh_page(
    notebook: Path,
    page: Path,
    settings: Settings,
    position: int,
    parameters: Mapping[str, Any] | None = None,
    *,
    also: str = "",
) -> ExecutedNotebook:
    """Execute the notebook into `page`, unless the page already shows `position` with this notebook.

    `position` is that of the lake's tables, read before: the page shows at least that much. At 0 there is
    nothing to execute it on, and the page says what to do. It is replaced in one step, or left as it was.
    `also` stands for whatever else the page shows: when that text is another one, so is the page.
    Raises NotebookError when the notebook is missing or a cell fails, with the cell and its error.
    """
    from ledgerlake.notebook.page import as_page

    _check_is_there(notebook)
    started = time.monotonic()
    fingerprint = _fingerprint(notebook, parameters or {}, also)
    if page_position(page) == position and _meta(page, _SOURCE) == fingerprint:
        return ExecutedNotebook(page, position, time.monotonic() - started, executed=False)
    executed = execute(notebook, settings, parameters) if position else _nothing_yet(notebook, settings)
    page.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(page) as temporary:
        temporary.write_text(as_page(executed, {_POSITION: str(position), _SOURCE: fingerprint}), "utf-8")
    return ExecutedNotebook(page, position, time.monotonic() - started, executed=True)


def refresh_pages(
    notebooks: Sequence[Path], settings: Settings, position: int, *, also: str = ""
) -> Iterator[tuple[str, ExecutedNotebook | NotebookError]]:
    """`refresh_page` for each notebook into its `page_of`, two at once: its name and what came of it.

    One that fails keeps none of the others from being made.
    """

    def refreshed(notebook: Path) -> ExecutedNotebook | NotebookError:
        page = page_of(settings, notebook.stem)
        try:
            return refresh_page(notebook, page, settings, position, also=also)
        except NotebookError as error:
            return error

    with ThreadPoolExecutor(_KERNELS, thread_name_prefix="notebook") as kernels:
        done = kernels.map(refreshed, notebooks)
        yield from zip((notebook.stem for notebook in notebooks), done, strict=True)


def page_of(settings: Settings, name: str) -> Path:
    """Where the page of the notebook of that name lies."""
    return settings.notebooks_dir / f"{name}.html"


def page_position(page: Path) -> int | None:
    """Up to which position of the log the page shows everything; None when there is no such page."""
    text = _meta(page, _POSITION)
    return int(text) if text is not None and text.isdigit() else None


def at_rest(page: Path, settings: Settings) -> bool:
    """Whether the page shows something and is younger than LEDGERLAKE_NOTEBOOK_MINUTES, or that is off.

    Then it is left as it is: executing a notebook takes seconds, which not every event is worth.
    """
    if settings.notebook_minutes is None:
        return True
    if not page_position(page):
        return False
    age = time.time() - page.stat().st_mtime
    return 0 <= age < 60 * settings.notebook_minutes


def execute(notebook: Path, settings: Settings, parameters: Mapping[str, Any] | None = None) -> NotebookNode:
    """The notebook with its outputs. The file itself stays as it is.

    `parameters` replace those of the cell tagged `parameters`. Raises NotebookError.
    """
    import_jsonschema()
    from papermill import PapermillExecutionError, execute_notebook

    _check_is_there(notebook)
    with tempfile.TemporaryDirectory(prefix="ledgerlake-kernel-") as scratch:
        try:
            executed = execute_notebook(
                notebook,
                None,
                parameters=dict(parameters or {}),
                kernel_name="python3",
                language="python",
                progress_bar=False,
                start_timeout=300,  # seconds; on a busy machine a kernel takes its time
                kernel_manager_class=_kernel_of_this_python(settings, Path(scratch)),
            )
        except PapermillExecutionError as error:
            raise NotebookError(
                f"Cell {error.exec_count} of {notebook.name} failed: {error.ename}: {error.evalue}",
                "Open the notebook and run it up to that cell.",
            ) from error
    return cast("NotebookNode", executed)


def _check_is_there(notebook: Path) -> None:
    if not notebook.is_file():
        raise NotebookError(
            f"There is no notebook {notebook}.", "Run this from a checkout, where the folder notebooks/ is."
        )


def _nothing_yet(notebook: Path, settings: Settings) -> NotebookNode:
    import_jsonschema()
    import nbformat

    from ledgerlake.analyst import NothingYet

    document = json.loads(notebook.read_text("utf-8"))
    message = f"**{NothingYet(settings.lake_dir)}**"
    introduction, *_ = document["cells"]
    document["cells"] = [
        introduction,
        {"id": "nothing-yet", "cell_type": "markdown", "metadata": {}, "source": message},
    ]
    return cast("NotebookNode", nbformat.reads(json.dumps(document), 4))  # type: ignore[no-untyped-call]  # no types


def _kernel_of_this_python(settings: Settings, scratch: Path) -> type[Any]:
    """A kernel manager that starts `sys.executable`, whatever kernels machine or user have registered."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    modules = str(Path(ledgerlake.__file__).resolve().parent.parent)
    environment = {
        "LEDGERLAKE_HOME": str(settings.home),
        "LEDGERLAKE_DATABASE": settings.database,
        **({} if settings.mongodb_uri is None else {"LEDGERLAKE_MONGODB_URI": settings.mongodb_uri}),
        "PYTHONPATH": os.pathsep.join(filter(None, [modules, os.environ.get("PYTHONPATH")])),
        "PLOTLY_RENDERER": "plotly_mimetype",
        # The user's own start-up files and configuration would make the page depend on who runs it, and
        # there may be no home to keep them in.
        "IPYTHONDIR": str(scratch / "ipython"),
        "JUPYTER_CONFIG_DIR": str(scratch / "config"),
        "JUPYTER_RUNTIME_DIR": str(scratch),
    }
    this_python = KernelSpec(
        argv=[
            *(sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"),
            f"--IPKernelApp.exec_lines={_FIRST_LINE}",
        ],
        env=environment,
        display_name="Python",
        language="python",
    )

    traits = {"connection_file": str(scratch / "kernel.json")}
    sockets = str(scratch / "k")
    if len(sockets) < _LONGEST_SOCKET_NAME:  # in a folder that is ours alone, where a port is everybody's
        traits |= {"transport": "ipc", "ip": sockets}

    class ThisPython(AsyncKernelManager):
        def __init__(self, **given: Any) -> None:
            super().__init__(**{**given, **traits})

        @property
        def kernel_spec(self) -> KernelSpec:
            return this_python

    return ThisPython


def _fingerprint(notebook: Path, parameters: Mapping[str, Any], also: str) -> str:
    shown_with = repr((sorted(parameters.items()), also)).encode()
    return hashlib.sha256(notebook.read_bytes() + shown_with).hexdigest()


def _meta(page: Path, name: str) -> str | None:
    try:
        with page.open(encoding="utf-8") as file:
            head = file.read(2048)
    except FileNotFoundError:
        return None
    found = re.search(rf'<meta name="{name}" content="([^"]*)">', head)
    return None if found is None else found[1]
