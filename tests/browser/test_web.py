"""Finance's pages in a real browser without a network: a month of real payments, found and downloaded."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import openpyxl
import polars as pl
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from ledgerlake.application import LedgerLake
from ledgerlake.domain.commands import FailPayment, ProcessPayment, RefundPayment
from ledgerlake.domain.money import Money
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.reports.manifest import read_manifest
from ledgerlake.settings import Settings
from ledgerlake.web.exports import Exports
from ledgerlake.web.tokens import AccessTokens
from tests.chromium import QUIETLY
from tests.web.serving import serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Where pictures of the pages are kept, for somebody to look at them.
PICTURES = os.environ.get("TEST_PICTURES")

FOUND = "Germany"
OTHERS = ("EIRE", "Japan")
# Of the largest one, with nine payments of ten, a month and what its refunds go back to.
LARGEST = "United Kingdom"
HOSTILE = "</td><script>document.title = 'run'</script>"
PHONE = {"viewport": {"width": 375, "height": 740}, "device_scale_factor": 2, "is_mobile": True}
DRAWING = re.compile(r"/(plotly|charts)\b[^/]*\.js")
DESKTOP = {"viewport": {"width": 1280, "height": 900}}

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Site:
    """A running server on a ledger, and a token of finance for all organizations."""

    address: str
    settings: Settings
    token: str
    late_payment: str

    def report(self, period: str, edition: str) -> Path:
        """The folder of the report of FOUND."""
        return next((self.settings.reports_dir / period / edition).glob("germany-*"))


@pytest.fixture(scope="module")
def site(
    mongo_uri: str,
    shared_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
    require: Callable[[object, str], None],
) -> Iterator[Site]:
    """Online Retail's payments of three countries and of a month of the largest one, closed up to November;
    then something comes late.
    """
    require(CHROMIUM, "a Chromium browser (apt-get install chromium)")
    home = tmp_path_factory.mktemp("web")
    settings = Settings(
        home=home, mongodb_uri=mongo_uri, database=f"web_{uuid4().hex[:12]}", web_rate=100_000
    )
    rows = pl.read_csv(shared_data / "online_retail" / "commands.csv.gz", infer_schema=False)
    part = home / "commands.csv.gz"
    part.parent.mkdir(parents=True, exist_ok=True)
    largest = rows.filter(pl.col("organization_id") == LARGEST)
    november = pl.col("occurred_at").str.starts_with("2011-11")
    named = largest.filter(november)["payment_id"].drop_nulls().implode()
    wanted = pl.concat(
        [
            rows.filter(pl.col("organization_id").is_in([FOUND, *OTHERS])),
            largest.filter(november | pl.col("payment_id").is_in(named), pl.col("occurred_at") < "2011-12"),
        ]
    ).sort(pl.col("seq").cast(pl.Int64))
    part.write_bytes(gzip.compress(wanted.write_csv().encode(), 1))
    with LedgerLake.open(settings) as ledger:
        ledger.import_file(part)
        ledger.close_period("2011-10", by="Ann", through=True)
        ledger.close_period("2011-11", by="Ann", formats=("parquet", "csv", "xlsx"))
        late = wanted.filter(
            (pl.col("organization_id") == FOUND)
            & (pl.col("command") == "ProcessPayment")
            & pl.col("occurred_at").str.starts_with("2011-11-2")
        )["payment_id"][-1]
        late_commands(ledger, late)
        ledger.refresh()
        _, token = AccessTokens(ledger.db).create("finance's browser", "finance", None, timedelta(days=1))
    with serving(settings) as (address, _):
        yield Site(address, settings, token, late)
    with LedgerLake.open(settings) as ledger:
        ledger.db.client.drop_database(settings.database)


def late_commands(ledger: LedgerLake, payment: str) -> None:
    """A refund of November that is known only now, one that is refused, and another currency that fails."""
    at = datetime(2011, 11, 29, 10, tzinfo=UTC)
    refund = {"payment_id": payment, "organization_id": FOUND, "occurred_at": at}
    send = ledger.commands.dispatch
    send(RefundPayment(command_id="late", amount=Money.parse("1.25", "GBP"), reason=HOSTILE, **refund))
    with pytest.raises(CommandRejected):
        send(RefundPayment(command_id="too much", amount=Money.parse("99999", "GBP"), **refund))
    for number in range(12):
        again = {
            "payment_id": f"EUR {number}",
            "organization_id": FOUND,
            "amount": Money.parse("10.00", "EUR"),
            "occurred_at": datetime(2011, 12, 1 + number % 4, number, tzinfo=UTC),
        }
        if number % 3 == 0:
            send(FailPayment(command_id=f"fail {number}", reason="card declined", **again))
        send(ProcessPayment(command_id=f"pay {number}", **again))
    send(
        ProcessPayment(
            payment_id="&?/#<b>",
            command_id="odd",
            organization_id=f"../{HOSTILE}\u202e & Söhne",
            amount=Money.parse("1.234", "BHD"),
            occurred_at=at + timedelta(days=4),
        )
    )


def until(page: Page, true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)  # its events are told while it waits


@pytest.fixture(scope="module")
def browser(site: Site) -> Iterator[Browser]:
    """Chromium with nothing but loopback."""
    expect.set_options(timeout=120_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[*QUIETLY, "--proxy-server=127.0.0.1:9"],
            timeout=120_000,
        )
        yield browser
        browser.close()


class Visit:
    """A browser of somebody who signed in; `complaints` is what its console and the policy for pages say."""

    def __init__(self, site: Site, context: BrowserContext) -> None:
        self.site = site
        self.context = context
        self.complaints: list[str] = []
        context.set_default_timeout(120_000)
        self.page = context.new_page()
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.goto("/sign-in")
        self.page.get_by_label("Access token").fill(site.token)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url("**/")

    def open(self, *steps: str) -> Page:
        """The page that one comes to by following these links."""
        self.page.goto("/")
        for step in steps:
            self.page.get_by_role("main").get_by_role("link", name=step, exact=True).click()
        return self.page

    def drawn(self) -> Page:
        """The page once its charts are."""
        places = self.page.locator("[data-chart]")
        expect(self.page.locator("[data-chart][data-drawn]")).to_have_count(places.count())
        return self.page

    def picture(self, name: str) -> None:
        """Keep a picture of the page, if anybody wants to look at it."""
        if PICTURES:
            Path(PICTURES).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True, caret="initial")


@pytest.fixture
def visit(site: Site, browser: Browser) -> Iterator[Callable[..., Visit]]:
    """`visit(charts, **options of a context)`: a new browser window of somebody who signed in.

    Without `charts` none is drawn: to read plotly's script is most of the time of a page.
    """
    contexts: list[BrowserContext] = []

    def visited(*, charts: bool = False, **options: Any) -> Visit:
        contexts.append(browser.new_context(base_url=site.address, **(options or DESKTOP)))
        if not charts:
            contexts[-1].route(DRAWING, lambda route: route.fulfill(body="", content_type="text/javascript"))
        return Visit(site, contexts[-1])

    yield visited
    for context in contexts:
        context.close()


def expected(shared_data: Path, period: str, organization: str = FOUND) -> dict[str, str]:
    rows = pl.read_csv(shared_data / "online_retail" / "expected_org_month.csv", infer_schema=False)
    return rows.row(
        by_predicate=(pl.col("organization_id") == organization) & (pl.col("month") == period), named=True
    )


def download(page: Page, name: str) -> bytes:
    with page.expect_download() as waiting:
        page.get_by_role("link", name=name, exact=True).click()
    return Path(waiting.value.path()).read_bytes()


FILES = {
    "Lines as Parquet": "itemised.parquet",
    "Summary as Parquet": "summary.parquet",
    "Lines as CSV": "itemised.csv",
    "Summary as CSV": "summary.csv",
    "Report as Excel (XLSX)": "report.xlsx",
}


def figures(files: dict[str, bytes]) -> list[tuple[int, Decimal, int, Decimal]]:
    """Charges and refunds with their sums, as each of the formats has them."""
    lines = pl.read_parquet(files["itemised.parquet"])
    table = [(row["movement"], row["amount"]) for row in lines.iter_rows(named=True)]
    text = files["itemised.csv"].decode("utf-8-sig")
    in_csv = [(row["movement"], Decimal(row["amount"])) for row in csv.DictReader(io.StringIO(text))]
    book = openpyxl.load_workbook(io.BytesIO(files["report.xlsx"]), read_only=True)
    head, *rows = book["Lines"].iter_rows(values_only=True)
    kind, amount = head.index("movement"), head.index("amount")
    in_excel = [(row[kind], Decimal(str(row[amount]))) for row in rows if row[kind]]
    found = []
    for each in (table, in_csv, in_excel):
        charged = [amount for movement, amount in each if movement == "charge"]
        back = [-amount for movement, amount in each if movement != "charge"]
        found.append((len(charged), sum(charged, Decimal()), len(back), sum(back, Decimal())))
    return found


@pytest.mark.parametrize(("organization", "state"), [(FOUND, "corrected"), (LARGEST, "closed")])
def test_a_closed_month_is_found_and_its_files_are_those_that_were_closed(
    visit: Callable[..., Visit], shared_data: Path, organization: str, state: str
) -> None:
    wanted = expected(shared_data, "2011-11", organization)
    visitor = visit()
    page = visitor.open()
    visitor.picture("organizations-desktop")
    page.get_by_role("link", name=organization, exact=True).click()
    row = page.get_by_role("row", name="November 2011")
    expect(row).to_contain_text(state)
    expect(row).to_contain_text(f"{Decimal(wanted['net']):,}")
    visitor.picture("months-desktop")

    row.get_by_role("link", name="November 2011").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{organization}, November 2011")
    tiles = page.locator(".tiles")
    for name in ("gross", "refunds", "net"):
        expect(tiles).to_contain_text(f"{Decimal(wanted[name]):,}")
    expect(tiles).to_contain_text(f"{int(wanted['payments_n']):,} charges")

    manifest = json.loads(download(page, "Manifest (JSON)"))
    files = {file: download(page, name) for name, file in FILES.items()}
    for file, content in files.items():
        told = manifest["files"][file]
        assert (len(content), hashlib.sha256(content).hexdigest()) == (told["bytes"], told["sha256"])
        assert page.locator(f"[data-sha256='{file}']").text_content() == told["sha256"]
    stated = (int(wanted["payments_n"]), Decimal(wanted["gross"]),
              int(wanted["refund_commands_n"]), Decimal(wanted["refunds"]))  # fmt: skip
    assert figures(files) == [stated] * 3
    assert manifest["state"] == {"state": "closed", "revision": 1, "supersedes": None}


def test_formats_that_a_closed_report_lacks_are_made_beside_it_and_say_the_same(
    visit: Callable[..., Visit], site: Site, shared_data: Path
) -> None:
    wanted = expected(shared_data, "2011-10")
    folder = site.report("2011-10", "revision-1")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"itemised.parquet", "summary.parquet", "manifest.json"}
    page = visit().open(FOUND, "October 2011")
    expect(page.locator(".files")).to_contain_text("made when it is asked for")
    files = {file: download(page, name) for name, file in FILES.items()}
    stated = (int(wanted["payments_n"]), Decimal(wanted["gross"]),
              int(wanted["refund_commands_n"]), Decimal(wanted["refunds"]))  # fmt: skip
    assert figures(files) == [stated] * 3
    page.reload()
    for file, content in files.items():
        assert page.locator(f"[data-sha256='{file}']").text_content() == hashlib.sha256(content).hexdigest()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    # What is made later is, to the byte, what a close makes.
    closed = site.report("2011-11", "revision-1")
    manifest = read_manifest(closed)
    _, made = Exports(site.settings.home / "other").get(closed, manifest, "report.xlsx")
    assert made == manifest.files["report.xlsx"]


def test_what_came_late_is_followed_from_the_month_to_the_payment(
    visit: Callable[..., Visit], site: Site
) -> None:
    visitor = visit()
    page = visitor.open(FOUND, "November 2011")
    note = page.locator(".note", has_text="Corrected later")
    expect(note).to_contain_text("1 movement, -1.25 GBP")
    note.get_by_role("link", name="December 2011").click()
    expect(page.get_by_text("A draft, not a report to send.")).to_be_visible()
    correction = page.get_by_role("row", name=site.late_payment)
    expect(correction).to_contain_text("November 2011")
    expect(correction).to_contain_text("-1.25")
    expect(correction).to_contain_text(HOSTILE)
    correction.get_by_role("link").click()

    expect(page.get_by_role("heading", level=1)).to_have_text(f"Payment {site.late_payment}")
    steps = page.locator(".steps > li")
    expect(steps).to_have_count(3)
    expect(steps.nth(0)).to_contain_text("Payment processed")
    expect(steps.nth(1)).to_contain_text("1.25 GBP")
    expect(steps.nth(1)).to_contain_text(HOSTILE)
    expect(steps.nth(2)).to_contain_text("refused")
    expect(steps.nth(2)).to_contain_text("refund_exceeds_payment")
    assert page.title() == f"Payment {site.late_payment} · LedgerLake"
    visitor.picture("payment-desktop")

    # By its id, and from the list, which is cut by what the form asks for.
    page.goto("/payment")
    page.get_by_label("Payment id").fill("&?/#<b>")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Payment &?/#<b>")
    expect(page.get_by_role("main")).to_contain_text("1.234 BHD")
    page = visitor.open(FOUND, "Payments")
    page.get_by_label("Currency").fill("EUR")
    page.get_by_label("From (UTC)").fill("2011-12-02")
    page.get_by_label("To", exact=True).fill("2011-12-02")
    page.get_by_role("button", name="Find").click()
    expect(page.locator("tbody tr")).to_have_count(3)
    visitor.picture("payments-desktop")
    page.get_by_label("At least").fill("much")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("alert")).to_contain_text("'much' is no amount")
    complaints = [each for each in visitor.complaints if "422" not in each]
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_drawn_without_a_network_and_a_strict_policy_has_nothing_to_refuse(
    visit: Callable[..., Visit], scheme: str
) -> None:
    visitor = visit(charts=True, **DESKTOP, color_scheme=scheme)
    page = visitor.open(FOUND, "December 2011")
    visitor.drawn()
    titles = [text.split(" (")[0] for text in page.locator(".gtitle").all_text_contents()]
    assert len(titles) == 3
    notes = page.locator(".gtitle-subtitle").all_text_contents()
    assert any(note.startswith("Shaded: unfinished, known until 9 Dec 2011") for note in notes), notes
    expect(page.locator("th", has_text="so far")).to_have_text(["2011-12-09 so far"])
    assert titles[0] == "Gross, refunds and net per day"
    assert page.locator(".chart .point").count() >= 20  # bars and marks, in two currencies
    drawn = page.locator("[data-drawn]").first.get_attribute("data-drawn")
    assert drawn == scheme
    text = page.locator(".chart .xtick text").first
    assert light(text.evaluate("each => getComputedStyle(each).fill")) == (scheme == "dark")
    visitor.picture(f"month-{scheme}")
    assert visitor.complaints == []

    # What would run if a text were taken for more than a text is refused by the page itself.
    page.evaluate(
        "() => { const each = document.createElement('script');"
        " each.textContent = 'document.title = \"run\"'; document.body.append(each) }"
    )
    until(page, lambda: visitor.complaints)
    assert "Content Security Policy" in visitor.complaints[0]
    assert page.title() != "run"


def light(colour: str) -> bool:
    return sum(int(part) for part in re.findall(r"\d+", colour)[:3]) > 3 * 128


def pages(visitor: Visit) -> Iterator[tuple[str, Page]]:
    """Each kind of page, charts drawn."""
    yield "organizations", visitor.open()
    yield "months", visitor.open(FOUND)
    visitor.open(FOUND, "December 2011")
    yield "draft", visitor.drawn()
    visitor.open(FOUND, "November 2011")
    yield "closed", visitor.drawn()
    yield "payments", visitor.open(FOUND, "Payments")
    visitor.page.goto(f"/payment?id={visitor.site.late_payment}")
    yield "payment", visitor.page
    visitor.page.goto("/payment?id=there+is+none")
    yield "error", visitor.page
    visitor.context.clear_cookies()
    visitor.page.goto("/organizations/any")
    yield "sign-in", visitor.page


def serious(page: Page, *rules: str) -> list[str]:
    """What axe finds that keeps people out, by all of its rules or by these. A chart is one picture to it."""
    only = {"runOnly": {"type": "rule", "values": list(rules)}} if rules else {}
    options = {"resultTypes": ["violations"], **only}
    found = Axe().run(page, context={"exclude": [[".chart svg"]]}, options=options).response["violations"]
    return [
        f"{each['id']}: {[node['html'] for node in each['nodes']][:3]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


# What differs between the two is how it looks: the rest is looked at once.
@pytest.mark.parametrize(
    ("options", "rules"),
    [
        (DESKTOP, ()),
        ({**PHONE, "color_scheme": "dark"}, ("color-contrast", "scrollable-region-focusable", "target-size")),
    ],
    ids=["desktop", "phone in the dark"],
)
def test_axe_finds_nothing_serious_and_no_page_is_wider_than_its_screen(
    visit: Callable[..., Visit], options: dict[str, Any], rules: tuple[str, ...]
) -> None:
    found = {}
    for name, page in pages(visit(charts=True, **options)):
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        found[name] = serious(page, *rules)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, name
    assert len(found) == 8
    assert not any(found.values()), found

    # And it does look: a field without its label is found, and letters that are hardly there.
    page.evaluate(
        "document.querySelector('label').remove(); document.querySelector('h1').style.color = 'var(--line)'"
    )
    ids = [each.split(":")[0] for each in serious(page, *rules)]
    assert ids == (["color-contrast"] if rules else ["color-contrast", "label"])


def test_a_phone_shows_the_same_figures(visit: Callable[..., Visit], shared_data: Path) -> None:
    wanted = expected(shared_data, "2011-11")
    visitor = visit(charts=True, **PHONE)
    visitor.open(FOUND)
    visitor.picture("months-phone")
    page = visitor.open(FOUND, "November 2011")
    expect(page.locator(".tiles")).to_contain_text(f"{Decimal(wanted['net']):,}")
    visitor.drawn()
    visitor.picture("month-phone")
    # Large enough for a finger, those in running text and in a line of their own apart.
    small = page.evaluate(
        "[...document.querySelectorAll('button, .files a, nav.tabs a')]"
        ".filter(each => each.getBoundingClientRect().height < 24).map(each => each.outerHTML)"
    )
    assert small == []


def test_everything_is_reached_by_keyboard(visit: Callable[..., Visit]) -> None:
    visitor = visit()
    page = visitor.open()
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    page.keyboard.press("Enter")
    tab_to(page, FOUND)
    page.keyboard.press("Enter")
    page.wait_for_url("**/organizations/germany-*")
    tab_to(page, "November 2011")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url("**/periods/2011-11")
    tab_to(page, "Lines as CSV")
    with page.expect_download():
        page.keyboard.press("Enter")
    tab_to(page, "The figures of the charts")
    page.keyboard.press("Enter")
    expect(page.get_by_role("table", name="By day and currency")).to_be_visible()


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.textContent")).strip()


def tab_to(page: Page, name: str) -> None:
    for _ in range(80):
        page.keyboard.press("Tab")
        if focused(page) == name:
            return
    raise AssertionError(f"{name} is not reached")


def test_the_first_page_is_light_and_works_without_scripts(
    visit: Callable[..., Visit], browser: Browser, site: Site
) -> None:
    sizes: dict[str, int] = {}
    visitor = visit(charts=True)
    visitor.page.on("response", lambda answer: sizes.update({answer.url: len(answer.body())}))
    visitor.open()
    visitor.page.wait_for_load_state("networkidle")
    assert 2_000 < sum(sizes.values()) < 100_000
    assert not any("plotly" in address for address in sizes)

    context = browser.new_context(base_url=site.address, java_script_enabled=False)
    plain = Visit(site, context)
    plain.open(FOUND, "November 2011")
    expect(plain.page.get_by_text("The figures of the charts")).to_be_visible()
    plain.page.get_by_role("button", name="Sign out").click()
    expect(plain.page.get_by_role("heading", name="Sign in")).to_be_visible()
    plain.page.goto("/")
    assert plain.page.url.endswith("/sign-in?next=%2F")
    context.close()


def test_a_link_from_another_site_leads_to_the_page_and_a_form_from_there_to_nothing(
    visit: Callable[..., Visit], site: Site
) -> None:
    visitor = visit()
    page = visitor.open(FOUND, "November 2011")
    wanted = page.url
    # Another site: the same server by another name.
    elsewhere = site.address.replace("127.0.0.1", "localhost")
    page.goto(f"{elsewhere}/sign-in")
    page.evaluate(
        "where => { const link = document.createElement('a'); link.href = where; document.body.append(link);"
        " link.click() }",
        wanted,
    )
    page.wait_for_url(wanted)
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{FOUND}, November 2011")

    # Without the browser's own word on where a form comes from, there is still the form's token.
    refused = visitor.context.request.post(f"{site.address}/sign-out", form={"form_token": "0" * 64})
    assert refused.status == 403
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{FOUND}, November 2011")
