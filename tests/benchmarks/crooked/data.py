"""Tiles that lie exactly, and a data module that puts them crooked by a known displacement a tile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from rsgeo_gan import raster
from rsgeo_gan.chain import Job, prepare, run_stage
from rsgeo_gan.datamodules import PairDataModule
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.grid import box_from_dict
from rsgeo_gan.manifest import Manifest, asset_path, item_box
from rsgeo_gan.sample import make

MARGIN_PX = 12
"""Pixels read around a patch so that it can be cut where the displacement says."""
SCENE_PX = 1024
TRAIN_SEED, TEST_SEED = 7, 23


@dataclass(frozen=True)
class Data:
    """Tiles to train on and tiles to be judged on.

    Attributes:
        train: Manifest of the training tiles.
        test: Manifest of the tiles of other places.
        residual_px: Misalignment the training pairs have before any is put in, pixels; 0 where it is known.
    """

    train: Path
    test: Path
    residual_px: float = 0.0


def sample(work: Path) -> Data:
    """Two invented landscapes of two dates each, radar on the optical grid, not displaced."""
    return Data(*(_sample_tiles(work / f"sample-{seed}", seed) for seed in (TRAIN_SEED, TEST_SEED)))


def bands(tiles: Path) -> tuple[int, int]:
    """Count the bands of both sides."""
    first = next(iter(Manifest.read(tiles)))
    source, target = (raster.inspect(Path(asset_path(first, side))).count for side in ("source", "target"))
    return source, target


def _sample_tiles(work: Path, seed: int) -> Path:
    scenes = make(work / "scenes", size_px=SCENE_PX, seed=seed, n_dates=2)
    for number in (1, 2):
        suffix = f"-{number}" if number > 1 else ""
        with rasterio.open(scenes.parent / "truth" / f"target{suffix}.tif") as truth:
            speckled, box = truth.read([3, 4]), raster.inspect(Path(truth.name)).geobox
        day = ("20240513", "20240618")[number - 1]
        raster.write(work / "radar" / f"{day}.tif", speckled, box, nodata=float("nan"), names=("VV", "VH"), unit="1")
    source = {
        "kind": "stac",
        "url": str(scenes),
        "collection": "sample-s2",
        "sensor": "sentinel2-l2a",
        "bands": ["B02", "B03", "B04", "B08"],
    }
    target = {"kind": "folder", "path": str(work / "radar"), "sensor": "sentinel1-rtc", "bands": ["VV", "VH"]}
    return _cut_tiles(work, source, target, known=True)


def real(work: Path, folder: Path) -> Data:
    """Optical and SAR chips in display values, co-registered by this package; every third chip is judged, not learnt.

    Args:
        work: Folder for tiles.
        folder: Chips named `l*` and `i*`, ending in `_s2rgb.tif` and `_s1vh.tif`.
    """
    source, target = (
        {
            "kind": "folder",
            "path": str(folder.resolve()),
            "glob": f"[li]*_{kind}.tif",
            "sensor": sensor,
            "file_bands": names,
            "datetime": day,
        }
        for kind, sensor, names, day in (
            ("s2rgb", "sentinel2-display", ["red", "green", "blue"], "2020-11-04"),
            ("s1vh", "sentinel1-display", ["VH"], "2020-11-07"),
        )
    )
    tiles = Manifest.read(_cut_tiles(work / "real", source, target, known=False))
    chips = sorted({_chip(item) for item in tiles})
    parts = {name: Manifest.open(tiles.path.with_name(f"{name}.json")) for name in ("learnt", "judged")}
    for item in tiles:
        part = parts["judged" if chips.index(_chip(item)) % 3 == 2 else "learnt"]
        if item.id not in part:
            part.add(item)
    for part in parts.values():
        part.save()
    known = [item.properties.get("rsgeo:residual_px") for item in parts["learnt"]]
    residual = float(np.median([value for value in known if value is not None]))
    return Data(parts["learnt"].path, parts["judged"].path, residual_px=residual)


def _chip(item: Any) -> str:
    return str(item.id).split("__")[0]


def _cut_tiles(work: Path, source: dict[str, Any], target: dict[str, Any], *, known: bool) -> Path:
    """Run the chain up to the tiles; `known` pairs lie exactly and are not measured."""
    tiles = work / "out" / "tiles" / "tiles.json"
    if tiles.is_file():
        return tiles
    catalog = {
        "name": work.name,
        "grid": {"crs": "auto", "gsd_m": 10, "tile_px": 128},
        "source": source,
        "target": target,
        "pairing": {"max_gap_days": 4},
        "tiling": {"min_valid": 0.5, "val_share": 0.0, "test_share": 0.0, "buffer_px": 0},
    }
    path = work / "catalog.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(catalog), encoding="utf-8")
    job = Job(str(path), str(work / "out"))
    prepare(job)
    for stage in ("ingest", "coregister"):
        run_stage(stage, job)
    if known:
        _straighten(work / "out" / "pairs" / "pairs.json")
    run_stage("tile", job)
    return tiles


def _straighten(path: Path) -> None:
    """Replace what was measured by the truth: no displacement, no doubt."""
    pairs = Manifest.read(path)
    for pair in pairs:
        measured = pair.properties["rsgeo:displacement"]
        none = Displacement.none(box_from_dict(measured["geobox"]), reason="known", reliable=True, sigma_px=0.0)
        pair.properties |= {"rsgeo:displacement": none.to_dict(), "rsgeo:reliable": True}
        pair.properties |= {"rsgeo:residual_px": 0.0, "rsgeo:confidence": 1.0}
    pairs.save()


class CrookedPairs(PairDataModule):
    """Patches whose target is displaced by a constant per tile.

    Args:
        level_px: Length of the displacements, pixels. Directions are spread evenly over the circle, and those of a
            place's dates are opposite, so that displacements sum to zero at every place: what drifts has drifted by
            itself. Each is rounded to whole pixels, so nothing is resampled.
        smooth: Displace by a smooth field of that RMS length instead, resampled bilinearly.
        patch_size: Side of a patch that networks see, pixels.
        **others: Of `PairDataModule`.
    """

    def __init__(self, level_px: float = 0.0, smooth: bool = False, patch_size: int = 64, **others: Any) -> None:
        super().__init__(patch_size=patch_size + 2 * MARGIN_PX, **others)
        self.inner_px = patch_size
        self.level_px = level_px
        self.smooth = smooth

    def setup(self, stage: str) -> None:
        """Draw a displacement for every tile."""
        super().setup(stage)
        corners = [tuple(item_box(item).affine)[:6] for item in Manifest.read(Path(self.tiles))]
        places = list(dict.fromkeys(corners))
        order = np.random.default_rng(self.seed).permutation(len(places))
        dates = [corners[:number].count(corner) for number, corner in enumerate(corners)]
        angles = np.array(
            [
                2 * np.pi * (order[places.index(corner)] + 0.5) / len(places) + np.pi * date
                for corner, date in zip(corners, dates, strict=True)
            ]
        )
        moved = self.level_px * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        self.moved_px = torch.from_numpy(moved if self.smooth else np.round(moved)).float()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Cut the source at the centre and the target where its content then seems to have moved."""
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        shifts = self.moved_px[batch["tile"].cpu()]
        for name in ("image", "mask_valid", "mask_confidence"):
            batch[name] = _cut(batch[name], torch.zeros_like(shifts), self.inner_px)
        for name in ("image_target", "mask_valid_target"):
            if self.smooth:
                batch[name] = _bent(batch[name], shifts, batch["origin_px"], nearest=name.startswith("mask"))
                batch[name] = _cut(batch[name], torch.zeros_like(shifts), self.inner_px)
            else:
                batch[name] = _cut(batch[name], shifts, self.inner_px)
        return batch


def _cut(image: Tensor, shifts: Tensor, side: int) -> Tensor:
    corners = (MARGIN_PX - shifts).int().tolist()
    return torch.stack([part[:, y : y + side, x : x + side] for part, (x, y) in zip(image, corners, strict=True)])


def _bent(image: Tensor, shifts: Tensor, origins: Tensor, *, nearest: bool) -> Tensor:
    """Displace by a field of one wave per 128 px and axis around the tile's own direction."""
    height, width = image.shape[-2:]
    rows = torch.arange(height, device=image.device) + origins[:, 1:2]
    columns = torch.arange(width, device=image.device) + origins[:, :1]
    wave = torch.sin(2 * np.pi * rows / 128)[:, :, None] * torch.sin(2 * np.pi * columns / 128)[:, None, :]
    dx, dy = (2 * wave * shift[:, None, None] for shift in shifts.to(image.device).unbind(1))
    x = torch.arange(width, device=image.device) - dx
    y = torch.arange(height, device=image.device)[:, None] - dy
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(image, grid.to(image.dtype), mode=mode, padding_mode="border", align_corners=True)
