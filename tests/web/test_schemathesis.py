"""What the description of the API promises, tried by schemathesis: no 5xx, and no answer beyond it."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.web.conftest import Served

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
EXAMPLES = 10
WITHOUT_INPUT = frozenset({"GET /healthz", "GET /readyz", "GET /api/v1/status", "GET /metrics"})


def test_every_operation_answers_as_described(served: Served) -> None:
    described = schemathesis.openapi.from_url(f"{served.address}/api/v1/openapi.json")
    wrong: list[str] = []
    tried = 0
    for found in described.get_all_operations():
        operation = found.ok()
        role = "service" if "/commands/" in operation.path else "operator"
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and operation.label in WITHOUT_INPUT:
                continue
            cases = operation.as_strategy(generation_mode=mode)
            tried += 1
            wrong += [
                f"{operation.label}, {mode.name}: {each}" for each in _differences(cases, served.tokens[role])
            ]
    assert not wrong, "\n".join(wrong)
    assert tried >= 20


def _differences(cases: SearchStrategy[schemathesis.Case], secret: str) -> list[str]:
    """What answers to a few of these cases differ in from the description."""

    @given(case=cases)
    @settings(
        max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None
    )
    def answers(case: schemathesis.Case) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {secret}"}, checks=CHECKS)

    try:
        answers()
    except BaseExceptionGroup as failed:
        return [str(each)[:1_500] for each in failed.exceptions]
    return []
