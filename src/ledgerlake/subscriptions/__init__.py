"""Subscriptions: the log as an iterator that goes on for ever, and named consumers with a checkpoint.

`Subscriptions` for threads, `AsyncSubscriptions` for asyncio; `subscribe` for the log of any event store.
"""

from ledgerlake.subscriptions.async_subscriptions import AsyncSubscriptions
from ledgerlake.subscriptions.policy import HandlingPolicy, OnFailure
from ledgerlake.subscriptions.subscriptions import Subscriptions, subscribe

__all__ = ["AsyncSubscriptions", "HandlingPolicy", "OnFailure", "Subscriptions", "subscribe"]
