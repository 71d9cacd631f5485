"""Answers that processes share, in Redis or any server that speaks its protocol.

Everything here is allowed to be absent, slow or wrong: then an answer is computed, as if there were none.
"""

from __future__ import annotations

import logging
import threading
import time
import typing
from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from typing import Any, Final

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from ledgerlake.queries.bus import Question
from ledgerlake.queries.cache import values_of
from ledgerlake.queries.model import DocumentQuery
from ledgerlake.settings import SettingsError, redacted

log = logging.getLogger(__name__)

# An answer larger than this takes longer to fetch than to compute, and keeps others waiting.
_LARGEST_BYTES: Final = 1_000_000
_DIGEST_BYTES: Final = 16
_LONGEST_PAUSE_SECONDS: Final = 30.0
# How long others wait for the process that has claimed an answer, and how often they look.
_CLAIM_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.01


class RedisAnswers:
    """A second level for `Cache`; see `SharedAnswers`.

    A value is its answer as JSON behind a digest of key and answer: garbage, a value of another key or one
    of another version of the program is as good as none. The key is a digest too, and names nothing.

    A server that fails or does not answer in `timeout` is left alone for `pause` seconds, and twice as long
    after each try that fails again, up to 30. That is logged once, and that it serves again once.

    Args:
        url: redis://, rediss:// or unix://, with what redis-py understands in it.
        ledger: names the ledger among others on the same server.
        seconds: how long the server keeps an answer.

    Raises:
        SettingsError: the address can not be understood.
    """

    def __init__(
        self, url: str, ledger: str, *, seconds: float = 300.0, timeout: float = 0.1, pause: float = 1.0
    ) -> None:
        try:
            self._redis = Redis.from_url(
                url,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 0),
                # What every server understands that speaks the protocol.
                protocol=2,
                driver_info=None,
                decode_responses=False,
            )
        except (RedisError, ValueError, TypeError):
            # Without the cause: it may quote a password.
            raise SettingsError(
                f"LEDGERLAKE_REDIS_URL={redacted(url)!r} is no usable address.",
                "Set it to such as redis://host:6379/0, or not at all.",
            ) from None
        self._circuit = _Circuit(redacted(url), pause)
        self._prefix = f"ledgerlake:{ledger}:"
        self._milliseconds = max(1, int(seconds * 1000))

    def answer(self, query: Question, stamp: str, compute: Callable[[], Any]) -> Any:
        """The answer kept for the query at `stamp`, or else that of `compute`, which is then kept."""
        adapter, shape = _adapter(type(query))
        if adapter is None:
            return compute()
        key = self._key(query, shape, stamp)
        kept = self._kept(key, adapter)
        if kept is not None:
            return kept
        if isinstance(query, DocumentQuery):
            # Computed sooner than anybody could wait for another process.
            return self._keep(key, adapter, compute())
        claimed = self._call(
            lambda: self._redis.set(key + ":claim", 1, nx=True, px=int(_CLAIM_SECONDS * 1000))
        )
        if not claimed and (kept := self._awaited(key, adapter)) is not None:
            return kept
        try:
            return self._keep(key, adapter, compute())
        finally:
            if claimed:
                self._call(lambda: self._redis.delete(key + ":claim"))

    def close(self) -> None:
        """Let go of the server."""
        self._redis.close()

    def _key(self, query: Question, shape: str, stamp: str) -> str:
        kind = type(query)
        named = f"{kind.__module__}.{kind.__qualname__}|{shape}|{values_of(kind)(query)!r}|{stamp}"
        return self._prefix + blake2b(named.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()

    def _kept(self, key: str, adapter: TypeAdapter[Any]) -> Any:
        value = self._call(lambda: self._redis.get(key))
        if not isinstance(value, bytes):
            return None
        digest, answer = value[:_DIGEST_BYTES], value[_DIGEST_BYTES:]
        if digest != _digest(key, answer):
            return None
        try:
            return adapter.validate_json(answer)
        except ValidationError:
            return None

    def _keep(self, key: str, adapter: TypeAdapter[Any], answer: Any) -> Any:
        try:
            value = adapter.dump_json(answer)
        except PydanticSerializationError:
            return answer
        if len(value) <= _LARGEST_BYTES:
            self._call(lambda: self._redis.set(key, _digest(key, value) + value, px=self._milliseconds))
        return answer

    def _awaited(self, key: str, adapter: TypeAdapter[Any]) -> Any:
        """What the process that has the claim comes to, if it does in time."""
        deadline = time.monotonic() + _CLAIM_SECONDS
        while self._circuit.closed and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            # The claim is looked at first: a claim that is gone has left its answer, or there is none.
            claim = self._call(lambda: self._redis.exists(key + ":claim"))
            if (kept := self._kept(key, adapter)) is not None or not claim:
                return kept
        return None

    def _call(self, command: Callable[[], Any]) -> Any:
        """What the command gives; None while the server does not serve."""
        if (since := self._circuit.may_try()) is None:
            return None
        try:
            found = command()
        except (RedisError, OSError) as error:
            if isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE"):
                return None  # it serves, but somebody has put something else in this place
            if self._circuit.failed(error, since):
                self._redis.connection_pool.disconnect(inuse_connections=False)
            return None
        self._circuit.worked(since)
        return found


class _Circuit:
    """Whether a server is asked: not for a while after it failed, then by one caller at a time.

    It turns when the server fails and when it serves again. A call tells of the server as it was when the
    call began: one that began before the last turn does not turn it back.
    """

    def __init__(self, server: str, pause: float) -> None:
        self._server = server
        self._first_pause = self._pause = pause
        self._lock = threading.Lock()
        self._again_at: float | None = None  # None: it serves
        self._turns = 0

    @property
    def closed(self) -> bool:
        return self._again_at is None

    def may_try(self) -> int | None:
        """None while the server is left alone; else after how many turns the call begins."""
        turns = self._turns  # read first: if it turns in between, the call counts as one of before
        if self._again_at is None:
            return turns
        with self._lock:
            now = time.monotonic()
            if self._again_at is not None:
                if now < self._again_at:
                    return None
                # This caller tries; the others are let in once it has succeeded.
                self._pause = min(self._pause * 2, _LONGEST_PAUSE_SECONDS)
                self._again_at = now + self._pause
            return self._turns

    def failed(self, error: Exception, since: int) -> bool:
        """Leave the server alone. True for the first failure after it has served."""
        with self._lock:
            first = self._again_at is None and since == self._turns
            if first:
                self._again_at = time.monotonic() + self._pause
                self._turns += 1
        if first:
            # Not what the error says: it may quote the address, and with it a password.
            log.warning(
                "The cache at %s does not serve (%s): answers are computed until it does.",
                self._server,
                type(error).__name__,
            )
        return first

    def worked(self, since: int) -> None:
        if self._again_at is None:
            return
        with self._lock:
            again = self._again_at is not None and since == self._turns
            if again:
                self._again_at, self._pause = None, self._first_pause
                self._turns += 1
        if again:
            log.info("The cache at %s serves again.", self._server)


def _digest(key: str, answer: bytes) -> bytes:
    return blake2b(key.encode() + b"\0" + answer, digest_size=_DIGEST_BYTES).digest()


@cache
def _adapter(kind: Any) -> tuple[TypeAdapter[Any] | None, str]:
    """What reads and writes the answers to queries of this kind, if it can, and a digest of their shape."""
    answers = kind.answer_at if hasattr(kind, "answer_at") else kind.answer
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(typing.get_type_hints(answers)["return"])
        shape = repr(adapter.json_schema())
    except (PydanticUserError, KeyError, NameError, TypeError) as error:
        log.warning("Answers to %s are not shared (%s).", kind.__qualname__, type(error).__name__)
        return None, ""
    return adapter, blake2b(shape.encode(), digest_size=8).hexdigest()
