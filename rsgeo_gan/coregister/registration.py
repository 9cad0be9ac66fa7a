"""Measure where the content of one raster lies in another, or say why that cannot be known."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.coregister.features import METHODS
from rsgeo_gan.coregister.fit import TiePoints
from rsgeo_gan.coregister.measure import Measurement, cell_px, measure, search_radius
from rsgeo_gan.coregister.views import RIM_PX, Blocks, Lattice, View, common_lattice, default_bands
from rsgeo_gan.displacement import Displacement, Field
from rsgeo_gan.errors import CoregistrationError
from rsgeo_gan.sensors import Sensor

__all__ = ["Registration", "register", "survey"]

_log = logging.getLogger(__name__)

Freedom = Literal["auto", "none", "shift", "affine", "field"]
Classes = tuple[Path | str, Sequence[int]]

_FAMILIES: dict[str, tuple[str, ...]] = {
    "auto": ("none", "shift", "affine", "field"),
    "none": ("none",),
    "shift": ("shift",),
    "affine": ("affine",),
    "field": ("field",),
}
_PROBE = 32


@dataclass(frozen=True)
class Registration:
    """A displacement with the evidence behind it.

    Attributes:
        displacement: Where moving content lies relative to the reference.
        points: Tie points; positions and displacements in reference pixels.
        overlap: The part of the reference grid that both rasters cover; None when there is none.
    """

    displacement: Displacement
    points: TiePoints
    overlap: GeoBox | None = None

    @property
    def mean_px(self) -> tuple[float, float]:
        """Mean displacement dx, dy over the overlap, reference pixels; over the grid when there is no overlap."""
        if self.overlap is None:
            return self.displacement.dx_px, self.displacement.dy_px
        dx, dy = self.displacement.mean(self.overlap)
        return float(dx), float(dy)

    @property
    def residual_px(self) -> float:
        """Typical distance of a trusted tie point from the displacement, reference pixels (weighted RMS)."""
        if not len(self.points):
            return float("inf")
        dx, dy = self.displacement.at(*self.points.at.T)
        squared = (self.points.found[:, 0] - dx) ** 2 + (self.points.found[:, 1] - dy) ** 2
        return float(np.sqrt(np.average(squared, weights=self.points.weight + 1e-12)))


def register(
    reference: Path | str,
    moving: Path | str,
    *,
    reference_sensor: Sensor,
    moving_sensor: Sensor,
    reference_bands: Sequence[int] | None = None,
    moving_bands: Sequence[int] | None = None,
    reference_classes: Classes | None = None,
    moving_classes: Classes | None = None,
    max_shift_px: float = 12.0,
    model: Freedom = "auto",
    method: str = "structure",
    workers: int = 1,
) -> Displacement:
    """Measure where the content of a moving raster lies relative to a reference raster.

    Neither raster is changed. The two may differ in sensor, CRS, pixel size, extent and rotation. When the
    evidence is too thin the displacement is zero, `reliable` is false and `reason` says why: "no overlap",
    "too little valid data", "no texture", "peak at the edge of the search", "two peaks", "halves
    disagree", "windows disagree" or "weak match". A displacement is reliable when the contents certainly
    match; how exactly is said by `sigma_px` and by `confidence`, the probability of an error below 1 px.

    Args:
        reference: Raster that gives the geometry, a file or URL.
        moving: Raster whose content may lie elsewhere.
        reference_sensor: Facts of the reference's instrument.
        moving_sensor: Facts of the moving raster's instrument.
        reference_bands: Bands to match by, counted from 1; by default up to two of the finest.
        moving_bands: The same for the moving raster.
        reference_classes: A class raster (such as Sentinel-2's SCL) and its classes that hide the ground.
        moving_classes: The same for the moving raster.
        max_shift_px: Largest mean displacement looked for, reference pixels.
        model: Freedom allowed: "auto" chooses none, shift, affine or a smooth field by what the tie points carry.
        method: Name of the descriptor, a key of `METHODS`.
        workers: Threads; the result does not depend on them.

    Returns:
        The displacement on the reference's grid.

    Raises:
        SourceError: If a raster cannot be read or has not the bands.
        GridError: If a raster has no usable georeference.
        CoregistrationError: If method, model or max_shift_px are not understood.
    """
    return survey(
        view(reference, reference_sensor, reference_bands, reference_classes),
        view(moving, moving_sensor, moving_bands, moving_classes),
        max_shift_px=max_shift_px,
        model=model,
        method=method,
        workers=workers,
    ).displacement


def view(path: Path | str, sensor: Sensor, bands: Sequence[int] | None = None, classes: Classes | None = None) -> View:
    """Describe how a raster is looked at; bands left open are chosen by the sensor."""
    if bands is None:
        count = min(raster.inspect(path).count, len(sensor.bands))
        names = sensor.band_names[:count]
        bands = default_bands(sensor, names, range(1, count + 1)) or (1,)
    hidden = None if classes is None else (classes[0], tuple(int(value) for value in classes[1]))
    return View(path, sensor, tuple(int(b) for b in bands), hidden)


def survey(
    reference: View,
    moving: View,
    *,
    max_shift_px: float = 12.0,
    model: Freedom = "auto",
    method: str = "structure",
    workers: int = 1,
) -> Registration:
    """Do what `register` does and keep the tie points.

    Args:
        reference: The raster that gives the geometry.
        moving: The raster whose content may lie elsewhere.
        max_shift_px: Largest mean displacement looked for, reference pixels.
        model: Freedom allowed.
        method: Name of the descriptor.
        workers: Threads; the result does not depend on them.

    Returns:
        Displacement and tie points.

    Raises:
        SourceError: If a raster cannot be read or has not the bands.
        GridError: If a raster has no usable georeference.
        CoregistrationError: If method, model or max_shift_px are not understood.
    """
    where = f"Co-registration of {moving.path} to {reference.path}"
    if method not in METHODS:
        raise CoregistrationError(
            f"{where}: there is no method {method!r}; expected one of {', '.join(METHODS)}. Correct `pairing.method`."
        )
    if model not in _FAMILIES or not 0 < max_shift_px <= 256:
        raise CoregistrationError(
            f"{where}: expected a model of {', '.join(_FAMILIES)} and max_shift_px in (0, 256], "
            f"got {model!r} and {max_shift_px}. Correct the settings."
        )
    box = raster.inspect(reference.path).geobox
    there = raster.inspect(moving.path).geobox
    # Twice: search room and filter reach, in reference pixels, whatever the matching grid becomes.
    lattice = common_lattice(box, there, 2.0 * (search_radius(max_shift_px) + RIM_PX))
    if lattice is None:
        return Registration(Displacement.none(box, reason="no overlap"), TiePoints.none())
    limit = max_shift_px / min(lattice.zoom)
    cell = cell_px(*lattice.core[2:])
    scene = Blocks(
        lattice, reference, moving, METHODS[method], room_px=search_radius(limit), cell_px=cell, workers=workers
    )
    first = float(lattice.core[0]), float(lattice.core[1])
    found = measure(scene.sample, limit, _FAMILIES[model], cell=cell, origin=first, every_block=scene.every)
    result = Registration(_displacement(found, lattice, box), _on_reference(found.points, lattice), lattice.overlap)
    done = result.displacement
    _log.info(
        "%s: %s, dx %.2f px, dy %.2f px, sigma %.2f px, confidence %.2f%s",
        where, done.model, done.dx_px, done.dy_px, done.sigma_px, done.confidence,
        f", not used: {done.reason}" if done.reason else "",
    )  # fmt: skip
    return result


def _displacement(found: Measurement, lattice: Lattice, box: GeoBox) -> Displacement:
    """Bring a displacement of the matching grid to the reference's pixels and centre."""
    scale = float(np.sqrt(lattice.zoom[0] * lattice.zoom[1]))
    plain = Displacement(
        box,
        sigma_px=found.sigma_px * scale,
        confidence=found.confidence,
        reliable=found.reliable,
        n_tie_points=found.support,
        reason=found.reason,
    )
    if not found.reliable or found.kind == "none":
        return plain
    if found.field is not None:
        field = _field(found, lattice, box)
        return replace(plain, model="field", field=field, matrix=_affine_part(field, box))
    height, width = box.shape
    zoom, origin = np.array(lattice.zoom), np.array(lattice.origin)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    mean = found.model((middle[None] + 0.5 - origin) / zoom - 0.5)[0] * zoom
    slope: NDArray[np.float64] = found.model.coefficients[1:] * zoom[None, :] / zoom[:, None]
    a, b, c, d, e, f = mean[0], slope[0, 0], slope[1, 0], mean[1], slope[0, 1], slope[1, 1]
    matrix = (float(a), float(b), float(c), float(d), float(e), float(f))
    return replace(plain, model=found.model.kind, matrix=matrix)


def _field(found: Measurement, lattice: Lattice, box: GeoBox) -> Field:
    """The field at the centres of the cells and one node further on every side, in reference pixels."""
    assert found.field is not None
    assert found.cells is not None
    ny, nx = found.cells.shape[:2]
    step = found.step_px
    first = found.cells[0, 0] - step
    x, y = (first[axis] + step * np.arange(n + 2) for axis, n in enumerate((nx, ny)))
    nodes = np.stack(np.meshgrid(x, y), -1)
    zoom = np.array(lattice.zoom)
    values = (found(nodes.reshape(-1, 2)) * zoom).reshape(ny + 2, nx + 2, 2)
    scale = float(np.sqrt(zoom[0] * zoom[1]))
    sigma = np.pad(found.field.sigma_px * scale, 1, mode="edge")
    trust = found.confidence * np.exp(-0.5 * np.maximum(sigma**2 - (found.sigma_px * scale) ** 2, 0.0))
    corner = lattice.to_reference((first - step / 2)[None])[0] + 0.5
    affine = box.affine * Affine.translation(*corner) * Affine.scale(*(step * zoom))
    return Field(
        GeoBox((ny + 2, nx + 2), affine, box.crs),
        np.moveaxis(values, -1, 0).astype(np.float32),
        sigma.astype(np.float32),
        np.clip(trust, 0.0, 1.0).astype(np.float32),
    )


def _affine_part(field: Field, box: GeoBox) -> tuple[float, float, float, float, float, float]:
    """The affine likeness of a field over the reference grid, as `Displacement.matrix`."""
    height, width = box.shape
    col, row = np.meshgrid(np.linspace(0, width - 1, _PROBE), np.linspace(0, height - 1, _PROBE))
    u, v = col.ravel() - (width - 1) / 2, row.ravel() - (height - 1) / 2
    design = np.stack([np.ones_like(u), u, v], 1)
    (a, b, c), (d, e, f) = np.linalg.lstsq(design, field.at(box, col.ravel(), row.ravel()).T, rcond=None)[0].T
    return float(a), float(b), float(c), float(d), float(e), float(f)


def _on_reference(points: TiePoints, lattice: Lattice) -> TiePoints:
    """Tie points in reference pixels."""
    return replace(points, at=lattice.to_reference(points.at), found=points.found * np.array(lattice.zoom))
