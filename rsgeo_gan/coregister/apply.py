"""Writes a moving raster on the reference's grid with its content aligned: all bands, in the file's own unit.

Windows are read, resampled once and encoded in parallel, and written in order, so memory grows with the width of
the raster only, and any number of workers makes the same file.
"""

from __future__ import annotations

import math
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from dask.base import compute
from dask.delayed import delayed
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

import rsgeo_gan
from rsgeo_gan import raster
from rsgeo_gan.coregister.encoding import Form
from rsgeo_gan.coregister.views import View
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import CoregistrationError, ProductError, SourceError
from rsgeo_gan.grid import pixels_in, same_lattice
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.warping import way

__all__ = ["Status", "align", "status_of"]

Status = Literal["aligned", "declined", "unchanged"]

WINDOW_PX = 2048
"""Greatest width of a window; it keeps the part of a rotated source that one window needs small."""
STRIP_PX = 256
"""Greatest height of a strip: a row of the writer's blocks."""
FLIGHT_BYTES = 64 << 20
"""Windows handed to the workers together, counted in the file's data type."""


def status_of(displacement: Displacement) -> Status:
    """Say what a displacement leads to: content is moved, needs no move, or is left alone for want of evidence."""
    if not displacement.reliable:
        return "declined"
    return "unchanged" if displacement.model == "none" else "aligned"


def align(
    moving: View,
    displacement: Displacement,
    out: Path,
    *,
    reference_box: GeoBox | None = None,
    workers: int = 1,
    resampling: str | None = None,
    classes: bool = False,
    reference_name: str = "",
    tags: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> Path:
    """Write a moving raster on the reference's grid, its content aligned with one resampling.

    SAR is resampled in linear power and written in the unit of the file, categories are taken from the nearest
    pixel, whole numbers are rounded and clipped to their type, and no valid pixel becomes nodata. Whole-pixel
    displacements on one lattice are copied without resampling; when there is nothing to do at all, a GeoTIFF is
    copied byte for byte. A displacement that is not reliable is never applied.

    Args:
        moving: The raster, and the sensor that tells its unit; all bands of the file are written.
        displacement: Where its content lies relative to the reference.
        out: The COG to write.
        reference_box: Grid of the result; the displacement's grid when None.
        workers: Threads that read and resample.
        resampling: GDAL's name of the kernel; by default nearest for categories, cubic for optical and bilinear
            for SAR.
        classes: The raster holds categories.
        reference_name: Name of the reference, for the tags.
        tags: Further tags; they win over those of the raster and over `COREG_*`.
        progress: Receives finished and all strips.

    Returns:
        The path.

    Raises:
        SourceError: If the raster cannot be read or holds complex numbers.
        CoregistrationError: If the raster lies nowhere on the reference's grid.
        GridError: If it has no usable georeference.
        ProductError: If the result cannot be written.
    """
    out = Path(out)
    info = raster.inspect(moving.path)
    box = displacement.geobox if reference_box is None else reference_box
    _check(info, out)
    overlap = _overlap(info, box)
    status = status_of(displacement)
    applied = displacement if status == "aligned" else Displacement.none(displacement.geobox, reason="")
    if status == "unchanged" and box.shape == info.geobox.shape and same_lattice(box, info.geobox) == (0, 0):
        copied = _copied(info, out)
        if copied:
            progress("align", 1, 1)
            return out
    kernel = resampling or ("nearest" if classes else "cubic" if moving.sensor.modality == "optical" else "bilinear")
    form = Form.of(info, moving.sensor, classes)
    described = {key: value for key, value in info.tags.items() if key != "AREA_OR_POINT"}
    described |= _tags(displacement, applied.mean(overlap), status, reference_name, Path(str(moving.path)).name)
    with (
        _Reader(str(moving.path), info, box, applied, kernel, form) as reader,
        raster.StripWriter(
            out,
            box,
            info.count,
            info.dtype,
            form.nodata,
            info.names if any(info.names) else (),
            info.units,
            scale=info.scales,
            offset=info.offsets,
            tags=described | dict(tags or {}),
            masked=form.masked,
            shrink="nearest" if kernel in ("nearest", "mode") else "average",
        ) as writer,
    ):
        strips = _strips(box, info.count * np.dtype(info.dtype).itemsize)
        progress("align", 0, len(strips))
        for done, (row, values, each) in enumerate(_made(reader, strips, workers), start=1):
            writer.write(values, row, each.any(axis=0) if form.masked else each.all(axis=0))
            progress("align", done, len(strips))
    return out


def _check(info: raster.RasterInfo, out: Path) -> None:
    if np.dtype(info.dtype).kind == "c":
        raise SourceError(
            f"{info.path} holds complex numbers ({info.dtype}): expected detected values. Take the intensity of the "
            "single-look complex product first."
        )
    source = Path(info.path)
    if source.exists() and out.exists() and source.samefile(out):
        raise ProductError(f"{out} is the moving raster itself: expected another file. Choose another output.")


def _overlap(info: raster.RasterInfo, box: GeoBox) -> GeoBox:
    """The part of the result that the raster covers, as far as rectangles go."""
    height, width = info.geobox.shape
    steps = np.linspace(0, 1, 33)
    col, row = pixels_in(box, info.geobox, *(part.ravel() for part in np.meshgrid(steps * width, steps * height)))
    known = np.isfinite(col)
    if known.any():
        limits = ((col[known], int(box.shape.x)), (row[known], int(box.shape.y)))
        (left, right), (top, bottom) = (
            (max(0, math.floor(part.min())), min(length, math.ceil(part.max()))) for part, length in limits
        )
        if right > left and bottom > top:
            return box[top:bottom, left:right]
    raise CoregistrationError(
        f"{info.path} lies nowhere on the reference's grid of {tuple(box.shape)} pixels: expected an overlap. Choose "
        "rasters of one place, and check the CRS of both."
    )


def _copied(info: raster.RasterInfo, out: Path) -> bool:
    """Copy a GeoTIFF of this machine; false when it is something else, or has a mask or facts in files beside it."""
    with raster.opened(info.path) as dataset:
        plain = dataset.driver == "GTiff" and Path(info.path).is_file() and len(dataset.files) == 1
    if not plain:
        return False
    staged = out.with_name(f".{out.stem}.{uuid.uuid4().hex[:8]}.stage.tif")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(info.path, staged)
        staged.replace(out)
    except OSError as error:
        raise ProductError(
            f"Cannot write {out}: {error.strerror or error}. Choose an output folder that you may write to, with room "
            "for a copy of the raster."
        ) from error
    finally:
        staged.unlink(missing_ok=True)
    return True


def _tags(
    displacement: Displacement, mean: tuple[float, float], status: Status, reference: str, moving: str
) -> dict[str, str]:
    return {
        "COREG_STATUS": status,
        "COREG_MODEL": displacement.model,
        "COREG_DX_PX": f"{mean[0]:.4f}",
        "COREG_DY_PX": f"{mean[1]:.4f}",
        "COREG_SIGMA_PX": f"{displacement.sigma_px:.4f}",
        "COREG_CONFIDENCE": f"{displacement.confidence:.4f}",
        "COREG_REASON": displacement.reason,
        "COREG_REFERENCE": reference,
        "COREG_MOVING": moving,
        "COREG_VERSION": rsgeo_gan.__version__,
    }


@dataclass
class _Reader:
    """Makes windows of the result; every thread reads through a handle of its own, which keeps decoded blocks."""

    path: str
    info: raster.RasterInfo
    box: GeoBox
    displacement: Displacement
    kernel: str
    form: Form
    _own: threading.local = field(default_factory=threading.local)
    _handles: ExitStack = field(default_factory=ExitStack)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._handles.close()

    def _dataset(self) -> rasterio.DatasetReader:
        if not hasattr(self._own, "dataset"):
            with raster.opened(self.path):
                dataset = rasterio.open(self.path)
            with self._lock:
                self._handles.callback(dataset.close)
            self._own.dataset = dataset
        return self._own.dataset

    def window(self, rows: slice, cols: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return values of the file's type, shape (C, h, w), and the validity of each band."""
        part = self.box[rows, cols]
        dataset, form = self._dataset(), self.form
        offset = way(self.info.geobox, part, self.displacement).offset()
        if offset is not None:
            height, width = part.shape
            values, each = raster.read(dataset, window=Window(*offset, width, height), apart=True)
            if form.hidden is not None and not math.isnan(form.hidden):
                each &= values != form.dtype.type(form.hidden)
            return form.filled(values, each), each
        values = raster.warp(
            dataset,
            part,
            resampling=self.kernel,
            nodata=form.hidden,
            prepare=form.averageable,
            displacement=self.displacement,
            apart=True,
            dtype=form.working,
        )
        return form.encoded(values)


def _strips(box: GeoBox, pixel_bytes: int) -> list[slice]:
    height, width = box.shape
    rows = STRIP_PX
    while rows > 16 and rows * width * pixel_bytes > FLIGHT_BYTES:
        rows //= 2
    return [slice(row, min(row + rows, height)) for row in range(0, height, rows)]


def _made(reader: _Reader, strips: Sequence[slice], workers: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield row, values and validity of each strip, in order; several strips are in flight as far as room goes."""
    width = int(reader.box.shape.x)
    columns = [slice(col, min(col + WINDOW_PX, width)) for col in range(0, width, WINDOW_PX)]
    strip_bytes = (strips[0].stop - strips[0].start) * width * reader.info.count * reader.form.dtype.itemsize
    together = max(1, min(FLIGHT_BYTES // strip_bytes, -(-2 * workers // len(columns))))
    scheduler = {"scheduler": "threads", "num_workers": workers} if workers > 1 else {"scheduler": "synchronous"}
    make = delayed(reader.window, pure=False, traverse=False)
    for first in range(0, len(strips), together):
        rows = strips[first : first + together]
        parts = iter(compute(*(make(row, col) for row in rows for col in columns), **scheduler))  # type: ignore[no-untyped-call]
        for row in rows:
            pieces = [next(parts) for _ in columns]
            yield (row.start, np.concatenate([p[0] for p in pieces], 2), np.concatenate([p[1] for p in pieces], 2))
