"""What services do: charges, failed attempts and refunds, each once, under its Idempotency-Key."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from ledgerlake.commands.middleware import validate
from ledgerlake.commands.model import CommandResult
from ledgerlake.domain.commands import COMMANDS, PaymentCommand
from ledgerlake.domain.money import Money, MoneyError
from ledgerlake.domain.payment import MAX_AMOUNT, CommandRejected
from ledgerlake.web.access import Allowed, Principal
from ledgerlake.web.api.described import problems
from ledgerlake.web.api.fields import KEY, Amount, Currency, Details, Id, Instant, Text, instant, key_of
from ledgerlake.web.api.lean import Lean
from ledgerlake.web.problems import Problem
from ledgerlake.web.service import Service

router = APIRouter(prefix="/api/v1/commands", tags=["commands"], route_class=Lean)

Sender = Annotated[Principal, Depends(Allowed("commands"))]


class _Command(BaseModel):
    """The fields that every command has."""

    model_config = ConfigDict(extra="forbid")
    command: ClassVar[str]

    amount: Amount
    currency: Currency
    occurred_at: Instant
    organization: Id | None = Field(None, description="Needed where the token is for several")
    user_id: Id | None = Field(None, description="Who pays, where known")
    correlation_id: Id | None = Field(None, description="Ties a conversation together; default: the key")
    causation_id: Id | None = Field(None, description="What caused this; default: the key")
    metadata: Details = Field({}, description="Free names and values, kept with the event")
    personal: Details = Field(
        {}, description="Details of who pays, kept under their key and forgotten with it; needs user_id"
    )


_EXAMPLE: Final[dict[str, Any]] = {
    "payment_id": "P-1001",
    "amount": "12.30",
    "currency": "EUR",
    "occurred_at": "2026-03-01T12:00:00Z",
    "user_id": "u-17",
}


class Process(_Command):
    """A payment went through."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    command = "ProcessPayment"

    payment_id: Id


class Fail(_Command):
    """An attempt to pay failed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_EXAMPLE, "reason": "insufficient_funds"}]})

    command = "FailPayment"

    payment_id: Id
    reason: Text | None = None


class Refund(_Command):
    """Money goes back: on a payment, or, with payment_id null, as a credit note that names none."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**_EXAMPLE, "amount": "2.30", "reason": "damaged"}]}
    )

    command = "RefundPayment"

    payment_id: Id | None
    reason: Text | None = None


class Done(BaseModel):
    """Where the event of a command stands."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "command_id": "order-778-charge-1",
                    "payment_id": "P-1001",
                    "version": 1,
                    "position": 1204,
                    "duplicate": False,
                }
            ]
        }
    )

    command_id: str
    payment_id: str = Field(description="The payment; of a credit note the name that it got")
    version: int = Field(description="The event's place in the payment's own history")
    position: int = Field(description="The event's place in the log; give it as wait_for to read it back")
    duplicate: bool = Field(description="It had been done before, by the same command")


def _described(body: type[Process | Fail | Refund]) -> dict[str, Any]:
    """What the description of the API says of a route that reads key and body itself."""
    schema = body.model_json_schema()
    examples = schema.pop("examples")
    return {
        "status_code": 201,
        "response_model": Done,
        "responses": {
            200: {"model": Done, "description": "It was done before"},
            **problems(400, 401, 403, 408, 409, 413, 415, 422, 429, 500, 503),
        },
        "openapi_extra": {
            "parameters": [KEY],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": schema, "example": examples[0]}},
            },
        },
    }


@router.post("/process-payment", **_described(Process))
async def process_payment(request: Request, principal: Sender) -> Response:
    """Record that a payment went through, which completes it. It completes once."""
    return await _carry_out(request, Process, principal)


@router.post("/fail-payment", **_described(Fail))
async def fail_payment(request: Request, principal: Sender) -> Response:
    """Record that an attempt to pay failed. A payment that failed may be tried again."""
    return await _carry_out(request, Fail, principal)


@router.post("/refund-payment", **_described(Refund))
async def refund_payment(request: Request, principal: Sender) -> Response:
    """Record a refund. All refunds of a payment together never exceed it."""
    return await _carry_out(request, Refund, principal)


async def _carry_out(request: Request, kind: type[Process | Fail | Refund], principal: Principal) -> Response:
    service: Service = request.app.state.service
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "not_json", "The body is not JSON.", "Send Content-Type: application/json.")
    name, outcome = kind.command, "failed"
    try:
        command = _command(kind.model_validate_json(await request.body()), key_of(request), principal)
        result = await service.dispatch(command)
        outcome = "duplicate" if result.duplicate else "done"
    except CommandRejected:
        outcome = "rejected"
        raise
    finally:
        service.metrics.command(name, outcome)
    return _done(result)


def _command(body: Process | Fail | Refund, key: str, principal: Principal) -> PaymentCommand:
    fields: dict[str, Any] = {"payment_id": body.payment_id}
    if not isinstance(body, Process):
        fields["reason"] = body.reason
    try:
        amount = Money.parse(body.amount, body.currency)
    except MoneyError as error:
        raise CommandRejected(error.code, str(error)) from None
    if amount.minor > MAX_AMOUNT:
        raise CommandRejected("amount_too_large", "The amount is beyond any payment.")
    command = COMMANDS[body.command](
        command_id=key,
        organization_id=principal.organization(body.organization),
        amount=amount,
        occurred_at=instant(body.occurred_at),
        user_id=body.user_id,
        correlation_id=body.correlation_id,
        causation_id=body.causation_id,
        metadata=body.metadata,
        personal=body.personal,
        **fields,
    )
    # What is malformed goes no further, and is kept nowhere; what the rules refuse is.
    validate(command)
    return command


def _done(result: CommandResult) -> Response:
    content = Done.model_construct(
        command_id=result.command_id,
        payment_id=result.stream_id,
        version=result.version,
        position=result.position,
        duplicate=result.duplicate,
    )
    return Response(
        content.__pydantic_serializer__.to_json(content),
        200 if result.duplicate else 201,
        media_type="application/json",
    )
