"""Finding scenes and making them readable: folders, static STAC catalogues and STAC APIs alike.

`ingest` leaves one STAC item per scene in `scenes.json`. Local rasters are referred to where they lie; bands in
several files, remote files and parts of larger scenes are copied as raw values into `<out>/<scene>/data.tif`.
"""

from __future__ import annotations

from rsgeo_gan.ingest.stage import ingest

__all__ = ["ingest"]
