"""Spreadsheets in Office Open XML (.xlsx), written sheet by sheet, the same bytes each time."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Final

import polars as pl

from ledgerlake.reports.formats.cells import Changes, escaped, header_row, letters, rows
from ledgerlake.reports.formats.columns import Column, Kind, columns_of

MOST_LINES: Final = 1_048_575
"""Lines that Excel allows on a sheet, below the header."""
# A sheet ends before its XML reaches 2 GiB: above that, ZIP needs an extension that not all readers know.
_MOST_BYTES: Final = 3 * 2**29
_AT_ONCE: Final = 2_000  # lines

_WIDTHS: Final = {
    Kind.TEXT: 24, Kind.INTEGER: 12, Kind.MONEY: 18, Kind.RATE: 22, Kind.INSTANT: 26, Kind.LOCAL: 25,
    Kind.DATE: 12,
}  # fmt: skip
_FILTER_BUTTON: Final = 5  # characters

_XML: Final = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN: Final = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_LINKS: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE: Final = "http://schemas.openxmlformats.org/package/2006"
_CORE: Final = "application/vnd.openxmlformats-package.core-properties+xml"
_RELATIONSHIPS: Final = "application/vnd.openxmlformats-package.relationships+xml"
_TYPE: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml"


class Spreadsheet:
    """A workbook, written in a `with` block. Each sheet has a header that stays in view, and filters.

    `most_lines` is how many a sheet takes before a further one is begun. `changes` counts the cells that
    could not be as they are in the frames.
    """

    def __init__(self, target: Path, title: str, most_lines: int = MOST_LINES) -> None:
        self._zip = zipfile.ZipFile(target, "w")
        self._title = title
        self._most_lines = most_lines
        self._sheets: list[tuple[str, str]] = []  # name, and last cell
        self.changes = Changes()

    def __enter__(self) -> Spreadsheet:
        self._put(
            "_rels/.rels",
            _relationships(
                (f"{_LINKS}/officeDocument", "xl/workbook.xml"),
                (f"{_PACKAGE}/relationships/metadata/core-properties", "docProps/core.xml"),
            ),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._zip.close()

    def add(
        self,
        name: str,
        header: pl.DataFrame,
        frames: Iterable[pl.DataFrame],
        widths: Mapping[str, int] | None = None,
    ) -> None:
        """Write the rows of `frames`, which have the columns of `header`, to the sheet `name`.

        What does not go onto one sheet goes onto further ones ("Lines 2"). `widths` of columns are in
        characters.
        """
        parts = (part for frame in frames for part in frame.iter_slices(_AT_ONCE))
        rest: pl.DataFrame | None = next(parts, None)
        number = 1
        while rest is not None or number == 1:
            named = name if number == 1 else f"{name} {number}"
            rest = self._sheet(named, columns_of(header), rest, parts, widths or {})
            number += 1

    def _sheet(
        self,
        name: str,
        columns: list[Column],
        rest: pl.DataFrame | None,
        parts: Iterable[pl.DataFrame],
        widths: Mapping[str, int],
    ) -> pl.DataFrame | None:
        """Write one sheet; returns the rows of `rest` and `parts` that it had no room for."""
        parts = iter(parts)
        lines = size = 0
        path = f"xl/worksheets/sheet{len(self._sheets) + 1}.xml"
        with self._zip.open(_entry(path), "w") as file:
            file.write(_beginning(columns, widths, first=not self._sheets).encode())
            while rest is not None and lines < self._most_lines and size < _MOST_BYTES:
                room = self._most_lines - lines
                now = rest.head(room)
                size += file.write(rows(now, columns, lines + 2, self.changes).encode())
                lines += now.height
                rest = rest.slice(room) if rest.height > room else next(parts, None)
            last_cell = f"{letters(len(columns) - 1)}{lines + 1}"
            file.write(_end(last_cell).encode())
        self._sheets.append((name, last_cell))
        return rest

    def _finish(self) -> None:
        sheets = list(enumerate(self._sheets, start=1))
        listed = "".join(f'<sheet name="{name}" sheetId="{at}" r:id="rId{at}"/>' for at, (name, _) in sheets)
        names = "".join(
            f'<definedName name="_xlnm._FilterDatabase" localSheetId="{at - 1}" hidden="1">'
            f"'{name}'!$A$1:{_fixed(last)}</definedName>"
            f'<definedName name="_xlnm.Print_Titles" localSheetId="{at - 1}">\'{name}\'!$1:$1</definedName>'
            for at, (name, last) in sheets
        )
        self._put(
            "xl/workbook.xml",
            f'<workbook xmlns="{_MAIN}" xmlns:r="{_LINKS}"><sheets>{listed}</sheets>'
            f"<definedNames>{names}</definedNames></workbook>",
        )
        targets = [(f"{_LINKS}/worksheet", f"worksheets/sheet{at}.xml") for at, _ in sheets]
        self._put("xl/_rels/workbook.xml.rels", _relationships(*targets, (f"{_LINKS}/styles", "styles.xml")))
        self._put("xl/styles.xml", _styles())
        self._put(
            "docProps/core.xml",
            f'<cp:coreProperties xmlns:cp="{_PACKAGE}/metadata/core-properties"'
            ' xmlns:dc="http://purl.org/dc/elements/1.1/">'
            f"<dc:title>{escaped(self._title)}</dc:title><dc:creator>LedgerLake</dc:creator>"
            "</cp:coreProperties>",
        )
        types = [
            ("docProps/core.xml", _CORE),
            ("xl/workbook.xml", f"{_TYPE}.sheet.main+xml"),
            ("xl/styles.xml", f"{_TYPE}.styles+xml"),
            *((f"xl/worksheets/sheet{at}.xml", f"{_TYPE}.worksheet+xml") for at, _ in sheets),
        ]
        overrides = "".join(f'<Override PartName="/{path}" ContentType="{each}"/>' for path, each in types)
        self._put(
            "[Content_Types].xml",
            f'<Types xmlns="{_PACKAGE}/content-types">'
            f'<Default Extension="rels" ContentType="{_RELATIONSHIPS}"/>'
            f'<Default Extension="xml" ContentType="application/xml"/>{overrides}</Types>',
        )

    def _put(self, path: str, text: str) -> None:
        self._zip.writestr(_entry(path), _XML + text)


def _beginning(columns: list[Column], widths: Mapping[str, int], *, first: bool) -> str:
    shown = ' tabSelected="1"' if first else ""
    sizes = "".join(
        f'<col min="{at}" max="{at}" width="{_width(column, widths)}" customWidth="1"/>'
        for at, column in enumerate(columns, start=1)
    )
    return (
        f'{_XML}<worksheet xmlns="{_MAIN}"><sheetViews><sheetView{shown} workbookViewId="0">'
        '<pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/>'
        '<selection pane="bottomLeft"/></sheetView></sheetViews><sheetFormatPr defaultRowHeight="15"/>'
        f"<cols>{sizes}</cols><sheetData>{header_row([column.name for column in columns])}"
    )


def _end(last_cell: str) -> str:
    return (
        f'</sheetData><autoFilter ref="A1:{last_cell}"/>'
        '<pageMargins left="0.5" right="0.5" top="0.6" bottom="0.6" header="0.3" footer="0.3"/>'
        '<pageSetup orientation="landscape"/></worksheet>'
    )


def _width(column: Column, widths: Mapping[str, int]) -> int:
    return widths.get(column.name, max(_WIDTHS[column.kind], len(column.name) + _FILTER_BUTTON))


def _fixed(cell: str) -> str:
    column = cell.rstrip("0123456789")
    return f"${column}${cell.removeprefix(column)}"


def _relationships(*targets: tuple[str, str]) -> str:
    listed = "".join(
        f'<Relationship Id="rId{at}" Type="{kind}" Target="{target}"/>'
        for at, (kind, target) in enumerate(targets, start=1)
    )
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{listed}</Relationships>'


def _styles() -> str:
    text = (files("ledgerlake.reports.formats") / "spreadsheet-styles.xml").read_text("utf-8")
    return text.removeprefix(_XML)


def _entry(path: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    # Otherwise the system that it is written on would show.
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    return entry
