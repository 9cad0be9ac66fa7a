"""Scenes of STAC catalogues: static ones on disk or over http, item collections, and APIs.

The root document tells which: an API states conformance classes or links to a search.
"""

from __future__ import annotations

import json
import logging
import operator
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pystac
import pystac_client
import requests
from odc.geo import geom
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from urllib3.util.retry import Retry

from rsgeo_gan.catalog import Area, Period, StacSide
from rsgeo_gan.errors import SourceError
from rsgeo_gan.ingest.assets import moment
from rsgeo_gan.ingest.signing import KEY_HEADER
from rsgeo_gan.ingest.web import get_json, refused

__all__ = ["Broken", "items"]

log = logging.getLogger(__name__)

_MAX_DOCUMENTS = 100_000


class Broken:
    """An entry of a catalogue that is no item.

    Args:
        id: Its address or what it calls itself.
        reason: Why it is no item.
    """

    def __init__(self, id: str, reason: str) -> None:
        self.id = id
        self.reason = reason


def items(side: StacSide, area: Area | None, period: Period | None) -> list[pystac.Item | Broken]:
    """List the items of a side within area and time, ordered by time.

    Args:
        side: The side.
        area: Area of interest.
        period: Time of interest.

    Returns:
        Items with absolute asset addresses, and entries that could not be read as items.

    Raises:
        SourceError: If the root document cannot be read, a server refuses or fails, or an API would be asked for
            everything it has.
    """
    if side.is_remote:
        refusal = _refusal(side)
        root = get_json(
            side.url,
            retries=side.retries,
            pause_s=side.retry_s,
            headers=_headers(side),
            what="the root of a STAC catalogue",
            refusal=refusal,
        )
        found = _search(side, area, period) if _is_api(root) else list(_walk(root, side.url, side))
    else:
        found = list(_walk(_read_json(side.url), str(Path(side.url).absolute()), side))
    kept: list[pystac.Item | Broken] = []
    for entry in found:
        if isinstance(entry, Broken) or _wanted(entry, side, area, period):
            kept.append(entry)
    kept.sort(key=lambda entry: (_time(entry), entry.id))
    good = [entry for entry in kept if isinstance(entry, pystac.Item)]
    if side.max_items is not None and len(good) > side.max_items:
        beyond = {id(entry) for entry in good[side.max_items :]}
        kept = [entry for entry in kept if id(entry) not in beyond]
    return kept


def _is_api(root: Mapping[str, Any]) -> bool:
    links = root.get("links") or []
    return bool(root.get("conformsTo")) or any(link.get("rel") == "search" for link in links if isinstance(link, dict))


def _headers(side: StacSide) -> dict[str, str]:
    key = os.environ.get(side.token_env) if side.token_env else None
    same = urlsplit(side.url).hostname == urlsplit(side.sas_url).hostname
    return {KEY_HEADER: key} if key and same else {}


def _refusal(side: StacSide) -> str:
    if side.token_env:
        held = "one that is refused" if os.environ.get(side.token_env) else "none"
        return f"expected a valid key in the environment variable {side.token_env}, got {held}; set it and run again"
    return "expected to need no key; name the environment variable that holds yours with `token_env`"


def _search(side: StacSide, area: Area | None, period: Period | None) -> list[pystac.Item | Broken]:
    """Ask an API, page by page."""
    if (area is None or period is None) and not side.ids:
        missing = " and ".join(name for name, value in (("aoi", area), ("time", period)) if value is None)
        raise SourceError(
            f"{side.url} is a STAC API: expected an area and a time to search for, got no {missing}; "
            f"add {missing} to the catalogue."
        )
    retry = Retry(
        total=side.retries,
        backoff_factor=side.retry_s,
        backoff_jitter=side.retry_s / 2,
        status_forcelist=(408, 425, 429, 500, 502, 503, 504),
        allowed_methods=None,
    )
    what = f"a search for collection {side.collection}"
    try:
        client = pystac_client.Client.open(
            side.url, stac_io=StacApiIO(headers=_headers(side), max_retries=retry, timeout=60)
        )
        server_side = bool(side.query) and client.conforms_to("QUERY")
        search = client.search(
            collections=[side.collection] if side.collection else None,
            bbox=list(area.bbox) if area and not side.ids else None,
            datetime=period.interval if period and not side.ids else None,
            ids=list(side.ids) or None,
            query=side.query if server_side else None,
            limit=100,
        )
        found: list[pystac.Item | Broken] = []
        for number, entry in enumerate(search.items_as_dicts()):
            if number >= _MAX_DOCUMENTS:
                break
            found.append(_item(entry, side.url))
    except APIError as error:
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            raise SourceError(refused(side.url, int(status), what, _refusal(side))) from error
        text = (str(error).strip().splitlines() or ["no text"])[0][:200]
        raise SourceError(
            f"{side.url}: expected items of {what}, got an error ({text}); check `collection`, `query` and "
            "the address in the catalogue, or run again later."
        ) from error
    except (requests.RequestException, pystac.STACError, KeyError, ValueError) as error:
        raise SourceError(
            f"{side.url}: expected items of {what}, got {type(error).__name__}; check the network and the address in "
            "the catalogue, or run again later."
        ) from error
    return found


def _item(entry: Mapping[str, Any], base: str) -> pystac.Item | Broken:
    """Read one item; addresses become absolute, relative to the item's own address."""
    name = str(entry.get("id", base))
    try:
        made = pystac.Item.from_dict(dict(entry), preserve_dict=True, migrate=True)
    except Exception as error:  # pystac raises many kinds on damaged documents
        return Broken(name, f"{name} in {base} is no STAC item ({type(error).__name__}); mend it or drop it.")
    for asset in made.assets.values():
        asset.href = _joined(base, asset.href)
    return made


def _joined(base: str, href: str) -> str:
    """Make an address absolute."""
    if "://" in href or href.startswith("/vsi"):
        return href
    if "://" in base:
        return urljoin(base, href)
    return os.path.normpath(Path(base).parent / href)


def _read_json(path: str) -> dict[str, Any]:
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SourceError(f"There is no file {path}. Correct `url` in the catalogue.") from error
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{path}: expected a STAC catalogue in JSON, got something else ({type(error).__name__}); "
            "correct `url` in the catalogue."
        ) from error
    if not isinstance(document, dict):
        raise SourceError(f"{path}: expected a STAC catalogue, got {type(document).__name__}; correct `url`.")
    return document


def _walk(root: Mapping[str, Any], base: str, side: StacSide) -> Iterator[pystac.Item | Broken]:
    """Yield all items below a document, a damaged one as what is broken about it."""
    waiting: list[tuple[Mapping[str, Any], str]] = [(root, base)]
    seen = {base}
    first = True
    while waiting:
        document, place = waiting.pop()
        kind = document.get("type")
        if kind == "Feature":
            yield _item(document, place)
        elif kind == "FeatureCollection":
            for feature in document.get("features", []):
                yield _item(feature, place)
        elif kind in ("Catalog", "Collection"):
            for link in document.get("links", []):
                if not isinstance(link, dict) or link.get("rel") not in ("item", "child", "items"):
                    continue
                target = _joined(place, str(link.get("href", "")))
                if target in seen or len(seen) > _MAX_DOCUMENTS:
                    continue
                seen.add(target)
                try:
                    waiting.append((_document(target, side), target))
                except SourceError as error:
                    yield Broken(target, str(error))
        elif first:
            raise SourceError(
                f"{place}: expected a STAC Catalog, Collection, item or item collection, got type {kind!r}; "
                "correct `url` in the catalogue."
            )
        else:
            yield Broken(place, f"{place}: expected a STAC document, got type {kind!r}; mend it or drop it.")
        first = False


def _document(target: str, side: StacSide) -> dict[str, Any]:
    if "://" not in target:
        if side.is_remote:
            raise SourceError(f"{target} is a file of this machine named by {side.url}; it is not followed.")
        return _read_json(target)
    return get_json(target, retries=side.retries, pause_s=side.retry_s, what="a STAC document", refusal=_refusal(side))


def _wanted(item: pystac.Item, side: StacSide, area: Area | None, period: Period | None) -> bool:
    """Whether an item belongs to the side; an API has been asked the same already."""
    if side.collection is not None and item.collection_id is not None and item.collection_id != side.collection:
        return False
    if side.ids and item.id not in side.ids:
        return False
    if period is not None and (item.datetime or item.properties.get("start_datetime")):
        first, last = period.bounds
        if not first <= moment(item) <= last:
            return False
    if area is not None and item.geometry is not None:
        west, south, east, north = area.bbox
        if not geom.Geometry(item.geometry, "EPSG:4326").intersects(geom.box(west, south, east, north, "EPSG:4326")):
            return False
    return all(_holds(item.properties.get(name), condition) for name, condition in side.query.items())


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
    "in": lambda value, choices: value in choices,
}


def _holds(value: Any, condition: Any) -> bool:
    if not isinstance(condition, dict):
        return bool(value == condition)
    if value is None and not set(condition) <= {"eq", "neq"}:
        return False
    return all(bool(_OPERATORS[name](value, bound)) for name, bound in condition.items())


def _time(entry: pystac.Item | Broken) -> datetime:
    latest = datetime.max.replace(tzinfo=UTC)
    if isinstance(entry, Broken) or not (entry.datetime or entry.properties.get("start_datetime")):
        return latest
    return moment(entry)
