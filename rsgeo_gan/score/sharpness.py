"""Compares finer images with the truth, beside interpolation of the same low-resolution image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rsgeo_gan import raster
from rsgeo_gan.manifest import Manifest, asset_path, item_box
from rsgeo_gan.metrics import ergas, psnr, spectral_angle, ssim
from rsgeo_gan.optics import thinned
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.report.measures import DATA_RANGE
from rsgeo_gan.report.scoring import analysis, units_of
from rsgeo_gan.report.superres import interpolated

__all__ = ["score_sharp"]

_NORMAL_95 = 1.959964
_WINDOW_PX = 11


def score_sharp(tiles: Manifest, products: Manifest, *, progress: Progress = silent) -> list[dict[str, str]]:
    """Score products of tiles, and bicubic interpolation, against the tiles' images, in physical units.

    PSNR, structural similarity, spectral angle and ERGAS compare with the truth, on pixels that both have; consistency
    is the mean absolute difference between the low-resolution image and what its instrument would see of the image:
    blurred as it was made, or averaged over each coarse pixel where it is a real one.

    Args:
        tiles: Tiles, with an asset `image`.
        products: Products, each with the property `rsgeo:tile` and the asset `low`.
        progress: Receives finished and all products.

    Returns:
        A row a method, text by heading; each value with a 95 % interval over tiles.

    Raises:
        SourceError: If an image cannot be read.
    """
    found: dict[str, list[Mapping[str, float]]] = {"bicubic": [], "product": []}
    for number, item in enumerate(products, start=1):
        tile = tiles.get(str(item.properties["rsgeo:tile"]))
        box, path = item_box(tile), asset_path(tile, "image")
        truth, product = (analysis(each, box) for each in (path, asset_path(item, "data")))
        low_path = asset_path(item, "low")
        low = analysis(low_path, raster.inspect(low_path).geobox)
        limits = DATA_RANGE[units_of(raster.inspect(path))]
        for name, image in (("bicubic", interpolated(low, item.properties["rsgeo:scale"])), ("product", product)):
            found[name].append(_scores(image, truth, low, limits, item.properties.get("rsgeo:degradation")))
        progress("score", number, len(products))
    return [{"method": name, **_summary(rows)} for name, rows in found.items() if rows]


def _scores(
    image: np.ndarray, truth: np.ndarray, low: np.ndarray, limits: float, degradation: Mapping[str, Any] | None
) -> dict[str, float]:
    scale = image.shape[1] // low.shape[1]
    seen = np.isfinite(image).all(axis=0) & np.isfinite(truth).all(axis=0)
    mask = torch.from_numpy(seen[None, None].astype(np.float32))
    made, true = (torch.from_numpy(np.where(seen, each, np.float32(0)))[None] for each in (image, truth))
    rows = {"PSNR, dB": float(psnr(made, true, limits, mask))}
    if min(seen.shape) >= _WINDOW_PX:
        rows["SSIM"] = float(ssim(made, true, limits, mask))
    if len(image) > 1:
        rows["spectral angle, °"] = float(spectral_angle(made, true, mask))
    rows["ERGAS"] = float(ergas(made, true, scale, mask))
    apart = np.abs(_seen_again(image, scale, (degradation or {}).get("mtf")) - low)
    rows["consistency"] = float(apart[np.isfinite(apart)].mean()) if np.isfinite(apart).any() else math.nan
    return rows


def _seen_again(image: np.ndarray, scale: int, mtf: float | Sequence[float] | None) -> np.ndarray:
    """What an instrument sees of an image (C, H, W): blurred by one contrast or one a band, or plain means."""
    contrasts = list(mtf) if isinstance(mtf, Sequence) else [mtf] * len(image)
    return np.concatenate([thinned(band[None], scale, each) for band, each in zip(image, contrasts, strict=True)])


def _summary(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean and 95 % interval of each score over tiles."""
    told = {}
    for name in rows[0]:
        values = np.array([row.get(name, math.nan) for row in rows])
        values = values[np.isfinite(values)]
        if values.size:
            spread = _NORMAL_95 * values.std(ddof=1) / math.sqrt(values.size) if values.size > 1 else math.nan
            told[name] = f"{values.mean():.4g}" + (f" ± {spread:.2g}" if math.isfinite(spread) else "")
    return {"tiles": str(len(rows)), **told}
