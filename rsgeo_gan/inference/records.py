"""The item beside a product: written when the product is whole, read to see whether it is still the wanted one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pystac

from rsgeo_gan.manifest import write_json

__all__ = ["finished", "write_item"]


def finished(folder: Path, stem: str, wanted: Mapping[str, Any]) -> pystac.Item | None:
    """Return the item of a product that is whole and says of itself what is wanted.

    Args:
        folder: Folder of products.
        stem: Name of the product's files, without ending.
        wanted: Properties that the item must have.

    Returns:
        The item, asset paths absolute; None when raster, style or item are missing, damaged or say otherwise.
    """
    beside = folder / f"{stem}.json"
    if not (beside.is_file() and (folder / f"{stem}.tif").is_file() and (folder / f"{stem}.qml").is_file()):
        return None
    try:
        item = pystac.Item.from_dict(json.loads(beside.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, pystac.STACError, pystac.STACTypeError):
        return None
    for asset in item.assets.values():
        asset.href = str((folder / asset.href).resolve())
    return item if all(item.properties.get(name) == value for name, value in wanted.items()) else None


def write_item(item: pystac.Item, path: Path) -> None:
    """Write an item beside its raster, with asset paths relative to it."""
    document = item.to_dict(include_self_link=False, transform_hrefs=False)
    for asset in document["assets"].values():
        asset["href"] = f"./{Path(asset['href']).name}"
    write_json(path, document)
