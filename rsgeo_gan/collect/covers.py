"""The class of a tile: the land cover of most of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.catalog.collecting import CoverLabels
from rsgeo_gan.errors import SourceError
from rsgeo_gan.grid import is_local
from rsgeo_gan.sample import Cover as Ground

__all__ = ["SAMPLE_LEGEND", "Covers", "majority"]

SAMPLE_LEGEND = {
    int(Ground.WATER): "water",
    int(Ground.BROADLEAF): "forest",
    int(Ground.CONIFER): "forest",
    int(Ground.GRASS): "grassland",
    int(Ground.CEREAL): "cropland",
    int(Ground.MAIZE): "cropland",
    int(Ground.RAPESEED): "cropland",
    int(Ground.BARE): "cropland",
    int(Ground.ROAD): "settlement",
    int(Ground.GARDEN): "settlement",
    int(Ground.BUILDING): "settlement",
    int(Ground.HALL): "settlement",
}
"""Classes of the embedded landscape; tracks run through all of them and count as none."""


def majority(values: np.ndarray, legend: dict[int, str]) -> tuple[str | None, float]:
    """Find the class that covers most.

    Args:
        values: Class values, any shape, NaN where nothing is known.
        legend: Class of each value; every value is its own class when empty.

    Returns:
        The class, the first in the alphabet of equal ones, and its share of all values; None and 0 where no value
        has a class.
    """
    codes, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    areas: dict[str, int] = {}
    for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
        name = legend.get(int(code)) if legend else str(int(code))
        if name is not None:
            areas[name] = areas.get(name, 0) + count
    if not areas:
        return None, 0.0
    best = min(areas, key=lambda name: (-areas[name], name))
    return best, areas[best] / values.size


@dataclass(frozen=True)
class Covers:
    """Class rasters, looked up by place.

    Attributes:
        labels: What the values mean.
        paths: The rasters; where they overlap, the first that knows counts.
        outlines: Their footprints in degrees, by place.
        digest: Of rasters and legend.
    """

    labels: CoverLabels
    paths: tuple[Path, ...]
    outlines: shapely.STRtree
    digest: str

    @classmethod
    def of(cls, labels: CoverLabels) -> Covers:
        """Find the class rasters.

        Raises:
            SourceError: If there is none.
            GridError: If one has no georeference.
        """
        root = labels.path
        assert root is not None
        paths = [root] if root.is_file() else sorted(root.glob(labels.glob)) if root.is_dir() else []
        if not paths:
            raise SourceError(
                f"{root}: expected a class raster, or a folder with some matching {labels.glob!r}, got none; correct "
                "`path` or `glob` of the labels."
            )
        outlines = [raster.inspect(path).geobox.footprint("EPSG:4326", npoints=16).geom for path in paths]
        stamps = [[str(path), path.stat().st_mtime_ns] for path in paths]
        facts = [labels.model_dump(mode="json", exclude={"path", "glob"}), stamps]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return cls(labels, tuple(paths), shapely.STRtree(outlines), digest)

    def of_box(self, box: GeoBox) -> tuple[str | None, float]:
        """Return the class of a box and its share, see `majority`; None where no raster lies or it lies nowhere."""
        if is_local(box):
            return None, 0.0
        place = box.footprint("EPSG:4326", npoints=4).geom
        found = np.full(box.shape, np.nan, np.float32)
        for position in sorted(self.outlines.query(place, predicate="intersects")):
            values = raster.warp(self.paths[position], box, bands=[1], resampling="nearest")[0]
            found = np.where(np.isnan(found), values, found)
            if not np.isnan(found).any():
                break
        return majority(found, self.labels.legend)
