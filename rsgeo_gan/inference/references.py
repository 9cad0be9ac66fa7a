"""Rasters given by hand, read as a checkpoint's sides: a scene by its bands and unit, a reference after registration.

A reference is measured against the scene, which gives the geometry, and brought onto the finer grid window by window:
reprojection, displacement and regridding are one resampling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp

from rsgeo_gan import raster
from rsgeo_gan.catalog.guess import match_bands
from rsgeo_gan.collect.pictures import NO_DATE
from rsgeo_gan.coregister.inputs import sample
from rsgeo_gan.coregister.remembered import Remembered
from rsgeo_gan.coregister.views import View, default_bands
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import CheckpointError, SourceError
from rsgeo_gan.grid import divided, fineness, pixels_in, sharpness
from rsgeo_gan.inference.streaming import SceneReader
from rsgeo_gan.ingest.checks import Declined
from rsgeo_gan.ingest.folder import told_date
from rsgeo_gan.manifest import item_box, make_item
from rsgeo_gan.sensors import Scaler, Sensor, get_sensor
from rsgeo_gan.tiling import Side

__all__ = ["MAX_SHIFT_PX", "Reference", "References", "file_side", "registered"]

MAX_SHIFT_PX = 12.0
"""Largest displacement of a reference that is looked for, in pixels of the scene."""

_OUTLINE = 32
_BRIGHTEST = 2.0
_NO_FINER = 1.1
_SHARP_ENOUGH = 1.5


def file_side(
    path: Path | str,
    scaler: Scaler,
    sensor: Sensor | None,
    role: str,
    *,
    numbers: Sequence[int] | None = None,
    offset_dn: float = 0.0,
    checked: bool = True,
) -> Side:
    """Describe a raster as a side with the bands of a scaler, in its order and unit.

    Bands are found by their names; a file without names has to hold exactly the wanted bands. Scale and offset that
    the file declares replace those of the sensor; numbers of floating point that are reflectance already are taken as
    they are, although the sensor delivers whole numbers.

    Args:
        path: The raster.
        scaler: Bands and unit of the checkpoint.
        sensor: Whose image it is; a plain one of the scaler's unit when None.
        role: "scene" or "reference", for messages.
        numbers: Which bands of the file the wanted ones are, counted from 1, when names do not tell.
        offset_dn: Radiometric offset added to valid DNs, where the file declares none.
        checked: Compare values with the declared unit.

    Raises:
        CheckpointError: If bands or unit are not those of the checkpoint.
        SourceError: If the file cannot be read, or contradicts its unit.
        GridError: If it has no usable georeference.
    """
    info = raster.inspect(path)
    facts = sensor or _plain(scaler)
    if facts.analysis_unit != scaler.unit:
        raise CheckpointError(
            f"{path}: the checkpoint was trained on {scaler.unit} ({scaler.sensor}), the {role} is given as "
            f"{facts.analysis_unit} ({facts.name}); give a {role} of that unit, or train on this sensor."
        )
    indexes = _indexes(info, scaler, facts, role, numbers)
    facts = _scaled(facts.select(scaler.bands), info, indexes)
    told = any((info.scales[i - 1], info.offsets[i - 1]) != (1.0, 0.0) for i in indexes)
    offset_dn = 0.0 if told else offset_dn
    if checked:
        values = sample(str(path), info, indexes)
        if not told:
            facts = _as_reflectance(facts, info, values)
        facts.check_units(values, f"{role} {path}", offset_dn=offset_dn)
    try:
        when = told_date(Path(path)) if Path(path).is_file() else None
    except Declined:
        when = None
    item = make_item(
        "scene",
        info.geobox,
        when=when or NO_DATE,
        properties={"rsgeo:sensor": facts.name, "rsgeo:offset_dn": offset_dn, "rsgeo:dated": when is not None},
        assets={"data": Path(path).resolve() if Path(path).exists() else str(path)},
    )
    item.id = Path(path).stem
    return Side(item, facts, indexes, Displacement.none(info.geobox, reason="reference"))


def _plain(scaler: Scaler) -> Sensor:
    """A sensor of which nothing but unit and bands is known."""
    modality = "sar" if scaler.unit == "dB" else "optical"
    unit = {"reflectance": "reflectance", "dB": "dB", "display": "display"}[scaler.unit]
    facts: dict[str, Any] = {"name": scaler.sensor, "modality": modality, "unit": unit, "bands": scaler.bands}
    return get_sensor(facts)


def _indexes(
    info: raster.RasterInfo, scaler: Scaler, sensor: Sensor, role: str, numbers: Sequence[int] | None
) -> tuple[int, ...]:
    """Say which bands of a file are the wanted ones."""
    wanted, path = scaler.bands, info.path
    said = f"the {len(wanted)} band{'s' if len(wanted) > 1 else ''} {', '.join(wanted)}"
    option = "--bands" if role == "scene" else "--reference-bands"
    if numbers is not None:
        if len(numbers) != len(wanted) or any(not 1 <= number <= info.count for number in numbers):
            raise CheckpointError(
                f"{path}: {option} {','.join(map(str, numbers))}: expected {len(wanted)} numbers from 1 to "
                f"{info.count}, one for each of {', '.join(wanted)}. Correct the option."
            )
        return tuple(numbers)
    found = match_bands(sensor, info.names)
    if all(name in found for name in wanted):
        return tuple(found.index(name) + 1 for name in wanted)
    with raster.opened(path) as dataset:
        shown = [i for i, kind in enumerate(dataset.colorinterp, start=1) if kind != ColorInterp.alpha]
    if not any(found) and len(shown) == len(wanted):
        return tuple(shown)
    named = ", ".join(name or "-" for name in info.names)
    if any(found):
        missing = ", ".join(name for name in wanted if name not in found)
        raise CheckpointError(
            f"{path}: the checkpoint's {role} has {said}, the file has {named}; missing {missing}. Give a file with "
            f"them, or say by number which of its bands they are ({option})."
        )
    more = "more bands than the checkpoint knows" if len(shown) > len(wanted) else "too few bands"
    raise CheckpointError(
        f"{path}: {more}: expected {said}, got {len(shown)} without such names ({named}). Say by number which of them "
        f"are meant ({option} {','.join(map(str, range(1, len(wanted) + 1)))}), or train on these."
    )


def _scaled(sensor: Sensor, info: raster.RasterInfo, indexes: Sequence[int]) -> Sensor:
    """A sensor with the scale and offset that a file declares, where it declares any."""
    told = {(info.scales[i - 1], info.offsets[i - 1]) for i in indexes}
    if told == {(1.0, 0.0)} or sensor.analysis_unit != "reflectance":
        return sensor
    if len(told) > 1:
        raise SourceError(
            f"{info.path}: its bands have different scales and offsets ({sorted(told)}): expected one for all. Bring "
            "them to one scale first (gdal_translate -unscale -ot Float32)."
        )
    ((scale, offset),) = told
    return replace(sensor, scale=scale, offset=offset)


def _as_reflectance(sensor: Sensor, info: raster.RasterInfo, values: np.ndarray) -> Sensor:
    """A sensor of reflectance where whole numbers were expected, but a file holds what must be reflectance already."""
    found = values[np.isfinite(values)]
    if sensor.unit != "dn" or not sensor.physical or np.dtype(info.dtype).kind != "f" or not found.size:
        return sensor
    if not 0 < float(np.quantile(found, 0.99)) <= _BRIGHTEST:
        return sensor
    nodata = sensor.nodata if info.nodata is None else None
    return replace(sensor, unit="reflectance", scale=1.0, offset=0.0, nodata=nodata)


@dataclass(frozen=True)
class Reference:
    """A sharp image of the same place, ready to be read on the finer grid.

    Attributes:
        side: The raster, its bands and the displacement that is applied.
        measured: What registration found, applied or not; None where the reference lies where it should already.
        fineness: Its pixels along a side of one of the scene's; NaN where that is not known.
    """

    side: Side
    measured: Displacement | None = None
    fineness: float = math.nan

    def notes(self, scale: int) -> Iterator[str]:
        """Say what a person should know of it, for a product with pixels that many times as fine as the scene's."""
        found, name = self.measured, Path(self.side.path).name
        if found is not None and not found.reliable:
            yield (
                f"Reference {name}: its displacement could not be measured ({found.reason}); its own georeference was "
                "trusted."
            )
        if self.fineness < _NO_FINER:
            yield f"Reference {name}: its pixels are no finer than the scene's, so it can add no detail."
        elif self.fineness * _SHARP_ENOUGH < scale:
            yield (
                f"Reference {name}: its pixels are {scale / self.fineness:.1f} times as wide as the product's, so it "
                "cannot add all the detail that there is room for."
            )

    def told(self) -> dict[str, Any]:
        """Say in plain JSON types what is known about its place."""
        name = Path(self.side.path).name
        if self.measured is None:
            return {"reference": name, "registered": False}
        found = self.measured
        return {
            "reference": name,
            "registered": True,
            "applied": found.reliable,
            "dx_px": round(found.dx_px, 3),
            "dy_px": round(found.dy_px, 3),
            "sigma_px": round(found.sigma_px, 3) if math.isfinite(found.sigma_px) else None,
            "confidence": round(found.confidence, 3),
            "reason": found.reason,
        }


def registered(
    path: Path | str,
    scene: Side,
    scaler: Scaler,
    sensor: Sensor | None,
    *,
    numbers: Sequence[int] | None = None,
    common: Sequence[tuple[int, int]] = (),
    align: bool = True,
    max_shift_px: float = MAX_SHIFT_PX,
    remembered: Remembered | None = None,
) -> Reference:
    """Look at a reference and measure where its content lies relative to the scene.

    Where nothing certain can be measured its own georeference is trusted, and the reason kept.

    Args:
        path: The reference.
        scene: The scene, which gives the geometry.
        scaler: Bands and unit of the checkpoint's references.
        sensor: The reference's sensor.
        numbers: Which bands of the file are meant, counted from 1.
        common: Pairs of a band of the scene and one of the reference that show the same, counted from 0.
        align: Measure; else the georeference is trusted.
        max_shift_px: Largest displacement looked for, pixels of the scene.
        remembered: Measures displacements, and knows those of earlier calls.

    Raises:
        SourceError: If the reference does not overlap the scene.
        CheckpointError, GridError: As `file_side`.
    """
    side = file_side(path, scaler, sensor, "reference", numbers=numbers)
    here, there = raster.inspect(scene.path).geobox, raster.inspect(side.path).geobox
    if not _overlap(here, there):
        raise SourceError(
            f"Reference {path} has no overlap with the scene {scene.path}: expected an image of the same place. Leave "
            "it out, or correct the georeference of one of the two."
        )
    finer = fineness(here, there)
    if not align:
        return Reference(side, fineness=finer)
    used = [pair for pair in common if pair[0] < len(scene.bands)][:2]
    first = tuple(scene.bands[mine] for mine, _ in used) or _matching(scene)
    second = tuple(side.bands[other] for _, other in used) or _matching(side)
    looks = View(scene.path, scene.sensor, first), View(side.path, side.sensor, second)
    found = (remembered or Remembered(None)).survey(*looks, max_shift_px=max_shift_px)
    return Reference(replace(side, displacement=found) if found.reliable else side, found, finer)


def _matching(side: Side) -> tuple[int, ...]:
    return default_bands(side.sensor, side.sensor.band_names, side.bands) or side.bands[:1]


def _overlap(here: GeoBox, there: GeoBox) -> bool:
    """Whether any of a spread of places in one box, corners included, lies in the other, or the other way round."""
    return _covers(here, there) or _covers(there, here)


def _covers(box: GeoBox, other: GeoBox) -> bool:
    height, width = box.shape
    share = np.linspace(0, 1, _OUTLINE)
    col, row = pixels_in(other, box, *np.meshgrid(share * width, share * height))
    rows, cols = other.shape
    with np.errstate(invalid="ignore"):
        inside = (col > 0) & (col < cols) & (row > 0) & (row < rows)
    return bool(inside.any())


class References:
    """Reads all references of a scene on windows of the finer grid, in model units.

    Args:
        references: The references.
        box: Grid of the scene.
        scaler: Analysis units to model units.
        scale: Pixels of the finer grid along a side of one of the scene's.
        mtf: Contrast at the Nyquist frequency of the finer grid that references finer still are brought to; None for
            plain anti-aliased resampling.
    """

    def __init__(
        self, references: Sequence[Reference], box: GeoBox, scaler: Scaler, scale: int, mtf: float | None = None
    ) -> None:
        self.references = tuple(references)
        self._scale = scale
        finer = divided(box, scale)
        self._readers = [
            SceneReader(reference.side, finer, scaler, factor=sharpness(finer, item_box(reference.side.item)), mtf=mtf)
            for reference in references
        ]

    def read(self, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Read a window.

        Args:
            row: First row, pixels of the scene.
            col: First column.
            height: Rows.
            width: Columns.

        Returns:
            float32 of shape (R, C, s · height, s · width), 0 where a reference shows nothing, and validity
            (R, s · height, s · width), float32.
        """
        at = [self._scale * length for length in (row, col, height, width)]
        parts = [reader.read(*at) for reader in self._readers]
        return np.stack([values for values, _ in parts]), np.stack([valid for _, valid in parts]).astype(np.float32)
