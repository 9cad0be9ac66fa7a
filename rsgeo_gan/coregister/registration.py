"""Measure where the content of one raster lies in another, or say why that cannot be known."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.coregister.features import METHODS
from rsgeo_gan.coregister.fit import Kind, TiePoints
from rsgeo_gan.coregister.measure import Measurement, measure, search_radius
from rsgeo_gan.coregister.views import RIM_PX, Lattice, View, blocks, common_lattice, default_bands
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import CoregistrationError
from rsgeo_gan.sensors import Sensor

__all__ = ["Registration", "register", "survey"]

_log = logging.getLogger(__name__)

Freedom = Literal["auto", "none", "shift", "affine"]
Classes = tuple[Path | str, Sequence[int]]

_FAMILIES: dict[str, tuple[Kind, ...]] = {
    "auto": ("none", "shift", "affine"),
    "none": ("none",),
    "shift": ("shift",),
    "affine": ("affine",),
}


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
        model: Freedom allowed: "auto" chooses none, shift or affine by what the tie points carry.
        method: Name of the descriptor, a key of `METHODS`.

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
) -> Registration:
    """Do what `register` does and keep the tie points.

    Args:
        reference: The raster that gives the geometry.
        moving: The raster whose content may lie elsewhere.
        max_shift_px: Largest mean displacement looked for, reference pixels.
        model: Freedom allowed.
        method: Name of the descriptor.

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
    found = measure(
        list(blocks(lattice, reference, moving, METHODS[method], search_radius(limit))), limit, _FAMILIES[model]
    )
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
    sigma = found.sigma_px * float(np.sqrt(lattice.zoom[0] * lattice.zoom[1]))
    plain = Displacement(
        box,
        sigma_px=sigma,
        confidence=found.confidence,
        reliable=found.reliable,
        n_tie_points=found.support,
        reason=found.reason,
    )
    if not found.reliable or found.model.kind == "none":
        return plain
    height, width = box.shape
    zoom, origin = np.array(lattice.zoom), np.array(lattice.origin)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    mean = found.model((middle[None] + 0.5 - origin) / zoom - 0.5)[0] * zoom
    slope: NDArray[np.float64] = found.model.coefficients[1:] * zoom[None, :] / zoom[:, None]
    a, b, c, d, e, f = mean[0], slope[0, 0], slope[1, 0], mean[1], slope[0, 1], slope[1, 1]
    matrix = (float(a), float(b), float(c), float(d), float(e), float(f))
    return replace(plain, model=found.model.kind, matrix=matrix)


def _on_reference(points: TiePoints, lattice: Lattice) -> TiePoints:
    """Tie points in reference pixels."""
    return TiePoints(
        lattice.to_reference(points.at),
        points.found * np.array(lattice.zoom),
        points.curvature,
        points.score,
        points.weight,
    )
