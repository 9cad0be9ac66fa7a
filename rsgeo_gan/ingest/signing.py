"""Signed addresses for the Planetary Computer: short-lived tokens, fetched when needed, stored nowhere.

The subscription key is read from the environment variable that the catalogue names, at the moment of a request.

Reference: planetarycomputer.microsoft.com, "Reading data from the STAC API: using tokens for data access".
"""

from __future__ import annotations

import logging
import os
import re
import threading
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from rsgeo_gan.catalog import StacSide
from rsgeo_gan.errors import SourceError
from rsgeo_gan.ingest.web import get_json

__all__ = ["Signer", "unsigned"]

SPARE = timedelta(minutes=5)
"""A token is renewed this long before it ends."""

KEY_HEADER = "Ocp-Apim-Subscription-Key"
BLOB_HOST = ".blob.core.windows.net"


def unsigned(text: str) -> str:
    """Take the query part off all http addresses in a text, so that no signature is shown or stored."""
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\")]*", r"\1", text)


class _Unsigning(logging.Filter):
    """Takes signatures out of the records of a logger."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "?" in text:
            record.msg, record.args = unsigned(text), ()
        return True


class Signer:
    """Signs the addresses of one side.

    Args:
        side: The side; without `sign` addresses stay as they are.
    """

    def __init__(self, side: StacSide) -> None:
        self._side = side
        self._tokens: dict[str, tuple[str, datetime]] = {}
        self._lock = threading.Lock()
        # GDAL's complaints show addresses as they were asked for
        gdal = logging.getLogger("rasterio._env")
        if side.sign != "none" and not any(isinstance(known, _Unsigning) for known in gdal.filters):
            gdal.addFilter(_Unsigning())

    def sign(self, href: str, collection: str | None) -> str:
        """Return an address that can be read now.

        Args:
            href: Address of an asset; only those on Azure blob storage or on the token service's own host are
                signed, so a token never goes to anyone else.
            collection: Collection of the item.

        Raises:
            SourceError: If no token is given; names the environment variable on 401 and 403.
        """
        if self._side.sign == "none" or not self._is_ours(href):
            return href
        joint = "&" if urlsplit(href).query else "?"
        return f"{href}{joint}{self.token(collection or self._side.collection or '')}"

    def token(self, collection: str) -> str:
        """Return a token that is valid for a while; fetched once per collection.

        Raises:
            SourceError: See `sign`.
        """
        with self._lock:
            token, until = self._tokens.get(collection, ("", datetime.min.replace(tzinfo=UTC)))
            if datetime.now(UTC) + SPARE >= until:
                token, until = self._fetch(collection)
                self._tokens[collection] = token, until
            return token

    def forget(self) -> None:
        """Drop all tokens, so that the next address is signed anew."""
        with self._lock:
            self._tokens.clear()

    def _is_ours(self, href: str) -> bool:
        host = urlsplit(href).netloc.lower()
        return host.split(":")[0].endswith(BLOB_HOST) or host == urlsplit(self._side.sas_url).netloc.lower()

    def _fetch(self, collection: str) -> tuple[str, datetime]:
        side = self._side
        key = os.environ.get(side.token_env) if side.token_env else None
        url = f"{side.sas_url.rstrip('/')}/token/{collection}"
        refusal = (
            f"expected a valid subscription key in the environment variable {side.token_env}, "
            f"got {'one that is refused' if key else 'none'}; set it and run again"
            if side.token_env
            else "expected to need no key; name the environment variable that holds yours with `token_env`"
        )
        answer = get_json(
            url,
            retries=side.retries,
            pause_s=side.retry_s,
            headers={KEY_HEADER: key} if key else {},
            what=f"a token for collection {collection}",
            refusal=refusal,
        )
        token, until = answer.get("token"), answer.get("msft:expiry")
        try:
            moment = datetime.fromisoformat(str(until))
        except ValueError:
            moment = datetime.now(UTC) + 2 * SPARE
        if not isinstance(token, str) or not token:
            raise SourceError(
                f"{url}: expected a JSON document with `token` and `msft:expiry`, got the keys "
                f"{', '.join(answer) or 'none'}; check `sas_url` in the catalogue."
            )
        return token.lstrip("?"), moment if moment.tzinfo else moment.replace(tzinfo=UTC)
