"""Tiny rasters, STAC documents and loopback servers that stand for providers."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import uvicorn
import yaml
from affine import Affine
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster

__all__ = [
    "BOX",
    "WHEN",
    "catalogue",
    "decibel",
    "dn",
    "free_port",
    "item",
    "served",
    "static_catalogue",
    "write",
]

BOX = GeoBox((96, 128), Affine(10.0, 0, 600_000.0, 0, -10.0, 5_200_000.0), "EPSG:32632")
WHEN = datetime(2024, 6, 1, 10, 20, tzinfo=UTC)


def dn(bands: int = 4, *, low: int = 1100, high: int = 4000, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Optical DN between two values, every pixel different from its neighbours."""
    rows, columns = shape or BOX.shape
    rng = np.random.default_rng(5)
    return rng.integers(low, high, (bands, rows, columns)).astype(np.uint16)


def decibel(bands: int = 2) -> np.ndarray:
    """SAR in dB, float32."""
    rng = np.random.default_rng(6)
    return rng.uniform(-22, -4, (bands, *BOX.shape)).astype(np.float32)


def write(path: Path, values: np.ndarray, box: GeoBox = BOX, **facts: Any) -> Path:
    """Write a plain GeoTIFF."""
    return raster.write(path, values, box, **{"cog": False, "compress": "deflate", **facts})


def catalogue(path: Path, source: Mapping[str, Any], target: Mapping[str, Any], **more: Any) -> Path:
    """Write a catalogue file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"name": "toy", "source": dict(source), "target": dict(target), **more}))
    return path


def item(
    item_id: str,
    assets: Mapping[str, Path | str],
    *,
    when: datetime = WHEN,
    box: GeoBox = BOX,
    collection: str | None = None,
    properties: Mapping[str, Any] | None = None,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
) -> pystac.Item:
    """Describe rasters as a STAC item."""
    footprint = box.footprint("EPSG:4326")
    bounds = footprint.boundingbox
    made = pystac.Item(
        item_id,
        footprint.json,
        [bounds.left, bounds.bottom, bounds.right, bounds.top],
        when,
        dict(properties or {}),
        collection=collection,
    )
    for key, href in assets.items():
        made.add_asset(key, pystac.Asset(str(href), extra_fields=dict((fields or {}).get(key, {}))))
    return made


def static_catalogue(folder: Path, items: Sequence[pystac.Item | Mapping[str, Any]]) -> Path:
    """Write items as a static catalogue, each in a file of its own; plain mappings are written as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    links = []
    for number, entry in enumerate(items):
        name = f"item-{number}.json"
        document = entry if isinstance(entry, Mapping) else entry.to_dict(include_self_link=False)
        (folder / name).write_text(json.dumps(document))
        links.append({"rel": "item", "href": f"./{name}", "type": "application/geo+json"})
    root = {"type": "Catalog", "stac_version": "1.0.0", "id": "toy", "description": "toy", "links": links}
    path = folder / "catalog.json"
    path.write_text(json.dumps(root))
    return path


def free_port() -> int:
    """Return a port of loopback that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an ASGI application on loopback; yields its address."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        if time.monotonic() > deadline:
            raise TimeoutError("the loopback server did not start")
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
