"""Real scenes whose truth is known: the sensor's own image, degraded as its optics would, and a reference beside it.

Under Wald's protocol everything is one scale coarser than it was: the original multispectral image is the truth, its
degraded copy the input, and the panchromatic image, degraded by the same factor, or another date is the reference.
References are registered by this package and moved in the one resampling that brings them onto the truth's grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from odc.geo.geobox import GeoBox
from torch import Tensor
from torch.nn import functional as F

from rsgeo_gan import raster
from rsgeo_gan.coregister import register
from rsgeo_gan.degrade import degrade
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.metrics import correlation
from rsgeo_gan.sensors import Sensor

MTF = 0.2
"""Contrast that is left at the Nyquist frequency of the coarse grid."""
TILE_PX = 96
_KEPT = 0.999


@dataclass(frozen=True)
class Part:
    """A piece of a scene, physical units, 0 where invalid.

    Attributes:
        low: Degraded truth, shape (1, C, h, w).
        mask_low: Its validity, shape (1, 1, h, w).
        truth: Shape (1, C, s h, s w).
        mask: Validity of truth, shape (1, 1, s h, s w).
        reference: Other image on the truth's grid, shape (1, Cr, s h, s w); None where there is none.
        mask_reference: Its validity, shape (1, 1, s h, s w).
    """

    low: Tensor
    mask_low: Tensor
    truth: Tensor
    mask: Tensor
    reference: Tensor | None = None
    mask_reference: Tensor | None = None


@dataclass(frozen=True)
class Scene:
    """Where rungs learn and where they are judged.

    Attributes:
        name: Of the set.
        train: Piece to learn from.
        test: Piece to be judged on, of another place.
        scale: Fine pixels per coarse pixel.
        common: Pairs of bands, of truth and of the reference, that show the same.
        shown: Bands of a picture, red first.
        unit: Of the values.
        notes: What was measured on the way, such as the offset of the reference.
    """

    name: str
    train: Part
    test: Part
    scale: int
    common: list[list[int]]
    shown: tuple[int, ...]
    unit: str
    notes: dict[str, float | str] = field(default_factory=dict)


def load(name: str, folder: Path, work: Path) -> Scene:
    """Prepare a scene, or take it from the work folder.

    Args:
        name: Key of `SCENES`.
        folder: Folder of the public samples.
        work: Folder for rasters that were made and for the prepared scene.
    """
    path = work / f"scene-{name}.pt"
    if not path.is_file():
        work.mkdir(parents=True, exist_ok=True)
        torch.save(SCENES[name](folder, work), path)
    found: Scene = torch.load(path, weights_only=False)
    return found


def _landsat(folder: Path, work: Path) -> Scene:
    """Landsat 8: 60 m to 30 m, the panchromatic band as the reference; clouds and all."""
    files = [folder / "sr-landsat8-ms-pan" / f"l8_B{band}.tif" for band in (2, 3, 4, 5)]
    box = raster.inspect(files[0]).geobox
    truth = 2e-5 * np.concatenate([raster.warp(path, box, nodata=0) for path in files]) - 0.1
    names = ("blue", "green", "red", "nir")
    pan = 2e-5 * _blurred(folder / "sr-landsat8-ms-pan" / "l8_B8.tif", 2) - 0.1
    pan_box = raster.inspect(folder / "sr-landsat8-ms-pan" / "l8_B8.tif").geobox
    files = [_written(work, "landsat", truth, box, names), _written(work, "landsat-pan", pan, pan_box, ("pan",))]
    reference, notes = _beside(*files, box, names, ("pan",), bands=([3], [1]), kernel="cubic")
    return Scene("Landsat 8", *_cut(truth, reference, 2, 400), 2, [[2, 0]], (2, 1, 0), "reflectance", notes)


def _rotterdam(folder: Path, work: Path) -> Scene:
    """Rotterdam: 4 m to 2 m, the panchromatic image as the reference; one scene to learn, another to judge.

    The files have 1 m, but every pixel is a linear function of its neighbours, to 290 dB: they were interpolated.
    """
    parts, notes = [], {}
    for number in (2, 1):  # A third of the second is empty.
        path, pan_path = (folder / "sr-rotterdam-ms-pan" / f"{kind}{number}.tif" for kind in ("ms", "pan"))
        box, pan_box = raster.inspect(path).geobox.zoom_out(2), raster.inspect(pan_path).geobox
        truth = raster.warp(path, box, resampling="average", nodata=0) / 2047
        pan = _blurred(pan_path, 4) / 2047
        names = ("blue", "green", "red", "nir")
        files = [
            _written(work, f"rotterdam-{number}", truth, box, names),
            _written(work, f"rotterdam-{number}-pan", pan, pan_box, ("pan",)),
        ]
        reference, found = _beside(*files, box, names, ("pan",), bands=([3], [1]), kernel="cubic")
        notes |= {f"{key} {number}": value for key, value in found.items()}
        parts.append(_part(truth, reference, 2))
    return Scene("Rotterdam", *parts, 2, [[2, 0]], (2, 1, 0), "DN / 2047", notes)


def _boadella(folder: Path, work: Path) -> Scene:
    """Boadella: June from 40 m to 10 m, January as the reference."""
    january, june = sorted((folder / "s2-timeseries-boadella").glob("*.tif"))
    box = raster.inspect(june).geobox
    names = ("blue", "green", "red", "nir")
    truth, other = (1e-4 * raster.warp(path, box, bands=[2, 3, 4, 8], nodata=0) for path in (june, january))
    files = [_written(work, "boadella", truth, box, names), _written(work, "boadella-january", other, box, names)]
    reference, notes = _beside(*files, box, names, names, bands=([3, 4], [3, 4]), kernel="cubic")
    common = [[band, band] for band in range(4)]
    return Scene("Boadella", *_cut(truth, reference, 4, 256), 4, common, (2, 1, 0), "reflectance", notes)


def _brandenburg(folder: Path, work: Path) -> Scene:
    """Brandenburg: one band from 40 m to 10 m, another orbit as the reference."""
    target, other = sorted((folder / "coreg-s2-s2-brandenburg").glob("*.jp2"))
    whole = raster.inspect(target).geobox
    box = whole[1400:1784, 1200:2040]
    truth = 1e-4 * raster.warp(target, box, nodata=0)
    reference, notes = _beside(target, other, box, ("red",), ("red",), kernel="cubic", nodata=0, gain=1e-4)
    return Scene("Brandenburg", *_cut(truth, reference, 4, 552), 4, [[0, 0]], (0,), "reflectance", notes)


def _satellogic(folder: Path, work: Path) -> Scene:
    """Two sensors of one day: Sentinel-2 as it is, 10 m, is the input; Satellogic, brought to 2.5 m, is the truth.

    There is too little to learn from, so the pieces to learn from are Boadella's: networks that learnt to go from 40 m
    to 10 m are asked to go from 10 m to 2.5 m. Truth takes on the gain and offset of the input, band by band.
    """
    fine = next((folder / "sr-satellogic-sentinel2").glob("*_TOA.tif"))
    coarse = next((folder / "sr-satellogic-sentinel2").glob("*_S2L2A.tif"))
    sharp = raster.inspect(fine).geobox[2:382, 2:382].zoom_out(2.5)  # 380 m: 38 coarse and 152 fine pixels
    truth = 1e-4 * raster.warp(fine, sharp, bands=[3, 2, 1, 4], resampling="average", nodata=0)
    found, peak = _searched(truth, coarse, sharp)
    low = 1e-4 * raster.warp(
        coarse, sharp.zoom_out(4), bands=[2, 3, 4, 8], resampling="cubic", nodata=0, displacement=found
    )
    kept = np.isfinite(low).all(axis=0)
    rows, columns = (np.flatnonzero(kept.mean(axis=k) > 0.5) for k in (1, 0))
    inside = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    within = np.s_[:, 4 * rows[0] : 4 * rows[-1] + 4, 4 * columns[0] : 4 * columns[-1] + 4]
    part = _part(truth[within], None, 4)
    real = torch.from_numpy(low[inside].astype("float32"))[None]
    seen = torch.isfinite(real).all(dim=1, keepdim=True).float()
    real = real.nan_to_num(0.0)
    gain, offset = _fit(part.low, real, seen)
    mask = part.mask * F.interpolate(seen, scale_factor=4)
    test = Part(real * seen, seen, (gain * part.truth + offset) * mask, mask)
    notes: dict[str, float | str] = {
        "dx_m": round(10 * found.dx_px, 1),
        "dy_m": round(10 * found.dy_px, 1),
        "correlation": round(peak, 3),
    }
    boadella = load("boadella", folder, work)
    return Scene("Satellogic", boadella.train, test, 4, boadella.common, (2, 1, 0), "reflectance", notes)


def _searched(truth: np.ndarray, coarse: Path, sharp: GeoBox) -> tuple[Displacement, float]:
    """Find the offset with the best correlation, to a quarter of a coarse pixel; too small a pair for `register`."""
    reach = 40
    image = torch.from_numpy(truth.astype("float32"))[None]
    low, valid = degrade(image.nan_to_num(0.0), torch.isfinite(image).all(dim=1, keepdim=True).float(), 4, MTF)
    wide = raster.warp(coarse, sharp.pad(reach), bands=[2, 3, 4, 8], resampling="cubic", nodata=0)
    other = torch.from_numpy(1e-4 * wide.astype("float32"))[None]
    box = sharp.zoom_out(4)
    best, place = -1.0, (0, 0)
    for dy in range(2 * reach + 1):
        for dx in range(2 * reach + 1):
            moved = F.avg_pool2d(other[..., dy + 1 : dy + 1 + truth.shape[1], dx + 1 : dx + 1 + truth.shape[2]], 2, 4)
            seen = valid * torch.isfinite(moved).all(dim=1, keepdim=True)
            if seen.mean() > 0.5:
                value = float(correlation(low, moved.nan_to_num(0.0), seen))
                if value > best:
                    best, place = value, (dx - reach, dy - reach)
    shift = [offset / 4 for offset in place]
    return Displacement(box, "shift", (shift[0], 0.0, 0.0, shift[1], 0.0, 0.0), 0.25, 1.0, True), best


def _fit(x: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and offset of every band that bring x to y's mean and deviation."""
    share = mask / mask.sum()
    means = [(v * share).sum(dim=(2, 3), keepdim=True) for v in (x, y)]
    spreads = [
        ((v - m).square() * share).sum(dim=(2, 3), keepdim=True).sqrt() for v, m in zip((x, y), means, strict=True)
    ]
    gain = spreads[1] / spreads[0]
    return gain, means[1] - gain * means[0]


def _beside(
    truth: Path,
    other: Path,
    box: GeoBox,
    names: tuple[str, ...],
    other_names: tuple[str, ...],
    *,
    bands: tuple[list[int], list[int]] = ([1], [1]),
    kernel: str = "bilinear",
    nodata: float | None = None,
    gain: float = 1.0,
) -> tuple[np.ndarray, dict[str, float | str]]:
    """Register another raster to the truth and bring it onto the box, NaN where it has nothing."""
    found: Displacement = register(
        truth,
        other,
        reference_sensor=_sensor(names),
        moving_sensor=_sensor(other_names),
        reference_bands=bands[0],
        moving_bands=bands[1],
    )
    moved = found if found.reliable else None
    values = gain * raster.warp(other, box, resampling=kernel, nodata=nodata, displacement=moved)
    notes: dict[str, float | str] = {"dx_px": round(found.dx_px, 2), "dy_px": round(found.dy_px, 2)}
    return values, notes if found.reliable else {"left alone": found.reason}


def _sensor(names: tuple[str, ...]) -> Sensor:
    return Sensor.generic("-".join(names), modality="optical", unit="dn", bands=list(names), nodata=0)


def _blurred(path: Path, factor: int) -> np.ndarray:
    """A panchromatic image as the optics of an instrument so many times as coarse would show it, on its own grid."""
    values, valid = raster.read(path)
    seen = valid & (values[0] > 0)
    image, mask = (torch.from_numpy(v.astype("float32"))[None] for v in (values, seen[None]))
    sigma, reach = factor / math.pi * math.sqrt(-2 * math.log(MTF)), 2 * factor
    at = torch.arange(-reach, reach + 1.0)
    taps = torch.exp(-at.square() / (2 * sigma**2))
    kernel = (taps[:, None] * taps / taps.sum() ** 2)[None, None]
    total, share = (F.conv2d(F.pad(v, (reach,) * 4, mode="replicate"), kernel) for v in (image * mask, mask))
    found = torch.where((mask > 0) & (share > 0.5), total / share.clamp_min(1e-6), torch.nan)
    return found[0].numpy()


def _written(work: Path, name: str, values: np.ndarray, box: GeoBox, names: tuple[str, ...]) -> Path:
    path = work / f"{name}.tif"
    return raster.write(path, values.astype("float32"), box, nodata=float("nan"), names=names, unit="1")


def _part(truth: np.ndarray, reference: np.ndarray | None, scale: int) -> Part:
    height, width = (side // scale * scale for side in truth.shape[-2:])
    image = torch.from_numpy(truth.astype("float32"))[None, :, :height, :width]
    mask = torch.isfinite(image).all(dim=1, keepdim=True).float()
    image = image.nan_to_num(0.0) * mask
    low, valid = degrade(image, mask, scale, MTF)
    mask = mask * F.interpolate(valid, scale_factor=scale)
    image = image * mask
    if reference is None:
        return Part(low, valid, image, mask)
    other = torch.from_numpy(reference.astype("float32"))[None, :, :height, :width]
    seen = torch.isfinite(other).all(dim=1, keepdim=True).float()
    return Part(low, valid, image, mask, other.nan_to_num(0.0) * seen, seen)


def _cut(truth: np.ndarray, reference: np.ndarray, scale: int, column: int) -> tuple[Part, Part]:
    """Divide at a column; what lies within 16 px of it is in neither part."""
    return (
        _part(truth[..., : column - 16], reference[..., : column - 16], scale),
        _part(truth[..., column:], reference[..., column:], scale),
    )


def tiles(part: Part, side: int = TILE_PX) -> list[tuple[int, int]]:
    """Corners of the tiles of a part that are wholly valid, fine pixels."""
    height, width = part.truth.shape[-2:]
    corners = [(y, x) for y in range(0, height - side + 1, side) for x in range(0, width - side + 1, side)]
    return [(y, x) for y, x in corners if part.mask[..., y : y + side, x : x + side].mean() >= _KEPT]


SCENES: dict[str, Callable[[Path, Path], Scene]] = {
    "landsat": _landsat,
    "rotterdam": _rotterdam,
    "boadella": _boadella,
    "brandenburg": _brandenburg,
    "satellogic": _satellogic,
}
