"""What the pages let somebody do and see: signing in and out, forged forms, others' payments, damage."""

from __future__ import annotations

import re
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from pathlib import Path

import httpx
import pytest

from ledgerlake.application import LedgerLake
from ledgerlake.domain.commands import ProcessPayment, RefundPayment
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.lake.errors import CorruptFileError
from ledgerlake.queries import GetAudit
from ledgerlake.queries.audit import MOST_REFUSALS
from ledgerlake.reports.manifest import read_manifest
from ledgerlake.settings import Settings
from ledgerlake.web.exports import Exports, ExportsBusy, ReportReplaced
from ledgerlake.web.sessions import COOKIE, SECONDS, VISITOR, SessionKeyError, Sessions
from ledgerlake.web.shelf import Shelf
from ledgerlake.web.tokens import AccessTokens
from tests.web.conftest import Served, command, fill
from tests.web.serving import make_token

HTML = {"Accept": "text/html"}


@pytest.fixture
def browser(served: Served) -> Iterator[httpx.Client]:
    """A browser of nobody yet; it follows no redirection."""
    with httpx.Client(base_url=served.address, headers=HTML, timeout=60) as client:
        yield client


def form_token(page: httpx.Response) -> str:
    found = re.search(r'name="form_token" value="([0-9a-f]{64})"', page.text)
    assert found is not None
    return found.group(1)


def sign_in(browser: httpx.Client, secret: str, **fields: str) -> httpx.Response:
    form = {"token": secret, "form_token": form_token(browser.get("/sign-in")), **fields}
    return browser.post("/sign-in", data=form)


def test_a_session_is_a_cookie_that_no_script_and_no_other_site_gets(
    served: Served, browser: httpx.Client
) -> None:
    answer = sign_in(browser, served.tokens["finance"])
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    set_cookies = SimpleCookie("; ".join(answer.headers.get_list("set-cookie")[:1]))
    session = set_cookies[COOKIE]
    assert (session["httponly"], session["samesite"], session["path"]) == (True, "strict", "/")
    assert int(session["max-age"]) == SECONDS
    assert not session["secure"]
    assert served.tokens["finance"] not in session.value
    assert VISITOR not in browser.cookies
    home = browser.get("/", follow_redirects=True)
    assert (home.status_code, home.url.path) == (200, "/organizations/acme")
    assert home.headers["cache-control"] == "no-store"

    # Behind a server that speaks TLS it is for TLS only.
    form = {"token": served.tokens["finance"], "form_token": form_token(browser.get("/sign-in"))}
    answer = browser.post("/sign-in", data=form, headers={"X-Forwarded-Proto": "https"})
    assert "; Secure" in answer.headers.get_list("set-cookie")[0]


def test_a_token_that_is_not_good_opens_no_session(served: Served, browser: httpx.Client) -> None:
    tokens = AccessTokens(served.ledger.db)
    _, expired = tokens.create("expired", "finance", ["acme"], timedelta(milliseconds=1))
    for secret in (
        "",
        "llt_" + "0" * 43,
        expired,
        "x" * 5_000,
        "\udc80".encode("utf-8", "surrogatepass").hex(),
    ):
        answer = sign_in(browser, secret)
        assert answer.status_code == 401
        assert "unknown, has expired, or was revoked" in answer.text
        assert not secret or secret not in answer.text
        assert COOKIE not in browser.cookies
    assert browser.get("/").headers["location"].startswith("/sign-in")


def test_a_session_ends_with_its_token(served: Served, browser: httpx.Client) -> None:
    tokens = AccessTokens(served.ledger.db)
    token, secret = tokens.create("short", "finance", ["acme"], timedelta(days=1))
    assert sign_in(browser, secret).status_code == 303
    assert browser.get("/organizations/acme").status_code == 200
    tokens.revoke(token.id)
    asked = threading.Event()
    for _ in range(600):
        if browser.get("/organizations/acme").status_code == 303:
            break
        asked.wait(0.05)
    else:
        raise AssertionError("the session outlives its token")


def test_a_forged_form_does_nothing(served: Served, browser: httpx.Client) -> None:
    good = served.tokens["finance"]
    page = browser.get("/sign-in")
    token = form_token(page)

    def refused(form: dict[str, str], headers: dict[str, str] | None = None) -> bool:
        answer = browser.post("/sign-in", data={"token": good, **form}, headers=headers)
        return answer.status_code == 403 and COOKIE not in browser.cookies

    assert refused({})
    assert refused({"form_token": ""})
    assert refused({"form_token": token[:-1] + ("0" if token[-1] != "0" else "1")})
    assert refused({"form_token": token}, {"Sec-Fetch-Site": "cross-site"})
    assert refused({"form_token": token}, {"Sec-Fetch-Site": "same-site"})
    with httpx.Client(base_url=served.address, headers=HTML) as other:
        assert refused({"form_token": form_token(other.get("/sign-in"))})
    assert sign_in(browser, good).status_code == 303

    # Nor does one that signs out.
    home = browser.get("/organizations/acme")
    for form in ({}, {"form_token": token}, {"form_token": "0" * 64}):
        assert browser.post("/sign-out", data=form).status_code == 403
    assert browser.get("/organizations/acme").status_code == 200
    answer = browser.post("/sign-out", data={"form_token": form_token(home)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert COOKIE not in browser.cookies


def test_a_cookie_sends_no_command(served: Served, browser: httpx.Client) -> None:
    assert sign_in(browser, served.tokens["service"]).status_code == 303
    before = served.ledger.store.head()
    body = {"payment_id": "forged", "amount": "1.00", "currency": "EUR"}
    paths = [route for route in browser.get("/api/v1/openapi.json").json()["paths"] if "commands" in route]
    assert paths
    for path in paths:
        answer = browser.post(path, json=body, headers={"Idempotency-Key": "forged"})
        assert answer.status_code == 401
    assert served.ledger.store.head() == before


@pytest.mark.parametrize(
    "wanted",
    ["//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)",
     "/\t/evil.example", "/\n/evil.example", "evil", "", "/\u2028", "/ä"],
)  # fmt: skip
def test_nobody_is_led_to_another_site(served: Served, browser: httpx.Client, wanted: str) -> None:
    answer = sign_in(browser, served.tokens["finance"], next=wanted)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    page = browser.get("/sign-in", params={"next": wanted}, headers={"Sec-Fetch-Site": "cross-site"})
    assert 'content="0;url=/"' in page.text


def test_who_signs_in_comes_to_what_was_asked_for(served: Served, browser: httpx.Client) -> None:
    wanted = "/organizations/acme/payments?status=completed&first=2011-11-01"
    asked = browser.get(wanted)
    assert asked.status_code == 303
    page = browser.get(asked.headers["location"])
    found = re.search(r'name="next" value="([^"]*)"', page.text)
    assert found is not None
    answer = sign_in(browser, served.tokens["finance"], next=found.group(1).replace("&amp;", "&"))
    assert answer.headers["location"] == wanted
    assert browser.get(wanted).status_code == 200


def test_a_token_shows_its_own_organizations_only(served: Served, browser: httpx.Client) -> None:
    sign_in(browser, served.tokens["finance"])
    others = [
        "/organizations/globex",
        "/organizations/globex/payments",
        "/organizations/globex/periods/2011-11",
        "/organizations/globex/periods/2011-11/revision-1/files/summary.csv",
        "/organizations/globex/periods/2011-11/revision-1/charts/volume",
        "/payment?id=globex-1",
    ]
    for path in others:
        answer = browser.get(path)
        assert answer.status_code == 404, path
        assert "globex" not in answer.text.replace(path, "")
        # The same words as for one that there is not.
        nobody = browser.get(path.replace("globex", "nobody"))
        assert nobody.text.replace("nobody", "globex") == answer.text
    with httpx.Client(base_url=served.address, headers=HTML) as all_of_them:
        sign_in(all_of_them, make_token(served.ledger, "finance"))
        for path in others:
            assert all_of_them.get(path).status_code == 200, path


def test_what_others_tried_on_a_payment_is_theirs(served: Served, browser: httpx.Client) -> None:
    foreign = {"payment_id": "acme-1", **command(77, "globex", 1)}
    with pytest.raises(Exception, match="acme|organization"):
        served.ledger.commands.dispatch(RefundPayment(**foreign))
    sign_in(browser, served.tokens["finance"])
    page = browser.get("/payment?id=acme-1")
    assert page.status_code == 200
    assert page.text.count("<h3>") == 2
    assert "globex" not in page.text
    with httpx.Client(base_url=served.address, headers=HTML) as all_of_them:
        sign_in(all_of_them, make_token(served.ledger, "operator"))
        page = all_of_them.get("/payment?id=acme-1")
        assert page.text.count("<h3>") == 3
        assert "c-globex-77" in page.text


def test_of_refused_commands_those_of_ones_own_organizations_are_read(served: Served) -> None:
    for number, organization in enumerate(("globex", "acme", "acme", "acme", "globex"), 80):
        with pytest.raises(CommandRejected):
            served.ledger.commands.dispatch(
                RefundPayment(payment_id="nowhere-80", **command(number, organization, 1))
            )
    ask = served.ledger.queries.ask
    assert len(ask(GetAudit("nowhere-80")).steps) == 5
    found = ask(GetAudit("nowhere-80", frozenset({"acme"})))
    assert [step.command_id for step in found.steps] == ["c-acme-81", "c-acme-82", "c-acme-83"]


def test_of_many_refused_commands_the_latest_are_told_and_that_there_are_more(
    served: Served, browser: httpx.Client
) -> None:
    def refuse(payment: str | None, organization: str, count: int, key: str | None = None) -> list[str]:
        ids = [key or f"m-{organization}-{payment}-{number}" for number in range(count)]
        fields = {**command(0, organization, 0), "payment_id": payment}
        served.ledger.commands.dispatch_batch(
            [
                RefundPayment(**{**fields, "command_id": each, "reason": f"{number}"})
                for number, each in enumerate(ids)
            ]
        )
        return ids

    ask = served.ledger.queries.ask
    refuse("many", "acme", 1)
    late = refuse("many", "globex", MOST_REFUSALS)
    all_of_them = ask(GetAudit("many"))
    assert {step.command_id for step in all_of_them.steps} == set(late), "the latest"
    assert all_of_them.older_refusals
    for organization, count in (("acme", 1), ("globex", MOST_REFUSALS)):
        found = ask(GetAudit("many", frozenset({organization})))
        assert (len(found.steps), found.older_refusals) == (count, False)
    refuse(None, "acme", MOST_REFUSALS + 1, "note-many")
    note = ask(GetAudit("credit-note/note-many"))
    assert (len(note.steps), note.older_refusals) == (MOST_REFUSALS, True)

    sign_in(browser, make_token(served.ledger, "operator"))
    page = browser.get("/payment?id=many")
    assert page.text.count("<h3>") == MOST_REFUSALS
    assert f"the latest {MOST_REFUSALS} are shown, and there are more" in page.text
    page = browser.get("/payment?id=acme-1")
    assert "are shown" not in page.text


def test_a_role_sees_its_pages_only(served: Served, browser: httpx.Client) -> None:
    sign_in(browser, served.tokens["analyst"])
    assert browser.get("/").headers["location"] == "/organizations/acme/payments"
    payments = browser.get("/organizations/acme/payments")
    assert ">Months<" not in payments.text
    refused = browser.get("/organizations/acme")
    assert (refused.status_code, refused.headers["content-type"]) == (403, "text/html; charset=utf-8")
    payment = browser.get("/payment?id=acme-1")
    assert payment.status_code == 200
    assert "Audit trail" not in payment.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/organizations/acme/periods/2011-11/revision-1/files/..%2Fmanifest.json", 404),
        ("/organizations/acme/periods/2011-11/revision-1/files/%2Fetc%2Fpasswd", 404),
        ("/organizations/acme/periods/2011-11/revision-1/files/checkpoint.json", 404),
        ("/organizations/acme/periods/2011-11/revision-1/files/itemised.parquet%00", 404),
        ("/organizations/acme/periods/..%2F..%2F2011-11", 404),
        ("/organizations/acme/periods/2011-11/..%2Frevision-1", 404),
        ("/organizations/acme/periods/2011-11/draft", 404),
        ("/organizations/acme/periods/2011-11/revision-2", 404),
        ("/organizations/acme/periods/2011-11/revision-01", 404),
        ("/organizations/acme/periods/2011-11/revision-1/charts/..%2Fvolume", 404),
        ("/organizations/acme/periods/2011-11/revision-1/charts/volume?theme=none", 422),
        ("/organizations/%2E%2E", 404),
        ("/organizations/acme/payments?cursor=%27%24ne", 422),
        ("/organizations/acme/payments?status=%24ne", 422),
        ("/organizations/acme/payments?status[$ne]=x", 200),
        ("/organizations/acme/payments?least=1e999999999&currency=EUR", 422),
        ("/organizations/acme/payments?least=NaN&currency=EUR", 422),
        ("/organizations/acme/payments?first=9999-12-31&last=9999-12-31", 422),
        ("/?page=0", 422),
        ("/?q=" + "x" * 300, 422),
        ("/payment?id=%00", 404),
        ("/payment?id=" + "x" * 3_000, 422),
        ("/static/../web/app.py", 404),
        ("/static/0000000000000000/style.css", 404),
    ],
)
def test_a_hostile_address_comes_to_nothing(
    served: Served, browser: httpx.Client, path: str, status: int
) -> None:
    sign_in(browser, served.tokens["finance"])
    answer = browser.get(path)
    assert answer.status_code == status
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_damaged_file_is_not_handed_out(settings: Settings) -> None:
    with LedgerLake.open(settings) as ledger:
        fill(ledger)
        ledger.commands.dispatch(RefundPayment(payment_id="acme-3", **command(9, "acme", 70)))
        ledger.refresh()
        shelf = Shelf(ledger)
        report = shelf.report("acme", "2011-11")
        made = shelf.file(report, "report.xlsx")
        assert made.path.read_bytes()
        lines = report.folder / "itemised.parquet"
        lines.chmod(0o644)
        whole = lines.read_bytes()
        lines.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
        # What was made before is of the report that was closed; nothing more is made of what is there now.
        assert shelf.file(report, "report.xlsx") == made
        with pytest.raises(ReportReplaced):
            shelf.file(report, "itemised.csv")
        lines.write_bytes(whole)
        assert shelf.file(report, "itemised.csv").size

        # The manifest is what says which bytes they are: one that was changed says nothing.
        manifest = report.folder / "manifest.json"
        manifest.chmod(0o644)
        manifest.write_bytes(manifest.read_bytes().replace(b'"revision": 1', b'"revision": 2'))
        with pytest.raises(Exception, match="changed after it was written"):
            shelf.report("acme", "2011-11")
        # The organization's other months are there as before.
        assert [(each.period, each.state) for each in shelf.months("acme")] == [
            ("2011-12", "open"), ("2011-11", "damaged"),
        ]  # fmt: skip
        assert shelf.report("acme", "2011-12").daily().height
        assert shelf.months("globex")[-1].state == "closed"

        # So is a month whose lines are not those that its manifest tells of.
        lines = shelf.report("acme", "2011-12").folder / "itemised.parquet"
        lines.write_bytes(lines.read_bytes()[:-1] + b"!")
        with pytest.raises(ReportReplaced):
            shelf.report("acme", "2011-12").daily()
        assert Shelf(ledger).months("acme")[0].state == "damaged"
        ledger.db.client.drop_database(settings.database)


def test_a_month_is_open_closed_corrected_reopened_and_closed_again(settings: Settings) -> None:
    with LedgerLake.open(settings) as ledger:
        fill(ledger)
        shelf = Shelf(ledger)
        assert [(each.period, each.state, each.edition) for each in shelf.months("acme")] == [
            ("2011-11", "closed", "revision-1")
        ]
        late = command(9, "acme", 70)
        ledger.commands.dispatch(RefundPayment(payment_id="acme-3", **late))
        ledger.refresh()
        december, november = shelf.months("acme")
        assert (december.period, december.state, december.edition) == ("2011-12", "open", "draft")
        assert november.state == "corrected"
        assert [(each.booked_in, each.count, each.amount_minor) for each in november.late] == [
            ("2011-12", 1, -70)
        ]
        assert [line["payment_id"] for line in shelf.report("acme", "2011-12").first_corrections(5)] == [
            "acme-3"
        ]
        assert shelf.months("globex")[-1].state == "closed"
        fresh = shelf.freshness()
        assert (fresh.position, fresh.due) == (ledger.store.head(), False)

        ledger.periods.reopen("2011-11", reason="the refund", by="Ann")
        (november,) = [each for each in shelf.months("acme") if each.period == "2011-11"]
        assert (november.state, november.report) == ("open", None)
        # The drafts stand where they stood; what they say is to be booked anew.
        assert shelf.freshness() == replace(fresh, due=True)
        ledger.refresh()
        assert not shelf.freshness().due
        assert shelf.report("acme", "2011-11").edition == "draft"
        ledger.close_period("2011-11", by="Bea")
        (november,) = [each for each in shelf.months("acme") if each.period == "2011-11"]
        assert (november.state, november.edition, november.late) == ("closed", "revision-2", ())
        assert [(each.action, each.by) for each in november.history] == [
            ("close", "finance"), ("reopen", "Ann"), ("close", "Bea"),
        ]  # fmt: skip
        assert shelf.freshness().due
        nets = [shelf.report("acme", "2011-11", f"revision-{each}").totals[0].net_minor for each in (1, 2)]
        assert nets[0] - nets[1] == 70
        ledger.db.client.drop_database(settings.database)


def test_a_day_that_is_not_over_is_marked_in_a_draft_and_no_day_of_a_closed_month(
    served: Served, browser: httpx.Client
) -> None:
    now = datetime.now(UTC)
    first = datetime(now.year, now.month, 1, tzinfo=UTC) - timedelta(days=1)  # the day before the month
    for number, at in enumerate((first, now), 900):
        fields = {**command(number, "globex"), "occurred_at": at}
        served.ledger.commands.dispatch(ProcessPayment(payment_id=f"today-{number}", **fields))
    served.ledger.refresh()
    sign_in(browser, make_token(served.ledger, "finance", "globex"))

    def marked(period: str, edition: str) -> tuple[bool, int]:
        page = f"/organizations/globex/periods/{period}/{edition}"
        # A browser's session in a cookie asks for what its page shows.
        chart = browser.get(f"{page}/charts/volume").json()["layout"]["title"]["subtitle"].get("text", "")
        return "Shaded: unfinished, known until" in chart, browser.get(page).text.count("so far")

    assert marked(f"{now:%Y-%m}", "draft") == (True, 1)
    assert marked(f"{first:%Y-%m}", "draft") == (False, 0)
    assert marked("2011-11", "revision-1") == (False, 0)


def test_made_files_are_kept_for_the_next_one_and_the_oldest_give_way(served: Served, tmp_path: Path) -> None:
    folder = served.settings.reports_dir / "2011-11" / "revision-1"
    manifests = {name: read_manifest(folder / name) for name in ("acme", "globex")}
    exports = Exports(tmp_path, most_bytes=40_000)
    path, first = exports.get(folder / "acme", manifests["acme"], "report.xlsx")
    is_at = path.stat()
    assert exports.get(folder / "acme", manifests["acme"], "report.xlsx") == (path, first)
    assert path.stat() == is_at

    # Many at once: each is made once, and all get the same.
    found = []

    def ask() -> None:
        for _ in range(6_000):
            try:
                found.append(exports.get(folder / "acme", manifests["acme"], "itemised.csv"))
                return
            except ExportsBusy:
                later.wait(0.02)

    later = threading.Event()
    asking = [threading.Thread(target=ask) for _ in range(8)]
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    assert len(found) == 8
    assert len({str(each) for each in found}) == 1

    small = Exports(tmp_path, most_bytes=first["bytes"] + 1_000)
    small.get(folder / "globex", manifests["globex"], "report.xlsx")
    assert small.facts(manifests["acme"], "report.xlsx") is None
    assert small.facts(manifests["globex"], "report.xlsx") is not None
    assert not list(tmp_path.glob(".*"))

    # Of another report than the manifest's nothing is made.
    facts = {**manifests["acme"].content, "files": manifests["globex"].files}
    with pytest.raises(ReportReplaced):
        exports.get(folder / "acme", replace(manifests["acme"], content=facts), "summary.csv")
    with pytest.raises((ReportReplaced, CorruptFileError)):
        exports.get(tmp_path / "none", manifests["acme"], "report.html")


def test_a_session_is_what_the_server_signed_and_only_for_its_time(tmp_path: Path) -> None:
    sessions = Sessions.of_file(tmp_path / "web" / "session.key")
    assert stat.S_IMODE((tmp_path / "web" / "session.key").stat().st_mode) == 0o600
    cookie = sessions.issue("token-1", now=1_000)
    named, _, signature = cookie.partition(".")
    found = sessions.read(cookie, now=1_000 + SECONDS - 1)
    assert found is not None
    assert found.token_id == "token-1"
    assert sessions.read(cookie, now=1_000 + SECONDS) is None
    other = sessions.issue("token-2", now=1_000).partition(".")[0]
    for forged in (None, "", ".", named, f"{named}.", f"{other}.{signature}", f"{named}.{signature[:-1]}",
                   cookie + "x", "é.ü", "\udc80.", "x" * 2_000):  # fmt: skip
        assert sessions.read(forged, now=1_000) is None
    # A form's token is none of a session's, nor the other way round.
    assert not sessions.is_form_token(signature, named)
    assert sessions.is_form_token(sessions.form_token(cookie), cookie)
    assert not sessions.is_form_token(sessions.form_token(cookie), other)

    again = Sessions.of_file(tmp_path / "web" / "session.key")
    assert again.read(cookie, now=1_000) == found
    assert Sessions.of_file(tmp_path / "elsewhere.key").read(cookie, now=1_000) is None
    (tmp_path / "elsewhere.key").chmod(0o604)
    with pytest.raises(SessionKeyError, match=r"elsewhere\.key.* is open to everybody"):
        Sessions.of_file(tmp_path / "elsewhere.key")
    (tmp_path / "short.key").write_bytes(b"x")
    with pytest.raises(SessionKeyError, match=r"short\.key is not the key"):
        Sessions.of_file(tmp_path / "short.key")
