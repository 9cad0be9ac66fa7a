"""Makes a finer scene of one raster given by hand: see what fits, register references, then make the product."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.coregister.remembered import Remembered
from rsgeo_gan.errors import CheckpointError, ProductError, SourceError
from rsgeo_gan.grid import pixel_m
from rsgeo_gan.inference.checkpoints import TRUSTED
from rsgeo_gan.inference.references import MAX_SHIFT_PX, file_side, registered
from rsgeo_gan.inference.sharp import WINDOW_PX, make
from rsgeo_gan.inference.sharpfiles import Sharp, check_replaceable, paths_of
from rsgeo_gan.inference.superresolver import SuperResolver
from rsgeo_gan.manifest import check_writable
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.raster import GDAL_CACHE_MIB
from rsgeo_gan.sensors import get_sensor
from rsgeo_gan.stacks import stack

__all__ = ["Raster", "superres"]

Raster = Path | str | Sequence[Path | str]
"""A raster, or the one-band files that make one."""

_GSD_TOLERANCE = 0.05


def superres(
    scene: Raster,
    checkpoint: Path | str,
    out: Path | str,
    *,
    references: Sequence[Raster] = (),
    sensor: str | None = None,
    bands: Sequence[int] | None = None,
    reference_bands: Sequence[int] | None = None,
    offset_dn: float = 0.0,
    alone: bool = False,
    align: bool = True,
    max_shift_px: float = MAX_SHIFT_PX,
    uncertainty: int = 4,
    window_px: int = WINDOW_PX,
    trusted: Sequence[str] = TRUSTED,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    progress: Progress = silent,
) -> Sharp:
    """Make a finer scene of a raster.

    Args:
        scene: The raster, of the sensor and pixel size the network was trained on; or its one-band files in order.
        checkpoint: Checkpoint of a super-resolution.
        out: The COG to write, `*.tif`; style, STAC item and side products go beside it.
        references: Sharper rasters of the same place, any CRS and extent; each may be several one-band files.
        sensor: Name of the scene's sensor; the checkpoint's when None.
        bands: Which bands of the scene are meant, counted from 1, when names do not tell.
        reference_bands: The same for the references.
        offset_dn: Radiometric offset added to valid DNs of the scene (Sentinel-2 since baseline 04.00: -1000), where
            the file itself tells none.
        alone: Do without references although the network was trained with some.
        align: Measure where the references' content lies; else their georeference is trusted.
        max_shift_px: Largest displacement looked for, pixels of the scene.
        uncertainty: Turned copies whose spread is written, 2 to 8; 0 for no such file.
        window_px: Side of a window's core, pixels of the scene.
        trusted: Packages whose networks the checkpoint may name.
        device: Torch device, or "auto" for a GPU where there is one.
        precision: "bf16" computes in mixed precision; seams then stay below its rounding.
        progress: Receives finished and all strips.

    Returns:
        The product; the one that is there when it was made from the same inputs.

    Raises:
        CatalogError: If there is no such device.
        CheckpointError: If the checkpoint is not usable, or does not fit scene or references.
        SourceError: If a raster cannot be read, or a reference does not overlap the scene.
        GridError: If a raster has no usable georeference.
        ProductError: If the product cannot be written.
    """
    out = Path(out)
    _check_out(out, [file for one in (scene, *references) for file in _files(one)])
    image = _as_one(scene, out, "scene")
    sharp = [_as_one(one, out, f"reference-{number}") for number, one in enumerate(references, start=1)]
    resolver = SuperResolver.load(checkpoint, trusted=trusted, device=device, precision=precision)
    _check_references(resolver, sharp, checkpoint, alone=alone)
    facts = resolver.facts
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MIB << 20, GDAL_NUM_THREADS="ALL_CPUS"):
        known = facts.sensor("source")
        if sensor is not None:
            known = get_sensor(sensor)
        side = file_side(image, facts.source, known, "scene", numbers=bands, offset_dn=offset_dn)
        box = raster.inspect(image).geobox
        _check_size(box, resolver, image)
        remembered = Remembered(out.with_name(f"{out.stem}_registered.json") if sharp and align else None)
        found = [
            registered(
                path,
                side,
                facts.reference or facts.target,
                facts.sensor("reference" if facts.reference else "target"),
                numbers=reference_bands,
                common=facts.common if facts.source.bands == facts.target.bands else (),
                align=align,
                max_shift_px=max_shift_px,
                remembered=remembered,
            )
            for path in sharp
        ]
        return make(out, side, box, found, resolver, uncertainty=uncertainty, window_px=window_px, progress=progress)


def _files(given: Raster) -> list[Path | str]:
    return [given] if isinstance(given, Path | str) else list(given)


def _as_one(given: Raster, out: Path, name: str) -> Path | str:
    """Return one raster; several one-band files are shown as one by a VRT beside the product."""
    files = _files(given)
    return files[0] if len(files) == 1 else stack(files, out.with_name(f"{out.stem}_{name}.vrt"))


def _check_out(out: Path, inputs: Sequence[Path | str]) -> None:
    """See whether the product can be written where it is wanted, before anything costly is done."""
    if out.suffix != ".tif":
        raise ProductError(f"{out}: expected the name of a GeoTIFF that ends in .tif. Choose another --out.")
    written = {path.resolve() for path in paths_of(out)}
    for path in inputs:
        if Path(path).resolve() in written:
            raise ProductError(f"{path} is both an input and a result to be written. Choose another --out.")
    check_writable(out.parent)
    check_replaceable(out)


def _check_references(
    resolver: SuperResolver, references: Sequence[Path | str], checkpoint: Path | str, *, alone: bool
) -> None:
    """See whether references are given where they are taken."""
    if references and alone:
        raise CheckpointError(
            f"{checkpoint}: expected references or --alone, got both ({len(references)} references). Leave one of the "
            "two out."
        )
    if references and not resolver.takes_reference:
        raise CheckpointError(
            f"{checkpoint}: its network takes no reference, got {len(references)}. Leave --reference out, or train "
            "with ReferenceSuperResolution."
        )
    if not references and resolver.takes_reference and not alone:
        raise CheckpointError(
            f"{checkpoint}: its network was trained with a reference, got none. Give a sharper image of the same place "
            "(--reference), or say that it has to do without (--alone)."
        )


def _check_size(box: GeoBox, resolver: SuperResolver, scene: Path | str) -> None:
    """See whether a scene is large enough, and its pixels are those the network was trained on."""
    height, width = box.shape
    if min(box.shape) < resolver.least_px:
        raise SourceError(
            f"{scene} has {width} x {height} pixels; expected at least {resolver.least_px} along each side, since "
            "references are compared by patches. Give a larger part of the scene."
        )
    facts, here = resolver.facts, pixel_m(box)
    plain = float(np.hypot(box.affine.a, box.affine.d)), float(np.hypot(box.affine.b, box.affine.e))
    wanted = facts.gsd_m or (facts.gsd, facts.gsd)
    if _alike(here, wanted) or _alike(plain, (facts.gsd, facts.gsd)):
        return
    finer = " x ".join(dict.fromkeys(f"{side / resolver.scale:g}" for side in wanted))
    raise CheckpointError(
        f"{scene}: pixels of {here[0]:g} x {here[1]:g} m do not fit: the network was trained to divide pixels of "
        f"{' x '.join(dict.fromkeys(f'{side:g}' for side in wanted))} by {resolver.scale} (to {finer}). Give a scene "
        "of that pixel size, or train for this one."
    )


def _alike(sizes: tuple[float, float], wanted: tuple[float, float]) -> bool:
    return all(abs(size / want - 1) <= _GSD_TOLERANCE for size, want in zip(sizes, wanted, strict=True))
