"""A tiny pair of scenes and an untrained checkpoint of the right form, for tests of generation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.grid import Grid, box_to_dict
from rsgeo_gan.manifest import Manifest, make_item
from rsgeo_gan.models import ResNetGenerator
from rsgeo_gan.sensors import Scaler

WHEN = datetime(2024, 6, 1, 10, tzinfo=UTC)
EO_BANDS = ("B02", "B03", "B04")
SAR_BANDS = ("VV", "VH")
EO_SCALER = Scaler("sentinel2-l2a", "reflectance", EO_BANDS, (0.0, 0.0, 0.0), (0.3, 0.3, 0.4))
SAR_SCALER = Scaler("sentinel1-rtc-db", "dB", SAR_BANDS, (-25.0, -32.0), (0.0, -5.0))
ORIGIN = (600000.0, 5300040.0)


def box(height: int, width: int, *, gsd: float = 10.0, origin: tuple[float, float] = ORIGIN) -> GeoBox:
    return GeoBox((height, width), Affine(gsd, 0, origin[0], 0, -gsd, origin[1]), "EPSG:32632")


def checkpoint(path: Path, *, gsd: float = 10.0, seed: int = 0, **changes) -> Path:
    """Write what `rsgeo-gan fit` writes for CycleTranslation, with tiny networks and random weights."""
    torch.manual_seed(seed)
    sizes = {"generator": (3, 2), "generator_back": (2, 3)}
    arguments = {name: {"in_channels": i, "out_channels": o, "width": 4, "blocks": 2} for name, (i, o) in sizes.items()}
    networks = {name: ResNetGenerator(**given) for name, given in arguments.items()}
    for network in networks.values():
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, 0, 0.15)
    content = {
        "state_dict": {
            f"{name}.{key}": value for name, network in networks.items() for key, value in network.state_dict().items()
        },
        "hyper_parameters": {
            name: {"class_path": "rsgeo_gan.models.ResNetGenerator", "init_args": given}
            for name, given in arguments.items()
        },
        "rsgeo_gan": {
            "format": 1,
            "task": "rsgeo_gan.tasks.CycleTranslation",
            "version": "0.1.0",
            "facts": {"source": EO_SCALER.to_dict(), "target": SAR_SCALER.to_dict(), "gsd": gsd, "radius_px": 3},
        },
    }
    content.update(changes)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def optical(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(300, 2800, (3, -(-height // 8), -(-width // 8)))
    return np.kron(coarse, np.ones((8, 8)))[:, :height, :width].astype(np.uint16)


def radar(height: int, width: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(-14, 4, (2, height, width)).astype(np.float32)


@dataclass
class Run:
    """What the stages before generation leave, in memory and on disk."""

    folder: Path
    scenes: Manifest
    pairs: Manifest
    tiles: Manifest
    grid: Grid
    checkpoint: Path

    @property
    def arguments(self) -> dict:
        return {
            "scenes": self.scenes,
            "tiles": self.tiles,
            "checkpoint": self.checkpoint,
            "out": self.folder / "products",
            "grid": self.grid,
            "pairs": self.pairs,
            "directions": ["source_to_target"],
            "window_px": 64,
        }

    def add_optical(self, name: str, array: np.ndarray, at: GeoBox, **properties) -> Path:
        path = self.folder / "scenes" / f"{name}.tif"
        raster.write(path, array, at, nodata=0, names=EO_BANDS)
        facts = {
            "rsgeo:sensor": "sentinel2-l2a",
            "rsgeo:side": "source",
            "rsgeo:offset_dn": 0,
            "rsgeo:bands": list(EO_BANDS),
            "rsgeo:band_indexes": [1, 2, 3],
        }
        self.scenes.add(make_item(name, at, when=WHEN, properties=facts | properties, assets={"data": path}))
        return path

    def add_radar(self, name: str, array: np.ndarray, at: GeoBox, **properties) -> Path:
        path = self.folder / "scenes" / f"{name}.tif"
        raster.write(path, array, at, nodata=float("nan"), names=SAR_BANDS, unit="dB")
        facts = {
            "rsgeo:sensor": "sentinel1-rtc-db",
            "rsgeo:side": "target",
            "rsgeo:bands": list(SAR_BANDS),
            "rsgeo:band_indexes": [1, 2],
        }
        self.scenes.add(make_item(name, at, when=WHEN, properties=facts | properties, assets={"data": path}))
        return path

    def add_pair(self, source: str, target: str, displacement: Displacement) -> None:
        item = make_item(
            f"{source}_{target}",
            displacement.geobox,
            when=WHEN,
            properties={
                "rsgeo:source_item": source,
                "rsgeo:target_item": target,
                "rsgeo:reference": "source",
                "rsgeo:displacement": displacement.to_dict(),
                "rsgeo:reliable": displacement.reliable,
            },
            assets={},
        )
        self.pairs.add(item)


def run(folder: Path, height: int = 150, width: int = 171) -> Run:
    """Make one optical scene of odd size with a nodata wedge, one SAR scene, their pair, a checkpoint."""
    at = box(height, width)
    made = Run(
        folder,
        Manifest(folder / "scenes" / "scenes.json"),
        Manifest(folder / "pairs" / "pairs.json"),
        Manifest(folder / "tiles" / "tiles.json"),
        Grid("EPSG:32632", 10.0, 64, ORIGIN),
        checkpoint(folder / "models" / "toy.ckpt"),
    )
    array = optical(height, width)
    array[:, np.tri(height, width, k=-height // 2, dtype=bool)] = 0
    made.add_optical("eo", array, at)
    made.add_radar("sar", radar(height, width), at)
    made.add_pair("eo", "sar", Displacement(at, "shift", (2.0, 0, 0, -1.0, 0, 0), 0.2, 0.9, True, 50, ""))
    return made


__all__ = [
    "EO_BANDS",
    "EO_SCALER",
    "SAR_BANDS",
    "SAR_SCALER",
    "Run",
    "box",
    "box_to_dict",
    "checkpoint",
    "optical",
    "radar",
    "run",
]
