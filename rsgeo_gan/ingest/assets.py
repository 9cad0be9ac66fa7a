"""Which asset of a STAC item holds which band, and which addresses may be followed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pystac

from rsgeo_gan.catalog import StacSide
from rsgeo_gan.catalog.guess import match_bands
from rsgeo_gan.ingest.checks import Declined
from rsgeo_gan.ingest.scene import Scene

__all__ = ["moment", "scene"]

REMOTE_SCHEMES = ("http", "https", "s3", "gs", "az")
"""Where a remote item may point; never to files of this machine."""


def moment(item: pystac.Item) -> datetime:
    """Return the time of an item, or where its time begins, UTC."""
    when = item.datetime
    if when is None:
        when = datetime.fromisoformat(str(item.properties["start_datetime"]))
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def scene(item: pystac.Item, side: StacSide) -> Scene:
    """Describe an item as a scene: which asset holds which band.

    Raises:
        Declined: If the item has no such assets, no time, or addresses that may not be followed.
    """
    where = f"Item {item.id}"
    if item.datetime is None and not item.properties.get("start_datetime"):
        raise Declined("no date", f"{where} has no datetime; mend the item or drop it.")
    assets = {key: asset for key, asset in item.assets.items()}
    files: dict[str, str] = {}
    whole = None
    band_names = side.file_bands
    if side.data_asset is not None or (not _per_band(side, assets) and "data" in assets):
        key = side.data_asset or "data"
        if key not in assets:
            raise _no_asset(where, key, assets)
        whole = _followed(assets[key].href, side, where)
        band_names = band_names or _names_of(assets[key], side)
    else:
        found = _per_band(side, assets)
        for band in side.band_names:
            if band not in found:
                raise _no_asset(where, side.assets.get(band, band), assets)
            files[band] = _followed(assets[found[band]].href, side, where)
    classes = None
    if side.class_asset is not None:
        key = next((name for name in assets if name.lower() == side.class_asset.lower()), "")
        if not key:
            raise _no_asset(where, side.class_asset, assets)
        classes = _followed(assets[key].href, side, where)
    by_address = {_followed(a.href, side, where): dict(a.extra_fields) for a in assets.values() if _may(a.href, side)}
    addresses = [address for address in (*files.values(), whole, classes) if address]
    stats = [Path(address).stat() for address in addresses if "://" not in address and Path(address).exists()]
    return Scene(
        id=item.id,
        when=moment(item),
        files=files,
        whole=whole,
        band_names=band_names,
        classes=classes,
        properties=item.properties,
        asset_properties=by_address,
        collection=item.collection_id,
        identity=(
            item.properties.get("updated"),
            addresses,
            [(stat.st_size, stat.st_mtime_ns) for stat in stats],
        ),
    )


def _per_band(side: StacSide, assets: Mapping[str, pystac.Asset]) -> dict[str, str]:
    """Asset key of each wanted band: as the catalogue says, by key, or by the one band an asset names."""
    found: dict[str, str] = {}
    for band in side.band_names:
        given = side.assets.get(band)
        if given is not None:
            if given in assets:
                found[band] = given
            continue
        for key, asset in assets.items():
            if match_bands(side.instrument, [key])[0] == band:
                found[band] = key
                break
            named = _names_of(asset, side)
            if len(named) == 1 and match_bands(side.instrument, named)[0] == band:
                found[band] = key
                break
    return found


def _names_of(asset: pystac.Asset, side: StacSide) -> tuple[str, ...]:
    """Band names an asset states, where they are all there."""
    for key in ("bands", "eo:bands"):
        bands = asset.extra_fields.get(key)
        if isinstance(bands, list) and bands and all(isinstance(b, dict) and b.get("name") for b in bands):
            names = tuple(str(band["name"]) for band in bands)
            if any(match_bands(side.instrument, names)):
                return names
    return ()


def _may(href: str, side: StacSide) -> bool:
    return not side.is_remote or urlsplit(href).scheme in REMOTE_SCHEMES


def _followed(href: str, side: StacSide, where: str) -> str:
    """Return an address that may be read."""
    if not _may(href, side):
        raise Declined(
            "address",
            f"{where}: expected an asset address beginning with {', '.join(REMOTE_SCHEMES)}, got {href[:80]!r}; "
            "remote items may not name files of this machine. Mend the item or drop it.",
        )
    return href


def _no_asset(where: str, key: str, assets: Mapping[str, pystac.Asset]) -> Declined:
    return Declined(
        "bands",
        f"{where}: expected an asset {key!r}, got {', '.join(assets) or 'none'}; name the right ones with `assets`, "
        "`data_asset` or `class_asset` in the catalogue.",
    )
