"""Small JSON documents over http, with retries and messages that name the next step."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import requests

from rsgeo_gan.errors import SourceError

__all__ = ["get_json", "refused", "retrying"]

log = logging.getLogger(__name__)

TIMEOUT_S = 60.0
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class _TransientError(SourceError):
    """A failure that may pass."""


def retrying[T](
    action: Callable[[], T],
    *,
    retries: int,
    pause_s: float,
    what: str,
    transient: Callable[[SourceError], bool],
) -> T:
    """Repeat an action while its failures may pass, with growing pauses and jitter.

    Args:
        action: What is tried.
        retries: How often it is repeated.
        pause_s: First pause, seconds; doubled each time, times a random factor of 0.5 to 1.5.
        what: For the log.
        transient: Tells failures that may pass from those that will not.

    Returns:
        What the action returns.

    Raises:
        SourceError: The last failure.
    """
    for attempt in range(retries + 1):
        try:
            return action()
        except SourceError as error:
            if attempt == retries or not transient(error):
                raise
            wait = pause_s * 2**attempt * random.uniform(0.5, 1.5)
            log.info("%s failed, next try in %.1f s", what, wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def get_json(
    url: str,
    *,
    retries: int = 4,
    pause_s: float = 1.0,
    headers: Mapping[str, str] | None = None,
    what: str = "a document",
    refusal: str = "expected to need no key; check the address",
) -> dict[str, Any]:
    """Fetch a JSON object.

    Args:
        url: Address.
        retries: How often a failure that may pass is repeated.
        pause_s: First pause, seconds.
        headers: Sent along; not shown in messages.
        what: What is asked for, for messages.
        refusal: What to say on 401 and 403.

    Raises:
        SourceError: If there is no answer, a refusal, or no JSON object.
    """

    def once() -> dict[str, Any]:
        try:
            answer = requests.get(url, headers=dict(headers or {}), timeout=TIMEOUT_S)
        except requests.RequestException as error:
            raise _TransientError(
                f"{url} does not answer ({type(error).__name__}) when asked for {what}; "
                "check the address and the network, then run again."
            ) from error
        if answer.status_code in (401, 403):
            raise SourceError(refused(url, answer.status_code, what, refusal))
        if answer.status_code != 200:
            kind = _TransientError if answer.status_code in _TRANSIENT else SourceError
            raise kind(
                f"{url}: expected {what}, got HTTP status {answer.status_code}; "
                "check the address in the catalogue, or run again later."
            )
        try:
            document = answer.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise SourceError(f"{url}: expected {what} as a JSON object, got something else; check the address.")
        return document

    return retrying(
        once,
        retries=retries,
        pause_s=pause_s,
        what=f"request for {what}",
        transient=lambda error: isinstance(error, _TransientError),
    )


def refused(url: str, status: int, what: str, refusal: str) -> str:
    """Say that a server refused, and what to do."""
    name = "401 Unauthorized" if status == 401 else "403 Forbidden"
    return f"{url} refuses {what} ({name}): {refusal}."
