"""The API as services and people's programs use it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from ledgerlake.web.files import file_response
from ledgerlake.web.limits import MAX_BODY_BYTES
from tests.web.conftest import Served
from tests.web.serving import as_, charge, make_token, send, serving

JSON = "application/json"
PROBLEM = "application/problem+json"


def test_a_command_happens_once_and_its_answer_says_where(served: Served) -> None:
    with served.client("service") as client:
        body, key = charge(), uuid.uuid4().hex
        first, second = send(client, body, key), send(client, body, f'"{key}"')
        assert (first.status_code, second.status_code) == (201, 200)
        assert second.json() == {**first.json(), "duplicate": True}
        assert first.json()["position"] == served.ledger.store.head()
        [event] = served.ledger.store.read_stream(body["payment_id"])
        assert event.command_id == key
        assert event.metadata["organizationId"] == "acme"
        reused = send(client, {**body, "amount": "12.31"}, key)
        assert (reused.status_code, reused.json()["code"]) == (422, "command_id_reused")


def test_a_refund_and_a_credit_note_and_what_the_rules_refuse(served: Served) -> None:
    with served.client("service") as client:
        body = charge()
        assert send(client, {**body, "reason": "card_expired"}, what="fail").status_code == 201
        assert send(client, body).status_code == 201
        refund = {**body, "amount": "12.00", "reason": "damaged"}
        assert send(client, refund, what="refund").json()["version"] == 3
        refused = send(client, refund, "too-much", what="refund")
        assert refused.status_code == 409
        assert refused.headers["content-type"] == PROBLEM
        assert refused.json()["code"] == "refund_exceeds_payment"
        assert served.ledger.db["command_rejections"].find_one({"commandId": "too-much"}) is not None
        note = send(client, {**refund, "payment_id": None}, "note-1", what="refund")
        assert note.json()["payment_id"] == "credit-note/note-1"


def test_another_organization_is_not_told_whose_a_payment_is(served: Served) -> None:
    with as_(served.address, make_token(served.ledger, "service", "globex")) as client:
        answer = send(client, charge(payment_id="acme-3"), what="refund")
        assert (answer.status_code, answer.json()["code"]) == (409, "organization_mismatch")
        assert "acme" not in answer.text
        reused = send(client, charge(), "c-acme-1")
        assert (reused.status_code, reused.json()["code"]) == (422, "command_id_reused")
        assert "acme" not in reused.text
    with served.client("finance") as client:
        assert "globex" not in client.get("/api/v1/audit/acme-3").text


def test_what_was_stored_just_now_is_read_with_wait_for(served: Served) -> None:
    with served.client("service") as client:
        body = charge()
        position = send(client, body).json()["position"]
        with served.ledger.follow():
            found = client.get(f"/api/v1/payments/{body['payment_id']}", params={"wait_for": position})
        assert found.json()["payment"]["amount"] == "12.30"
        beyond = client.get("/api/v1/payments", params={"wait_for": 10**15})
        assert (beyond.status_code, beyond.json()["errors"][0]["field"]) == (422, "query.wait_for")


def test_pages_meet_every_payment_once(served: Served) -> None:
    with served.client("finance") as client:
        ids: list[str] = []
        cursor = None
        while True:
            params = {"limit": 2, "sort": "time", **({"cursor": cursor} if cursor else {})}
            page = client.get("/api/v1/payments", params=params).json()
            ids += [each["payment_id"] for each in page["payments"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert len(ids) == len(set(ids))
        assert {"acme-1", "acme-2", "acme-3"} <= set(ids)
        wrong = client.get("/api/v1/payments", params={"cursor": "x"})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "bad_query")


def test_a_payment_as_it_was_and_its_audit_trail(served: Served) -> None:
    with served.client("finance") as client:
        then = client.get("/api/v1/payments/acme-1", params={"version": 1}).json()["payment"]
        now = client.get("/api/v1/payments/acme-1").json()["payment"]
        assert (then["status"], now["status"]) == ("completed", "partially_refunded")
        steps = client.get("/api/v1/audit/acme-1").json()["steps"]
        assert [step["what"] for step in steps][:2] == ["PaymentProcessed", "PaymentRefunded"]
        assert steps[0]["metadata"]["personal"]["name"] == "Ann Onym"
        unknown, foreign = (client.get(f"/api/v1/payments/{each}") for each in ("nowhere", "globex-1"))
        assert unknown.status_code == foreign.status_code == 404
        assert {**unknown.json(), "request_id": ""} == {**foreign.json(), "request_id": ""}
    with served.client("operator") as client:
        steps = client.get("/api/v1/audit/acme-1").json()["steps"]
        assert steps[0]["metadata"]["personal"]["name"].startswith("pii:1:"), "personal data is not for it"


def test_statistics_and_trends_are_known_by_their_tag(served: Served) -> None:
    with served.client("analyst") as client:
        for path in (
            "/api/v1/statistics?start=2011-11-01&end=2011-12-01",
            "/api/v1/trends?granularity=month",
        ):
            first = client.get(path)
            tag = {"If-None-Match": first.headers["etag"]}
            assert first.status_code == 200
            assert {row["organization_id"] for row in first.json()["rows"]} == {"acme"}
            etag = first.headers["etag"]
            for given in (etag, f"W/{etag}", f'"x", {etag}', "*"):
                again = client.get(path, headers={"If-None-Match": given})
                assert (again.status_code, again.content) == (304, b""), given
                assert again.headers["etag"] == etag
            assert client.get(path, headers={"If-None-Match": '"x"'}).status_code == 200
            with served.client("service") as service:
                send(service, charge())
            until = time.monotonic() + 120
            with served.ledger.follow():
                while client.get(path, headers=tag).status_code != 200:
                    assert time.monotonic() < until, "another answer has another tag"
                    time.sleep(0.02)
        rows = client.get("/api/v1/statistics?start=2011-11-01&end=2011-12-01").json()["rows"]
        assert {row["status"]: row["total"] for row in rows}["completed"] == "17.30"
        for wrong in ("granularity=year", "zone=Nowhere/At_All", "start=2011-13-01", "colour=red"):
            assert client.get(f"/api/v1/trends?{wrong}").status_code == 422, wrong
    everybody = make_token(served.ledger, "analyst")
    with as_(served.address, everybody) as client:
        rows = client.get("/api/v1/statistics?start=2011-11-01&end=2011-12-01").json()["rows"]
        assert {row["organization_id"] for row in rows} == {"acme", "globex"}
    with as_(served.address, make_token(served.ledger, "analyst", "acme", "globex")) as client:
        assert client.get("/api/v1/statistics").json()["code"] == "organization_needed"
        assert client.get("/api/v1/statistics?organization=globex").status_code == 200
        assert client.get("/api/v1/statistics?organization=initech").status_code == 403


def test_many_who_ask_at_once_share_looks_and_all_are_answered(served: Served) -> None:
    """Trusted for no time at all, each look is too old for whoever comes while it is under way."""
    with serving(replace(served.settings, freshness_ms=0.0)) as (address, _):

        def ask(_: int) -> set[int]:
            with as_(address, served.tokens["analyst"]) as client:
                return {client.get("/api/v1/statistics").status_code for _ in range(15)}

        with ThreadPoolExecutor(12) as pool:
            assert set().union(*pool.map(ask, range(12))) == {200}


def test_the_files_of_a_report_are_its_manifests_whole_and_in_part(served: Served) -> None:
    with served.client("finance") as client:
        [month] = client.get("/api/v1/reports").json()["months"][-1:]
        assert (month["period"], month["state"], month["totals"][0]["net"]) == ("2011-11", "closed", "14.00")
        found = client.get("/api/v1/reports/2011-11/current").json()
        assert found["edition"] == "revision-1"
        for file in found["files"]:
            path = f"/api/v1/reports/2011-11/revision-1/{file['name']}"
            whole = client.get(path)
            sha256 = hashlib.sha256(whole.content).hexdigest()
            assert whole.headers["etag"] == f'"{sha256}"'
            assert whole.headers["repr-digest"] == (
                f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
            )
            assert file["sha256"] in (None, sha256)
            if file["listed"]:
                assert found["manifest"]["files"][file["name"]]["sha256"] == sha256
            assert "attachment" in whole.headers["content-disposition"]
            size = len(whole.content)
            for asked, expected in {
                "bytes=0-9": whole.content[:10],
                "bytes=10-": whole.content[10:],
                "bytes=-7": whole.content[-7:],
                f"bytes=5-{size + 100}": whole.content[5:],
            }.items():
                part = client.get(path, headers={"Range": asked})
                assert (part.status_code, part.content) == (206, expected), asked
                assert part.headers["etag"] == whole.headers["etag"]
            ranged = {"Range": "bytes=0-9"}
            assert client.get(path, headers={**ranged, "If-Range": '"other"'}).content == whole.content
            assert client.get(path, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
            beyond = client.get(path, headers={"Range": f"bytes={size}-"})
            assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
            head = client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(size)
        for wrong in ("2011-11/revision-2/summary.csv", "2011-10/current/summary.csv"):
            assert client.get(f"/api/v1/reports/{wrong}").status_code == 404, wrong


def test_a_file_that_is_not_what_its_manifest_says_is_not_given_out(served: Served) -> None:
    """`file_response` hashes what it opened, whatever the shelf says."""
    from types import SimpleNamespace

    from ledgerlake.web.exports import ReportReplaced

    shelf_file = _shelf_file(served)

    async def run(function: Any, *args: Any) -> Any:
        return function(*args)

    app = SimpleNamespace(state=SimpleNamespace(service=SimpleNamespace(run=run)))
    request = Request({"type": "http", "method": "GET", "headers": [], "app": app})
    assert asyncio.run(file_response(request, shelf_file)).status_code == 200
    with pytest.raises(ReportReplaced):
        asyncio.run(file_response(request, replace(shelf_file, sha256="0" * 64)))


def _shelf_file(served: Served) -> Any:
    from ledgerlake.web.shelf import Shelf

    shelf = Shelf(served.ledger)
    return shelf.file(shelf.report("acme", "2011-11"), "summary.parquet")


def test_problems_name_the_field_the_remedy_and_never_the_value(served: Served) -> None:
    with served.client("service") as client:
        wrong = {
            "amount": 12.3,
            "currency": "eur",
            "occurred_at": "yesterday",
            "user_id": "",
            "reason": "x",
            "metadata": {"userId": "x"},
            "personal": {"name": "=HYPERLINK()"},
        }
        for field, value in wrong.items():
            answer = send(client, charge(**{field: value}))
            problem = answer.json()
            assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM), field
            assert problem["errors"][0]["field"].startswith(f"body.{field}")
            assert "HYPERLINK" not in answer.text
        assert send(client, charge(), "k" * 600).json()["errors"][0]["field"] == "header.Idempotency-Key"
        path, headers = "/api/v1/commands/process-payment", {"Idempotency-Key": "k"}
        asked = {**headers, "Content-Type": JSON}
        assert client.post(path, content="{", headers=asked).status_code == 400
        assert client.post(path, content="{}", headers=headers).status_code == 415
        large = client.post(path, content=b" " * (MAX_BODY_BYTES + 1), headers=asked)
        assert (large.status_code, large.json()["code"]) == (413, "body_too_large")
        chunked = client.post(path, content=iter([b" " * 40_000] * 2), headers=asked)
        assert chunked.status_code == 413
        assert client.get("/api/v1/nothing").json()["code"] == "not_found"
        assert client.delete("/api/v1/payments").status_code == 405


def test_a_session_reads_and_changes_nothing_by_the_api(served: Served) -> None:
    from ledgerlake.web.sessions import COOKIE, Sessions

    sessions = Sessions.of_file(served.settings.home / "web" / "session.key")
    token_id = {each.role: each.id for each in _tokens(served)}
    with httpx.Client(base_url=served.address, timeout=60) as client:
        client.cookies.set(COOKIE, sessions.issue(token_id["finance"]))
        assert client.get("/api/v1/payments").status_code == 200
        client.cookies.set(COOKIE, sessions.issue(token_id["service"]))
        assert send(client, charge()).status_code == 401


def _tokens(served: Served) -> Any:
    from ledgerlake.web.tokens import AccessTokens

    return [each for each in AccessTokens(served.ledger.db).all() if each.revoked_at is None]


def test_every_answer_has_safe_headers_and_an_id(served: Served) -> None:
    with served.client("finance") as client:
        for path in ("/healthz", "/api/v1/payments", "/api/v1/nothing", "/api/v1/payments?limit=0"):
            headers = client.get(path, headers={"X-Request-Id": "given-1234"}).headers
            assert headers["x-request-id"] == "given-1234"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
        assert client.get("/healthz", headers={"X-Request-Id": "no id!"}).headers["x-request-id"] != "no id!"


def test_logs_name_the_token_and_no_secret_person_or_payment(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ledgerlake.web")
    with served.client("finance") as client:
        client.get("/api/v1/payments/acme-1?at=not-a-time")
        client.get("/api/v1/audit/acme-1")
    with served.client("service") as client:
        send(client, charge(personal={"name": "Ann Onym"}, user_id="ann@example.org"))
    told = caplog.text
    assert "/api/v1/audit/{payment_id:path} 200" in told
    for hidden in (*served.tokens.values(), "Ann Onym", "ann@example.org", "acme-1", "not-a-time"):
        assert hidden not in told


def test_made_up_methods_are_counted_as_one_and_no_range_is_answered_to_head(served: Served) -> None:
    with served.client("operator") as client:
        for method in ("PROPFIND", "MKCOL", "REPORT"):
            assert client.request(method, "/healthz").status_code == 405
        text = client.get("/metrics").text
        assert 'method="other"' in text
        assert "PROPFIND" not in text
    with served.client("finance") as client:
        path = "/api/v1/reports/2011-11/current/summary.parquet"
        head = client.head(path, headers={"Range": "bytes=0-9"})
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(client.get(path).content)))


def test_metrics_and_status_tell_how_far_everything_is(served: Served) -> None:
    with served.client("operator") as client:
        status = client.get("/api/v1/status").json()
        assert {part["name"] for part in status["parts"]} >= {"payment_statistics", "event_lake"}
        text = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["ledgerlake_head"]) == status["head"]
    assert float(values["ledgerlake_up"]) == 1
    assert 'ledgerlake_lag_events{part="payment_statistics"}' in values


def resolved(described: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    found: Any = described
    if "$ref" not in schema:
        return schema
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def test_the_description_refers_to_nothing_that_it_lacks(served: Served) -> None:
    with served.client("operator") as client:
        described = client.get("/api/v1/openapi.json").json()

    def walk(node: Any) -> int:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                assert resolved(described, node), node
                return 1
            return sum(map(walk, node.values()))
        return sum(map(walk, node)) if isinstance(node, list) else 0

    assert walk(described) > 50
    with pytest.raises(KeyError):
        resolved(described, {"$ref": "#/components/schemas/Nothing"})


def test_the_description_is_complete_with_an_example_for_each_answer(served: Served) -> None:
    with served.client("operator") as client:
        described = client.get("/api/v1/openapi.json").json()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], path
            if path not in ("/healthz", "/readyz"):
                assert operation["security"], path
            for status, answer in operation["responses"].items():
                content = answer.get("content", {})
                if status in ("200", "201") and JSON in content:
                    schema = resolved(described, content[JSON]["schema"])
                    if schema.get("format") == "binary":
                        continue  # a file
                    assert "example" in content[JSON] or "examples" in schema, f"{method} {path} {status}"
                elif status >= "400":
                    schema = resolved(described, content[PROBLEM]["schema"])
                    assert {"type", "status", "code", "errors"} <= schema["properties"].keys()
            for parameter in operation.get("parameters", ()):
                assert parameter["schema"], path
