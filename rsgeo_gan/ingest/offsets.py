"""The radiometric offset of Sentinel-2 scenes: decided per collection and item, checked against dark pixels.

Since processing baseline 04.00 (25 January 2022) ESA adds 1000 to all DNs, so reflectance = (DN - 1000) / 10000.
Providers differ in whether they took it out again, and in how truthfully they say so.

Reference: Sentinel-2 Products Specification Document 14.9, radiometric offset (BOA_ADD_OFFSET, RADIO_ADD_OFFSET).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsgeo_gan.ingest.checks import Declined
from rsgeo_gan.sensors import Sensor

__all__ = ["Offset", "darkest", "decide"]

log = logging.getLogger(__name__)

ADDED_DN = 1000.0
"""What the newer baselines add, DN."""

FIRST_BASELINE = 4.0
FLAG = "earthsearch:boa_offset_applied"

STILL_IN_DN = 900.0
"""With the offset still in, fewer than 1 % of the darkest band's pixels lie below this: DN 1000 is reflectance 0,
and noise and over-correction reach some hundredths at most."""

TOO_BRIGHT_DN = 2000.0
"""Above this the darkest pixels (reflectance 0.1 with the offset in, 0.2 without) tell nothing: snow, cloud, sand."""


@dataclass(frozen=True)
class Offset:
    """An offset to be added to valid DNs, and why.

    Attributes:
        dn: DN to add, 0 or negative for Sentinel-2.
        reason: Where the decision comes from, for people.
    """

    dn: float
    reason: str


def darkest(values: np.ndarray, valid: np.ndarray) -> tuple[float, float] | None:
    """Return low percentiles of the darkest band.

    Args:
        values: Raw DNs of sample windows, shape (C, N).
        valid: Which pixels are valid, shape (N,), bool.

    Returns:
        The 0.1st and the 1st percentile in DN of the band where the latter is lowest; None when fewer than
        100 pixels are valid.
    """
    if np.count_nonzero(valid) < 100:
        return None
    low = np.percentile(values[:, valid].astype(np.float64), (0.1, 1.0), axis=1)  # (2, C)
    band = int(np.argmin(low[1]))
    return float(low[0, band]), float(low[1, band])


def decide(
    item_id: str,
    sensor: Sensor,
    *,
    override: float | None,
    collection: str | None,
    properties: Mapping[str, Any],
    band_metadata: Sequence[Mapping[str, Any]],
    file_offset: tuple[float, float],
    dark: tuple[float, float] | None,
) -> Offset:
    """Decide which offset a scene needs.

    In this order: the catalogue's `offset_dn`; for collections that carry the flag
    `earthsearch:boa_offset_applied` (known to be wrong on many items) the flag with the processing baseline;
    raster metadata of the bands; the processing baseline; scale and offset in the file. What results is compared
    with the darkest pixels.

    Args:
        item_id: For messages.
        sensor: Sensors other than Sentinel-2 in DN need none.
        override: `offset_dn` of the catalogue.
        collection: STAC collection, if any.
        properties: Properties of the item.
        band_metadata: Per wanted band, the mapping that may hold scale and offset.
        file_offset: Scale and offset in the tags of the file.
        dark: From `darkest`.

    Returns:
        The offset and the reason.

    Raises:
        Declined: If the metadata contradict the pixels, or the bands state different offsets.
    """
    if override is not None:
        return Offset(override, "catalogue: offset_dn")
    if sensor.unit != "dn" or not sensor.name.startswith("sentinel2"):
        return Offset(0.0, f"{sensor.name}: values as delivered")
    found = _stated(item_id, collection, properties, band_metadata, file_offset)
    if found is None:
        return _unstated(item_id, dark)
    if dark is None:
        return Offset(found.dn, f"{found.reason}; not checked, too few valid pixels")
    remedy = "Set offset_dn in the catalogue (0 or -1000) if you know better; else the item stays out."
    if found.dn <= -ADDED_DN and dark[1] < STILL_IN_DN:
        raise Declined(
            "offset",
            f"Item {item_id}: {found.reason}, so its DNs should still hold the offset of 1000 and hardly fall below "
            f"it; got {dark[1]:.0f} at the 1st percentile of the darkest band. {remedy}",
        )
    flagged = (
        found.dn == 0 and _truth(properties.get(FLAG)) and (_baseline(item_id, properties) or 99) >= FIRST_BASELINE
    )
    if flagged and ADDED_DN <= dark[1] < TOO_BRIGHT_DN and dark[0] >= STILL_IN_DN:
        raise Declined(
            "offset",
            f"Item {item_id}: {found.reason}, so dark pixels should lie well below 1000; got {dark[0]:.0f} and "
            f"{dark[1]:.0f} at the 0.1st and 1st percentile of the darkest band, as if the offset of 1000 were "
            f"still in. {remedy}",
        )
    checked = "too bright to check" if flagged and dark[1] >= TOO_BRIGHT_DN else "agrees with the dark pixels"
    return Offset(found.dn, f"{found.reason}; {checked}")


def _stated(
    item_id: str,
    collection: str | None,
    properties: Mapping[str, Any],
    band_metadata: Sequence[Mapping[str, Any]],
    file_offset: tuple[float, float],
) -> Offset | None:
    """What the metadata say, or None."""
    baseline = _baseline(item_id, properties)
    if FLAG in properties and collection != "sentinel-2-c1-l2a":
        if baseline is not None and baseline < FIRST_BASELINE:
            return Offset(0.0, f"processing baseline {baseline:05.2f} adds no offset")
        if _truth(properties[FLAG]):
            return Offset(0.0, f"{FLAG} is true")
        return Offset(-ADDED_DN, f"{FLAG} is false")
    stated = {dn for dn in map(_offset_of, band_metadata) if dn is not None}
    if len(stated) > 1:
        listed = ", ".join(f"{dn:g}" for dn in sorted(stated))
        raise Declined(
            "offset",
            f"Item {item_id}: expected one radiometric offset for all bands, got {listed} DN; "
            "choose bands that agree, or set offset_dn in the catalogue.",
        )
    if stated:
        return Offset(stated.pop(), "raster metadata of the bands")
    if baseline is not None:
        dn = -ADDED_DN if baseline >= FIRST_BASELINE else 0.0
        return Offset(dn, f"processing baseline {baseline:05.2f}")
    scale, offset = file_offset
    if scale not in (0.0, 1.0):
        return Offset(round(offset / scale, 6) + 0.0, "scale and offset in the file")
    return None


def _unstated(item_id: str, dark: tuple[float, float] | None) -> Offset:
    """Nothing is stated: take the values as they are, and say when they look as if the offset were in."""
    if dark is not None and dark[0] >= STILL_IN_DN and ADDED_DN <= dark[1] < TOO_BRIGHT_DN:
        log.warning(
            "%s states no radiometric offset, but its darkest pixels lie at %.0f DN, as if an offset of 1000 were "
            "in; set offset_dn: -1000 in the catalogue if so",
            item_id,
            dark[1],
        )
        return Offset(0.0, "not stated, taken as 0; the dark pixels look as if an offset of 1000 were in")
    return Offset(0.0, "not stated, taken as 0")


def _offset_of(band: Mapping[str, Any]) -> float | None:
    """Offset in DN of one band's metadata: `raster:bands` of STAC raster 1, `raster:offset` of raster 2."""
    for prefix in ("", "raster:"):
        scale, offset = band.get(f"{prefix}scale"), band.get(f"{prefix}offset")
        if isinstance(offset, int | float) and isinstance(scale, int | float) and scale:
            return round(offset / scale, 6) + 0.0
    return None


def _baseline(item_id: str, properties: Mapping[str, Any]) -> float | None:
    """Processing baseline, from the item or a product name (`_N0511_`)."""
    stated = properties.get("s2:processing_baseline", properties.get("processing:version"))
    if stated is not None:
        match = re.match(r"\D?(\d{1,2}\.\d{1,2})", str(stated))
        if match:
            return float(match.group(1))
    names = " ".join(str(name) for name in (properties.get("s2:product_uri", ""), item_id))
    match = re.search(r"_N(\d{2})(\d{2})_", names)
    return float(f"{match.group(1)}.{match.group(2)}") if match else None


def _truth(value: Any) -> bool:
    """Read a flag that some items store as text."""
    return value.strip().lower() == "true" if isinstance(value, str) else bool(value)
