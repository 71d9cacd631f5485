"""A report says the same in every format: to the last cent, whatever its texts hold, in the same bytes."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import subprocess
import sys
import time
import zipfile
from datetime import date, datetime
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import hypothesis
import hypothesis.strategies as st
import openpyxl
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl.utils.escape import unescape

from ledgerlake.lake.errors import CorruptFileError
from ledgerlake.lake.parquet import ROW_GROUP, DeterministicWriter, read_footer
from ledgerlake.reports.errors import ReportError
from ledgerlake.reports.formats import FORMATS, export
from ledgerlake.reports.formats.cells import letters
from ledgerlake.reports.formats.chart import Point, movements
from ledgerlake.reports.formats.csv import guarded
from ledgerlake.reports.formats.digest import digest_of
from ledgerlake.reports.formats.source import Source
from ledgerlake.reports.formats.spreadsheet import Spreadsheet
from tests.reports import at, movement, write_report

ALL = ("parquet", "csv", "xlsx", "html")
HOSTILE = [
    "=1+1", "=cmd|' /C calc'!A0", '=HYPERLINK("http://example.org","x")', "+1", "-1", "@SUM(1)", "\t=1",
    "\r=1", "\n=1", "<script>alert(1)</script>", " =1", "\u00a0=1", "'=1", "''=1", "\uff1d1", "\x00=1",
    "\x1b[31m", "x;=1+1", "x;'-1", "x\n=1", "x\t@y", 'say "no", please', "two\r\nlines", "bare\rreturn",
    "", " ", "plain", "'tis plain", "Zürich 🎉 日本", "_x0041_", "_x005F_x0041_x0042_", "]]>&amp;",
    "<r><t>x</t></r>", "\ufffe\uffff", "{=1}", "1e5", "TRUE", "007", "http://example.org/", "\u202egnp.exe",
    "a" * 300,
]  # fmt: skip
# As docs/decisions/0034 states it: what takes the apostrophes out of a text of a CSV file again.
_BEGINS = "'*[ \u00a0\u3000]*[=+\\-@＝＋－＠"
UNDO = [(f"^'({_BEGINS}\x00-\x1f\x7f-\x9f])", r"\1"), (f"([;\t\r\n])'({_BEGINS}])", r"\1\2")]


def restored(text: str) -> str:
    for pattern, kept in UNDO:
        text = re.sub(pattern, kept, text)
    return text


def begins_a_formula(text: str) -> bool:
    """Whether a spreadsheet takes one of the cells for one that may be in the text, however it splits it."""
    cells = [text, *re.split("[;\t\r\n]", text)]
    return any(cell.lstrip(" \u00a0\u3000")[:1] in tuple("=+-@＝＋－＠") for cell in cells)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8"), newline="")))


def lines_of(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "itemised.parquet").to_pylist()
    return found


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of every currency's digits, negative amounts, and texts that mean harm, in all formats."""
    given = [
        movement(kind, 100 * number + 7, currency, reason=text, user_id=text or None)
        for number, text in enumerate(HOSTILE, start=1)
        for kind, currency in [
            (
                ("charge", "refund", "failure", "unreferenced_credit")[number % 4],
                ("EUR", "JPY", "BHD")[number % 3],
            )
        ]
    ]
    given[0] |= {"category": "correction", "occurred_at": at("2011-10-30T12:00:00.250")}
    folder = write_report(tmp_path_factory.mktemp("hostile"), given, organization='=<b>"Evil" & Sons</b>')
    export(folder, ALL)
    return folder


def test_csv_says_what_the_parquet_files_say(hostile: Path) -> None:
    for name in ("itemised", "summary"):
        table = pq.read_table(hostile / f"{name}.parquet")
        found = rows_of(hostile / f"{name}.csv")
        assert list(found[0]) == table.column_names
        for row, expected in zip(found, table.to_pylist(), strict=True):
            for column, value in expected.items():
                assert restored(row[column]) == as_text(value, expected["exponent"]), column


def as_text(value: Any, places: int) -> str:
    if isinstance(value, Decimal):
        return f"{value:.{places}f}"
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(timespec="milliseconds") + ("Z" if value.tzinfo else "")
    return "" if value is None else str(value)


def test_csv_is_rfc_4180_in_utf_8(hostile: Path) -> None:
    content = (hostile / "itemised.csv").read_bytes()
    assert content.startswith(b"line,")  # no byte order mark, which would be part of the first name
    quoted_away = re.sub(rb'"(?:[^"]|"")*"', b"", content)
    lines = quoted_away.split(b"\r\n")
    assert lines[-1] == b""
    assert len(lines) == 1 + len(HOSTILE) + 1
    assert not any(b"\n" in line or b"\r" in line or b'"' in line for line in lines)
    assert {line.count(b",") for line in lines[:-1]} == {len(lines_of(hostile)[0]) - 1}


def test_csv_tells_empty_text_from_no_value(hostile: Path) -> None:
    empty = HOSTILE.index("") + 1
    [line] = [
        x for x in (hostile / "itemised.csv").read_bytes().split(b"\r\n") if x.startswith(b"%d," % empty)
    ]
    assert line.count(b',"",') == 1  # the reason; the user is not known


def test_programs_of_finance_read_the_same_sums(hostile: Path) -> None:
    path = str(hostile / "itemised.csv")
    query = "SELECT currency, sum(amount), sum(amount_minor)::BIGINT, count(*) FROM {} GROUP BY 1 ORDER BY 1"
    typed = (
        f"read_csv('{path}', types={{'amount': 'DECIMAL(38,4)', 'reason': 'VARCHAR', 'user_id': 'VARCHAR'}})"
    )
    parquet = f"'{hostile / 'itemised.parquet'}'"
    with duckdb.connect() as connection:
        assert (
            connection.sql(query.format(typed)).fetchall() == connection.sql(query.format(parquet)).fetchall()
        )
    read = pl.read_csv(path, schema_overrides={"amount": pl.Decimal(38, 4)}, infer_schema_length=None)
    assert read["amount"].sum() == pl.read_parquet(hostile / "itemised.parquet")["amount"].sum()
    assert read["amount_minor"].min() < 0  # type: ignore[operator]


def test_no_text_of_a_csv_file_begins_a_formula(hostile: Path) -> None:
    texts = [row[name] for row in rows_of(hostile / "itemised.csv") for name in ("organization_id", "reason")]
    assert [text for text in texts if begins_a_formula(text)] == []
    given = [line["reason"] for line in lines_of(hostile)]
    assert sum(map(begins_a_formula, given)) > 10  # the same look finds them where nothing guards


def test_negative_numbers_of_a_csv_file_stay_numbers(hostile: Path) -> None:
    amounts = [row["amount"] for row in rows_of(hostile / "itemised.csv")]
    assert sum(float(amount) < 0 for amount in amounts) > 10


@hypothesis.given(st.lists(st.text(st.one_of(st.characters(), st.sampled_from("=+-@;'\t\r\n \u00a0＝")))))
@hypothesis.settings(max_examples=60)
def test_what_guards_a_text_can_be_taken_away(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    done = (
        pl.DataFrame({"text": texts}, {"text": pl.String}).select(guarded(pl.col("text")))["text"].to_list()
    )
    assert [restored(text) for text in done] == texts
    assert not any(map(begins_a_formula, done))


def sheet_rows(path: Path, sheet: str) -> list[dict[str, Any]]:
    cells = [list(row) for row in openpyxl.load_workbook(path)[sheet].iter_rows()]
    names = [cell.value for cell in cells[0]]
    return [dict(zip(names, row, strict=True)) for row in cells[1:]]


def test_a_spreadsheet_has_typed_cells_with_the_digits_of_their_currency(hostile: Path) -> None:
    formats = {"EUR": "#,##0.00", "JPY": "#,##0", "BHD": "#,##0.000"}
    for found, expected in zip(sheet_rows(hostile / "report.xlsx", "Lines"), lines_of(hostile), strict=True):
        for name in ("amount", "balance", "failed"):
            cell = found[name]
            if expected[name] is None:
                assert cell.value is None
            else:
                assert cell.data_type == "n"
                assert Decimal(repr(cell.value)) == expected[name]
                assert cell.number_format == formats[expected["currency"]]
        for name in ("line", "position", "amount_minor", "exponent"):
            assert (found[name].data_type, found[name].value) == ("n", expected[name])
        for name in ("occurred_at", "occurred_local"):
            assert found[name].is_date
            assert found[name].value == expected[name].replace(tzinfo=None)
            assert found[name].number_format.endswith("\\Z") == (name == "occurred_at")
        assert found["day"].value.date() == expected["day"]


def test_a_spreadsheet_holds_no_formula_and_every_text_as_it_is(hostile: Path) -> None:
    with zipfile.ZipFile(hostile / "report.xlsx") as package:
        sheets = [package.read(name).decode() for name in package.namelist() if "/sheet" in name]
        parts = package.namelist()
    assert not any(re.search("<(f|hyperlink|extLst)[ >]", sheet) for sheet in sheets)
    assert not any("external" in name or "drawing" in name or "sheet1.xml.rels" in name for name in parts)
    for found, text in zip(sheet_rows(hostile / "report.xlsx", "Lines"), HOSTILE, strict=True):
        cell = found["reason"]
        assert cell.data_type == ("s" if text else cell.data_type)
        assert unescape(cell.value or "") == text
        assert cell.number_format == "@"  # it stays text when somebody edits it
    [about] = [
        row for row in sheet_rows(hostile / "report.xlsx", "About") if row["what"].value == "organization"
    ]
    assert (about["is"].data_type, about["is"].value) == ("s", '=<b>"Evil" & Sons</b>')


def test_a_spreadsheet_is_ready_to_be_read(hostile: Path) -> None:
    book = openpyxl.load_workbook(hostile / "report.xlsx")
    assert book.sheetnames == ["Summary", "Lines", "About"]
    for sheet in book:
        assert sheet.freeze_panes == "A2"
        assert sheet.auto_filter.ref == sheet.dimensions
        assert sheet["A1"].font.bold
        assert all(sheet.column_dimensions[cell.column_letter].width >= len(cell.value) for cell in sheet[1])
    about = {row["what"].value: row["is"].value for row in sheet_rows(hostile / "report.xlsx", "About")}
    assert about["interval.label"] == "2011-11"
    assert about["interval.zone"] == "Europe/Berlin"
    assert about["position"] == str(len(HOSTILE) + 10)
    euros = [
        row for row in pq.read_table(hostile / "summary.parquet").to_pylist() if row["currency"] == "EUR"
    ]
    assert about["EUR, net"] == f"{sum(row['net'] for row in euros):,.2f}"
    assert about["EUR, closing"] == f"{euros[0]['closing']:,.2f}"


def test_what_a_spreadsheet_can_not_hold_is_text_or_cut_and_said_so(tmp_path: Path) -> None:
    huge = 10**15
    texts = ["x" * 40_000, "🎉" * 20_000, "y" * 32_767, "\x01" * 32_767]
    given = [movement("charge", huge - 1, reason=texts[0], balance_minor=1)]
    given += [movement("refund", huge, reason=texts[1]), movement("charge", 5, reason=texts[2])]
    given += [movement("charge", 6, reason=texts[3], occurred_at=at("1899-12-31T00:00:00"))]
    folder = write_report(tmp_path, given)
    export(folder, ["xlsx", "csv"])
    found = sheet_rows(folder / "report.xlsx", "Lines")

    assert [(row["amount"].data_type, row["amount"].value) for row in found[:2]] == [
        ("n", 9_999_999_999_999.99),
        ("s", "-10000000000000.00"),
    ]
    assert rows_of(folder / "itemised.csv")[1]["amount"] == "-10000000000000.00"
    for row, text in zip(found, texts, strict=True):
        shown = unescape(row["reason"].value)
        assert len(shown.encode("utf-16-le")) // 2 <= 32_767
        kept, said, _ = shown.partition(" [cut here; all ")
        assert text.startswith(kept)
        assert bool(said) == (len(text.encode("utf-16-le")) // 2 > 32_767)
    assert found[3]["occurred_at"].value == "1899-12-31T00:00:00.000Z"
    about = {row["what"].value: row["is"].value for row in sheet_rows(folder / "report.xlsx", "About")}
    assert about["texts cut"].startswith("2 ")
    assert not about["numbers as text"].startswith("0 ")
    assert about["times as text"].startswith("3 ")  # in UTC, local, and the day


def test_more_lines_than_a_sheet_holds_go_onto_further_ones(tmp_path: Path) -> None:
    frame = pl.DataFrame({"n": range(7)})
    for most, expected in ((3, [[0, 1, 2], [3, 4, 5], [6]]), (7, [list(range(7))])):
        path = tmp_path / f"{most}.xlsx"
        with Spreadsheet(path, "numbers", most) as book:
            book.add("Lines", frame, [frame[:2], frame[2:]])
        sheets = openpyxl.load_workbook(path)
        assert sheets.sheetnames == ["Lines", "Lines 2", "Lines 3"][: len(expected)]
        assert [[cell.value for cell in sheet["A"][1:]] for sheet in sheets] == expected


def test_every_column_has_its_own_letters() -> None:
    assert [letters(at) for at in (0, 25, 26, 701, 702, 16_383)] == ["A", "Z", "AA", "ZZ", "AAA", "XFD"]


class Page(HTMLParser):
    """What a page consists of, as a browser reads it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_is_what_its_program_wrote_whatever_the_texts_are(hostile: Path) -> None:
    page = Page(hostile / "report.html")
    assert {"script", "b", "r", "img", "iframe", "link", "object", "form"} & {
        tag for tag, _ in page.tags
    } == set()
    assert not any(name.startswith("on") or name == "src" for _, each in page.tags for name in each)
    links = [each["href"] for each in page.all("a")]
    assert [link for link in links if link is None or not link.startswith("#")] == [
        "itemised.parquet", "summary.parquet", "itemised.csv", "summary.csv", "report.xlsx",
    ]  # fmt: skip
    assert all((hostile / str(link)).is_file() for link in links if not str(link).startswith("#"))
    assert '=<b>"Evil" & Sons</b>' in page.words
    assert "<script>alert(1)</script>" in page.words
    policy = [each["content"] or "" for each in page.all("meta") if "http-equiv" in each]
    assert policy[0].startswith("default-src 'none'")


def test_the_page_can_be_read_without_seeing_it(hostile: Path) -> None:
    page = Page(hostile / "report.html")
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(deeper - before <= 1 for before, deeper in pairwise(headings))
    assert all(each.get("scope") in ("col", "row") for each in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) > 5
    assert all(each.get("role") == "img" and each.get("aria-label") for each in page.all("svg"))
    ids = [each["id"] for _, each in page.tags if "id" in each]
    assert len(ids) == len(set(ids))
    assert all(each["aria-labelledby"] in ids for each in page.all("section"))


def test_the_page_shows_the_exact_figures_of_each_currency(tmp_path: Path) -> None:
    given = [
        movement("charge", 1_234_567_89), movement("charge", 1), movement("refund", 3_00, reason="broken"),
        movement("failure", 99, reason="declined"), movement("charge", 1_500, "JPY"),
        movement("unreferenced_credit", 1_234, "BHD"),
        movement("refund", 7, category="correction", occurred_at=at("2011-10-05T10:00:00")),
    ]  # fmt: skip
    export(write_report(tmp_path, given, state={"state": "closed", "revision": 2}), ["html"])
    words = Page(tmp_path / "report.html").words
    figures = [
        "1,234,567.90 EUR",
        "3.07 EUR",
        "1,234,564.83 EUR",
        "0.99 EUR",
        "50.00 EUR",
        "1,234,614.83 EUR",
    ]
    figures += ["1,500 JPY", "6,500 JPY", "-1.234 BHD", "3.766 BHD", "declined", "closed, revision 2"]
    for figure in figures:
        assert figure in words, figure
    assert "2011-10-05 12:00:00" in words  # the correction, in Berlin's time


def test_converted_amounts_have_the_digits_of_the_reporting_currency(tmp_path: Path) -> None:
    converted = {
        "fx_currency": "JPY", "fx_rate": Decimal("104.123456789012"), "fx_rate_date": date(2011, 11, 1),
        "fx_source": "=ECB", "fx_amount_minor": 10_412, "fx_amount": Decimal(10_412),
    }  # fmt: skip
    exact = {**converted, "fx_rate": Decimal("104.123456789012345678")}
    given = [movement("charge", 100_00, **converted), movement("refund", 5, fx_currency="JPY"),
             movement("charge", 100_00, **exact)]  # fmt: skip
    folder = write_report(tmp_path, given)
    export(folder, ALL)
    names = ("fx_amount", "fx_rate", "fx_rate_date", "fx_source")
    assert [[row[name] for name in names] for row in rows_of(folder / "itemised.csv")] == [
        ["10412", "104.123456789012", "2011-11-01", "'=ECB"],
        ["", "", "", ""],
        ["10412", "104.123456789012345678", "2011-11-01", "'=ECB"],
    ]
    rows = sheet_rows(folder / "report.xlsx", "Lines")
    assert [(row["fx_amount"].value, row["fx_amount"].number_format) for row in rows[:1]] == [
        (10_412, "#,##0")
    ]
    assert [row["fx_rate"].value for row in rows] == [104.123456789012, None, "104.123456789012345678"]
    [said] = [word for word in Page(folder / "report.html").words if word.startswith("In JPY")]
    assert said.endswith("gross 20,824, refunded 0, net 20,824. 1 line without a rate not included.")


def test_what_happened_near_midnight_is_on_its_local_day(tmp_path: Path) -> None:
    given = [
        movement("charge", 100, occurred_at=at("2011-11-10T23:30:00"), booked_at=at("2011-11-10T23:30:00"))
    ]
    source = Source.open(write_report(tmp_path, given))
    points = {point.label: point for point in digest_of(source).points("EUR", 5_000)}
    assert len(points) == 30
    assert points["11 Nov"] == Point("11 Nov", 100, 0, 5_100)
    assert points["10 Nov"] == Point("10 Nov", 0, 0, 5_000)
    assert points["30 Nov"].balance == 5_100


@pytest.mark.parametrize(
    ("period", "count", "first", "last"),
    [
        ("2011-Q4", 14, "week of 26 Sep 2011", "week of 26 Dec 2011"),
        ("2011-01-01..2012-12-31", 24, "Jan 2011", "Dec 2012"),
        ("2011-11-05", 1, "5 Nov", "5 Nov"),
    ],
)
def test_long_reports_are_drawn_by_week_or_month(
    tmp_path: Path, period: str, count: int, first: str, last: str
) -> None:
    source = Source.open(write_report(tmp_path, [movement("charge", 1)], period=period))
    points = digest_of(source).points("EUR", 0)
    assert (len(points), points[0].label, points[-1].label) == (count, first, last)
    assert sum(point.charged for point in points) == 1


def test_a_chart_reaches_over_all_its_bars_and_sums_stay_exact() -> None:
    most = 2**63 - 1
    drawn = movements([Point("1 Nov", 3 * most, most, 0), Point("2 Nov", 1, 0, 0)], "EUR", 2, "day")
    assert f"{3 * most // 100:,}.{3 * most % 100:02d} EUR charged" in drawn
    for height, top in re.findall(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', drawn):
        assert float(height) + float(top) <= 200
    assert drawn == movements([Point("1 Nov", 3 * most, most, 0), Point("2 Nov", 1, 0, 0)], "EUR", 2, "day")


def test_no_movement_is_a_report_too(tmp_path: Path) -> None:
    folder = write_report(tmp_path, [])
    made = export(folder, FORMATS)
    assert [path.name for path in made] == ["itemised.csv", "summary.csv", "report.xlsx", "report.html"]
    assert rows_of(folder / "itemised.csv") == []
    assert (folder / "itemised.csv").read_bytes().startswith(b"line,line_id,organization_id,")
    book = openpyxl.load_workbook(folder / "report.xlsx")
    assert [sheet.max_row for sheet in (book["Summary"], book["Lines"])] == [1, 1]
    assert any("no movements" in word for word in Page(folder / "report.html").words)


def test_the_same_report_gives_the_same_bytes(hostile: Path, tmp_path: Path) -> None:
    for name in ("itemised.parquet", "summary.parquet"):
        (tmp_path / name).write_bytes((hostile / name).read_bytes())
    before = os.umask(0o077)
    try:
        made = export(tmp_path, ALL)
    finally:
        os.umask(before)
    assert len(made) == 4
    for path in made:
        assert path.read_bytes() == (hostile / path.name).read_bytes(), path.name
    with zipfile.ZipFile(tmp_path / "report.xlsx") as package:
        assert {entry.date_time for entry in package.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_only_what_is_asked_for_is_made(tmp_path: Path) -> None:
    folder = write_report(tmp_path, [movement("charge", 1)])
    assert export(folder, ["parquet"]) == []
    assert [path.name for path in export(folder, ["html"])] == ["report.html"]
    with pytest.raises(ReportError, match="'pdf' is no format"):
        export(folder, ["csv", "pdf"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "itemised.parquet",
        "report.html",
        "summary.parquet",
    ]


def test_damaged_or_mixed_files_are_not_exported(tmp_path: Path) -> None:
    folder = write_report(
        tmp_path, [movement("charge", n, reason=hashlib.sha256(b"%d" % n).hexdigest()) for n in range(1, 60)]
    )
    path = folder / "itemised.parquet"
    whole = path.read_bytes()
    group = pq.read_metadata(path).row_group(0)
    reasons = group.column(pq.read_schema(path).names.index("reason"))
    place = reasons.data_page_offset - 20  # in the dictionary's page, which ends there
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for name in ("csv", "xlsx", "html"):
        with pytest.raises(CorruptFileError):
            export(folder, [name])
    path.write_bytes(whole)
    table, stated = pq.read_table(path), read_footer(path).stated
    writer = DeterministicWriter(path, table.schema)
    writer.write(table.slice(0, 58).combine_chunks())
    writer._hash = hashlib.sha256(b"rows as they were")
    writer.close(stated)
    with pytest.raises(CorruptFileError, match="row hash"):
        export(folder, ["csv"])
    write_report(tmp_path / "other", [], organization="bluebird")
    path.write_bytes((tmp_path / "other" / "itemised.parquet").read_bytes())
    with pytest.raises(ReportError, match="different reports"):
        export(folder, ["csv"])
    assert {each.name for each in folder.iterdir()} == {"itemised.parquet", "summary.parquet", "other"}


def test_a_killed_export_leaves_no_file_and_the_next_one_is_whole(tmp_path: Path) -> None:
    folder = write_report(tmp_path, [movement("charge", 100 + n) for n in range(50)])
    _repeat(folder / "itemised.parquet", 2)
    program = "import sys, pathlib; from ledgerlake.reports.formats import export;"
    program += "print('go', flush=True); export(pathlib.Path(sys.argv[1]), ['xlsx'])"
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE) as child:
        deadline = time.monotonic() + 120
        while not any(path.stat().st_size for path in folder.glob(".*.tmp")):
            assert child.poll() is None, "it was over before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        child.kill()
    assert list(folder.glob(".*.tmp"))  # it was in the midst of it
    assert not (folder / "report.xlsx").exists()
    export(folder, ["xlsx"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "itemised.parquet",
        "report.xlsx",
        "summary.parquet",
    ]
    with zipfile.ZipFile(folder / "report.xlsx") as package:
        assert package.testzip() is None
        assert package.read("xl/worksheets/sheet2.xml").count(b"<row ") == 1 + 2 * ROW_GROUP


def _repeat(path: Path, groups: int) -> None:
    """Fill the file with the same lines, so many row groups of them."""
    table = pq.read_table(path)
    stated = read_footer(path).stated
    group = pa.concat_tables([table] * (ROW_GROUP // table.num_rows)).combine_chunks()
    writer = DeterministicWriter(path, table.schema)
    for _ in range(groups):
        writer.write(group)
    writer.close({name: text for name, text in stated.items() if not name.endswith("_hash")})
