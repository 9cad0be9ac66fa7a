"""Rasters in and out: the box of a file, one warp to a box, and the only writer of GeoTIFFs.

Everything is written under a temporary name and renamed when it is whole. COGs are finished from a streamed
tiled GeoTIFF, so memory grows with the width of a raster and never with its area.
"""

from __future__ import annotations

import errno
import math
import os
import queue
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.windows import Window

from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import GridError, ProductError, SourceError
from rsgeo_gan.grid import crs_code, local_box
from rsgeo_gan.warping import way

__all__ = ["GDAL_CACHE_MIB", "RasterInfo", "StripWriter", "inspect", "opened", "read", "warp", "write"]

GDAL_CACHE_MIB = 128
"""Block cache while streaming; GDAL's default of 5 % of the memory would hide the bound."""

# Georeferencing is judged by `_box`, in words; rasterio's own silencing of this warning is not thread-safe.
warnings.simplefilter("ignore", NotGeoreferencedWarning)

_BLOCK_PX = 256
_COG_BLOCK_PX = 512
_REMOTE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_HTTP_MAX_RETRY": 4, "GDAL_HTTP_RETRY_DELAY": 0.2}
"""No listing of remote folders; files of this machine may have masks and georeferences beside them."""


@dataclass(frozen=True)
class RasterInfo:
    """What a raster file says about itself.

    Attributes:
        path: File or URL.
        geobox: Shape, transform and CRS.
        count: Number of bands.
        dtype: Data type of the first band.
        nodata: Declared nodata of the first band, or None.
        names: Band descriptions, "" where there is none.
        units: Band units, "" where there is none.
        scales: Band scales.
        offsets: Band offsets.
        tags: Dataset tags.
        masked: Whether the file holds a mask of its own.
    """

    path: str
    geobox: GeoBox
    count: int
    dtype: str
    nodata: float | None
    names: tuple[str, ...]
    units: tuple[str, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    tags: Mapping[str, str]
    masked: bool


@contextmanager
def opened(path: Path | str | rasterio.DatasetReader) -> Iterator[rasterio.DatasetReader]:
    """Open a raster for reading, with the failures of opening and reading put in words.

    Args:
        path: File or URL, or an open dataset, which stays open.

    Yields:
        The open dataset.

    Raises:
        SourceError: If the file is missing, is no raster, or breaks off while it is read.
    """
    if isinstance(path, rasterio.DatasetReader):
        try:
            with rasterio.Env(**_reading(path.name)):
                yield path
        except RasterioIOError as error:
            raise SourceError(_unreadable(path.name, error)) from error
        return
    if not _is_remote(path) and not Path(path).exists():
        raise SourceError(f"There is no file {path}. Check the path in the catalogue or on the command line.")
    try:
        with rasterio.Env(**_reading(path)), rasterio.open(path) as dataset:
            yield dataset
    except RasterioIOError as error:
        raise SourceError(_unreadable(str(path), error)) from error


def _is_remote(path: Path | str) -> bool:
    return "://" in str(path) or str(path).startswith("/vsi")


def _reading(path: Path | str) -> dict[str, Any]:
    return _REMOTE if _is_remote(path) else {}


def _unreadable(name: str, error: BaseException) -> str:
    return (
        f"{name} cannot be read: {_first_line(error)}. It is no raster that GDAL knows, or it is truncated; "
        "fetch it again or take it out of the catalogue."
    )


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _box(dataset: rasterio.DatasetReader) -> GeoBox:
    where = dataset.name
    unplaced = dataset.transform.is_identity or dataset.transform.determinant == 0
    if unplaced and dataset.gcps[0]:
        raise GridError(
            f"{where} has {len(dataset.gcps[0])} ground control points but no affine georeference (a SAR product "
            "in radar geometry): expected a CRS and a transform. Terrain-correct it first (RTC)."
        )
    if unplaced and dataset.rpcs is not None:
        raise GridError(
            f"{where} has only rational polynomial coefficients: expected a CRS and a transform. Orthorectify it first."
        )
    if dataset.crs is None:
        raise GridError(
            f"{where} has no CRS: expected one, got a transform of {tuple(dataset.transform)[:6]} alone. "
            "Add it (gdal_edit.py -a_srs EPSG:...) or drop the scene."
        )
    if unplaced:
        raise GridError(
            f"{where} has a CRS but an identity or singular transform: expected pixel size and origin. "
            "Georeference it or drop the scene."
        )
    return GeoBox.from_rio(dataset)


def inspect(path: Path | str, *, local_px: float | None = None) -> RasterInfo:
    """Read what a raster says about itself, without its pixels.

    Args:
        path: File or URL.
        local_px: Pixel size, metres, for a raster without any georeference, which then has a frame of its own
            (`rsgeo_gan.grid.local_box`); such a raster is refused when None.

    Returns:
        Its facts.

    Raises:
        SourceError: If it cannot be opened.
        GridError: If it has no CRS, only ground control points or RPCs, or no usable transform.
    """
    with opened(path) as dataset:
        bare = dataset.crs is None and dataset.transform.is_identity and not dataset.gcps[0] and dataset.rpcs is None
        local = local_box(dataset.shape, local_px) if bare and local_px is not None else None
        return RasterInfo(
            path=str(path),
            geobox=local or _box(dataset),
            count=dataset.count,
            dtype=dataset.dtypes[0],
            nodata=dataset.nodata,
            names=tuple(name or "" for name in dataset.descriptions),
            units=tuple(unit or "" for unit in dataset.units),
            scales=tuple(dataset.scales),
            offsets=tuple(dataset.offsets),
            tags=dataset.tags(),
            masked=any("per_dataset" in {flag.name for flag in flags} for flags in dataset.mask_flag_enums),
        )


def read(
    path: Path | str | rasterio.DatasetReader,
    *,
    bands: Sequence[int] | None = None,
    window: Window | None = None,
    apart: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Read pixels as they are in the file.

    Args:
        path: File or URL, or a dataset that is open already.
        bands: Bands counted from 1; all when None.
        window: Window in pixels; may reach outside the raster, where pixels are 0 and invalid. The whole
            raster when None.
        apart: Judge each band for itself.

    Returns:
        Values of shape (C, H, W) in the file's dtype, and the validity of shape (H, W), bool: a pixel is
        valid when every band read is neither nodata, nor masked, nor NaN. Shape (C, H, W) when `apart`.

    Raises:
        SourceError: If the file cannot be read.
    """
    with opened(path) as dataset:
        return _read(dataset, bands, window, apart=apart)


def _read(
    dataset: rasterio.DatasetReader, bands: Sequence[int] | None, window: Window | None, *, apart: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Read pixels and their validity: of all bands together (H, W), or of each band `apart` (C, H, W)."""
    indexes = list(bands) if bands else list(range(1, dataset.count + 1))
    if max(indexes) > dataset.count or min(indexes) < 1:
        raise SourceError(
            f"{dataset.name} has {dataset.count} bands: expected bands {indexes} (counted from 1). "
            "Correct `bands` or the sensor in the catalogue."
        )
    full = Window(0, 0, dataset.width, dataset.height)
    window = window or full
    rows, cols = int(window.height), int(window.width)
    top, left = max(0, int(window.row_off)), max(0, int(window.col_off))
    bottom = min(dataset.height, int(window.row_off) + rows)
    right = min(dataset.width, int(window.col_off) + cols)
    values = np.zeros((len(indexes), rows, cols), dtype=np.result_type(*(dataset.dtypes[i - 1] for i in indexes)))
    each = np.zeros((len(indexes) if apart else 1, rows, cols), dtype=bool)
    valid = each if apart else each[0]
    if bottom <= top or right <= left:
        return values, valid
    inside = Window(left, top, right - left, bottom - top)
    at = (
        np.s_[top - int(window.row_off) : bottom - int(window.row_off)],
        np.s_[left - int(window.col_off) : right - int(window.col_off)],
    )
    if inside.width == cols and inside.height == rows:
        dataset.read(indexes, window=inside, out=values)
    else:
        values[:, *at] = dataset.read(indexes, window=inside)
    flags = [{flag.name for flag in dataset.mask_flag_enums[i - 1]} for i in indexes]
    if all(names <= {"all_valid"} or names <= {"nodata"} for names in flags):
        each[:, *at] = True  # What equals nodata is found below, without a second pass over the file.
    else:
        masked = indexes[:1] if all("per_dataset" in names for names in flags) else indexes
        known = dataset.read_masks(masked, window=inside) != 0
        each[:, *at] = known if apart else known.all(axis=0)
    if values.dtype.kind in "fc":
        finite = np.isfinite(values)
        each &= finite if apart else finite.all(axis=0)
    for position, i in enumerate(indexes):
        nodata = dataset.nodatavals[i - 1]
        if nodata is not None and not math.isnan(nodata):
            each[position if apart else 0] &= values[position] != np.asarray(nodata).astype(values.dtype)
    return values, valid


def warp(
    path: Path | str | rasterio.DatasetReader,
    box: GeoBox,
    *,
    bands: Sequence[int] | None = None,
    resampling: str = "bilinear",
    nodata: float | None = None,
    in_all: bool = False,
    prepare: Callable[[np.ndarray], np.ndarray] | None = None,
    displacement: Displacement | None = None,
    apart: bool = False,
    dtype: Literal["float32", "float64"] = "float32",
) -> np.ndarray:
    """Bring a raster onto a box with one resampling, or with none when both share a lattice.

    GDAL widens the kernel when the box is coarser than the raster, so shrinking is low-passed. Invalid pixels
    have no weight. Reprojection, displacement and regridding are one resampling; positions are exact to
    `rsgeo_gan.warping.TOLERANCE_PX`.

    Args:
        path: File or URL, or a dataset that is open already.
        box: Where pixels are wanted, any CRS, size, rotation.
        bands: Bands counted from 1; all when None.
        resampling: GDAL's name of the kernel: nearest, bilinear, cubic, average, mode, lanczos …
        nodata: Value that marks missing pixels although the file does not say so.
        in_all: A pixel is missing only where all bands have that value, so that a dark band is none.
        prepare: Applied to the values (NaN where invalid) before they are resampled; SAR in dB becomes linear
            power here.
        displacement: Where the raster's content lies relative to its reference; it is moved back onto `box`,
            whether the displacement is reliable or not.
        apart: Judge each band for itself, instead of dropping pixels that are invalid in any band.
        dtype: Precision of values; float32 holds whole numbers up to 16 million.

    Returns:
        Shape (C, H, W), NaN where nothing valid lies.

    Raises:
        SourceError: If the file cannot be read.
        GridError: If it has no usable georeference, or the box crosses the seam of a raster around the world.
    """
    with opened(path) as dataset:
        source = _box(dataset)
        height, width = box.shape
        found = way(source, box, displacement)
        offset = found.offset()
        window = found.window(source) if offset is None else Window(*offset, width, height)
        if window is None:
            count = len(bands) if bands else dataset.count
            return np.full((count, height, width), np.nan, dtype=dtype)
        raw, valid = _read(dataset, bands, window, apart=apart)
    if nodata is not None and not math.isnan(nodata):
        known = raw != np.asarray(nodata).astype(raw.dtype)
        valid &= known.any(axis=0) if in_all else known if apart else known.all(axis=0)
    values = raw.astype(dtype)
    if not valid.all():
        values[~valid if apart else np.s_[:, ~valid]] = np.nan
    if prepare is not None:
        values = prepare(values)
    if offset is not None:
        return values
    if not valid.any():
        return np.full((len(values), height, width), np.nan, dtype=values.dtype)
    return found.resample(values, window, resampling)


def _profile(
    geobox: GeoBox, count: int, dtype: str, nodata: float | None, compress: str, threads: str | int
) -> dict[str, Any]:
    height, width = geobox.shape
    small = max(16, min(_BLOCK_PX, 16 * math.ceil(min(height, width) / 16)))
    predictor = 3 if np.dtype(dtype).kind == "f" else 2
    options: dict[str, Any] = {"compress": compress, "predictor": predictor, "num_threads": threads}
    if compress == "zstd":
        options["zstd_level"] = 1
    return {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": count,
        "dtype": dtype,
        "crs": crs_code(geobox),
        "transform": geobox.affine,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": small,
        "blockysize": small,
        "bigtiff": "if_safer",
        "interleave": "pixel",
        "photometric": "minisblack",
        **options,
    }


@dataclass
class _Moments:
    """Running minimum, maximum, mean and deviation of one band, in float64."""

    low: float = math.inf
    high: float = -math.inf
    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Take in finite values, one-dimensional; pieces that fit the processor's cache become float64."""
        if not values.size:
            return
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.n += values.size
        for start in range(0, values.size, 1 << 15):
            exact = values[start : start + (1 << 15)].astype(np.float64)
            self.total += float(exact.sum())
            self.squares += float(np.square(exact, out=exact).sum())

    def tags(self, share: float) -> dict[str, str]:
        if not self.n:
            return {}
        mean = self.total / self.n
        deviation = math.sqrt(max(0.0, self.squares / self.n - mean * mean))
        return {
            "STATISTICS_MINIMUM": repr(self.low),
            "STATISTICS_MAXIMUM": repr(self.high),
            "STATISTICS_MEAN": f"{mean:.12g}",
            "STATISTICS_STDDEV": f"{deviation:.9g}",
            "STATISTICS_VALID_PERCENT": f"{100 * share:.4g}",
        }


@dataclass
class StripWriter:
    """Write a raster strip by strip in a thread of its own, and finish it as a COG.

    Strips are full-width, from top to bottom. Nothing is visible under `path` until `close` has succeeded;
    after an error nothing is left behind.

    Attributes:
        path: Final path.
        geobox: Shape, transform and CRS of the whole raster.
        count: Number of bands.
        dtype: NumPy name of the data type.
        nodata: Nodata value, or None.
        names: Band descriptions.
        unit: Unit of all bands, or one for each.
        scale: Physical = raw · scale + offset; one for all bands, or one for each.
        offset: See scale.
        tags: Dataset tags.
        cog: Finish as a Cloud Optimized GeoTIFF with overviews; else leave a plain tiled GeoTIFF.
        compress: zstd, deflate, lzw or none.
        masked: Write an internal mask from the `valid` given with each strip.
        shrink: GDAL's name of the kernel for overviews; nearest or mode for categories.

    Raises:
        GridError: If strips do not fit the box.
        ProductError: If the file cannot be written: no permission, disk full, not all rows given.
    """

    path: Path
    geobox: GeoBox
    count: int
    dtype: str
    nodata: float | None = None
    names: Sequence[str] = ()
    unit: str | Sequence[str] = ""
    scale: float | Sequence[float] = 1.0
    offset: float | Sequence[float] = 0.0
    tags: Mapping[str, str] = field(default_factory=dict)
    cog: bool = True
    compress: str = "zstd"
    masked: bool = True
    shrink: str = "average"

    def __post_init__(self) -> None:
        if self.names and len(self.names) != self.count:
            raise GridError(f"{self.path}: {self.count} bands but {len(self.names)} names; give one name per band.")
        self._staged = self.path.with_name(f".{self.path.stem}.{uuid.uuid4().hex[:8]}.stage.tif")
        self._next_row = 0
        self._queue: queue.Queue[tuple[np.ndarray, int, np.ndarray | None] | None] = queue.Queue(maxsize=1)
        self._failure: BaseException | None = None
        self._moments = [_Moments() for _ in range(self.count)]
        self._threads = "ALL_CPUS" if self.geobox.shape.x * self.geobox.shape.y > 1 << 20 else 1
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._env():
                profile = _profile(
                    self.geobox,
                    self.count,
                    self.dtype,
                    self.nodata,
                    "zstd" if self.cog else self.compress,
                    self._threads,
                )
                self._dataset = rasterio.open(self._staged, "w", **profile)
        except (OSError, RasterioError) as error:
            raise self._cannot(error) from error
        self._thread = threading.Thread(target=self._drain, name=f"write {self.path.name}", daemon=True)
        self._thread.start()

    @staticmethod
    def _env() -> rasterio.Env:
        return rasterio.Env(
            GDAL_TIFF_INTERNAL_MASK=True,
            GDAL_CACHEMAX=GDAL_CACHE_MIB << 20,
            GDAL_TIFF_DEFLATE_SUBCODEC="LIBDEFLATE",
        )

    def write(self, array: np.ndarray, row: int, valid: np.ndarray | None = None) -> None:
        """Hand over one strip.

        Args:
            array: Values of shape (C, h, W) in the writer's dtype; not to be changed afterwards.
            row: Row of the strip's first line; the row after the previous strip.
            valid: Validity, shape (h, W), bool; all valid when None.
        """
        self._raise_failure()
        expected = (self.count, array.shape[1], self.geobox.shape.x)
        if array.shape != expected or row != self._next_row or row + array.shape[1] > self.geobox.shape.y:
            raise GridError(
                f"{self.path}: strip of shape {array.shape} at row {row} does not fit: expected {expected} at row "
                f"{self._next_row} of {self.geobox.shape.y}."
            )
        self._next_row += array.shape[1]
        self._queue.put((np.asarray(array, dtype=self.dtype), row, valid))

    def _drain(self) -> None:
        with self._env():
            while (task := self._queue.get()) is not None:
                if self._failure is None:
                    try:
                        self._store(*task)
                    except BaseException as error:
                        self._failure = error

    def _store(self, array: np.ndarray, row: int, valid: np.ndarray | None) -> None:
        window = Window(0, row, array.shape[2], array.shape[1])
        everything = valid is None or bool(valid.all())
        for band, moments in zip(array, self._moments, strict=True):
            kept = band.reshape(-1) if everything else band[valid]
            if band.dtype.kind == "f" and not math.isfinite(float(kept.sum())):
                kept = kept[np.isfinite(kept)]
            moments.add(kept)
        self._dataset.write(array, window=window)
        if self.masked:
            mask = np.full(array.shape[1:], 255, np.uint8) if valid is None else valid.astype(np.uint8) * 255
            self._dataset.write_mask(mask, window=window)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure = self._failure
            self.discard()
            raise self._cannot(failure) from failure

    def _cannot(self, error: BaseException) -> ProductError:
        text = _first_line(error)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in text
        if full or _free_bytes(self.path.parent) < 1 << 16:
            return ProductError(
                f"Cannot write {self.path}: the disk is full. Free some space and start again; finished work is kept."
            )
        return ProductError(
            f"Cannot write {self.path}: {text}. Choose an output folder that you may write to and start again."
        )

    def close(self) -> Path:
        """Finish the file: statistics, names, tags, overviews, rename.

        Returns:
            The final path.
        """
        self._join()
        self._raise_failure()
        try:
            if self._next_row != self.geobox.shape.y:
                raise ProductError(
                    f"{self.path}: only {self._next_row} of {self.geobox.shape.y} rows were written; nothing is kept."
                )
            with self._env():
                self._describe()
                self._dataset.close()
                finished = self._finish() if self.cog else self._staged
                with rasterio.open(finished) as check:
                    check.read(1, window=Window(check.width - 1, check.height - 1, 1, 1))
                finished.replace(self.path)
        except (OSError, RasterioError) as error:
            raise self._cannot(error) from error
        finally:
            self.discard()
        return self.path

    def _describe(self) -> None:
        dataset = self._dataset
        dataset.update_tags(**{key: str(value) for key, value in self.tags.items()})
        dataset.scales = self._each(self.scale)
        dataset.offsets = self._each(self.offset)
        if any(units := self._each(self.unit)):
            dataset.units = units
        for i, name in enumerate(self.names, start=1):
            dataset.set_band_description(i, name)
        pixels = self.geobox.shape.x * self.geobox.shape.y
        for i, moments in enumerate(self._moments, start=1):
            dataset.update_tags(i, **moments.tags(moments.n / pixels))

    def _each[T: (str, float)](self, fact: T | Sequence[T]) -> tuple[T, ...]:
        return (fact,) * self.count if isinstance(fact, str | float | int) else tuple(fact)

    def _finish(self) -> Path:
        finished = self._staged.with_suffix(".cog.tif")
        self._shrink()
        predictor = "FLOATING_POINT" if np.dtype(self.dtype).kind == "f" else "STANDARD"
        options = {"compress": self.compress.upper(), "predictor": predictor, "blocksize": _COG_BLOCK_PX}
        if self.compress == "zstd":
            options["level"] = 1
        rasterio.shutil.copy(
            self._staged,
            finished,
            driver="COG",
            overviews="AUTO",
            overview_resampling=self.shrink.upper(),
            bigtiff="IF_SAFER",
            num_threads=self._threads,
            **options,
        )
        return finished

    def _shrink(self) -> None:
        """Build the overviews before the COG is laid out; left to the COG driver they take twice as long."""
        factors = [2]
        while max(self.geobox.shape) // factors[-1] > _COG_BLOCK_PX:
            factors.append(2 * factors[-1])
        if max(self.geobox.shape) <= _COG_BLOCK_PX:
            return
        quick = {
            "COMPRESS_OVERVIEW": "ZSTD",
            "ZSTD_LEVEL_OVERVIEW": 1,
            "PREDICTOR_OVERVIEW": 3 if np.dtype(self.dtype).kind == "f" else 2,
            "GDAL_NUM_THREADS": self._threads,
        }
        with rasterio.Env(**quick), rasterio.open(self._staged, "r+") as staged:
            staged.build_overviews(factors, Resampling[self.shrink])

    def _join(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def discard(self) -> None:
        """Stop, and take away everything that is not finished."""
        self._join()
        with self._env():
            self._dataset.close()
        for left in (self._staged, self._staged.with_suffix(".cog.tif")):
            left.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def _free_bytes(folder: Path) -> int:
    try:
        status = os.statvfs(folder)
    except OSError:
        return 1 << 62
    return status.f_bavail * status.f_frsize


def write(
    path: Path,
    array: np.ndarray,
    geobox: GeoBox,
    *,
    valid: np.ndarray | None = None,
    nodata: float | None = None,
    names: Sequence[str] = (),
    unit: str = "",
    scale: float = 1.0,
    offset: float = 0.0,
    tags: Mapping[str, str] | None = None,
    cog: bool = True,
    compress: str = "zstd",
) -> Path:
    """Write a GeoTIFF: whole or not at all, never without a box.

    Args:
        path: Final path; its folder is created.
        array: Values, shape (C, H, W) or (H, W), in the dtype of the file.
        geobox: Where they lie.
        valid: Validity, shape (H, W), bool, kept as an internal mask; no mask when None.
        nodata: Nodata value; the caller has already put it where `valid` is false.
        names: Band descriptions, one per band.
        unit: Unit of all bands.
        scale: Physical = raw · scale + offset.
        offset: See scale.
        tags: Dataset tags.
        cog: Cloud Optimized GeoTIFF with overviews, or a plain tiled GeoTIFF.
        compress: zstd, deflate, lzw or none.

    Returns:
        The path.

    Raises:
        GridError: If array and box disagree.
        ProductError: If the file cannot be written.
    """
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[1:] != tuple(geobox.shape):
        raise GridError(
            f"{path}: array of shape {array.shape} does not fit a box of {tuple(geobox.shape)} pixels; "
            "expected (bands, rows, columns)."
        )
    writer = StripWriter(
        Path(path),
        geobox,
        array.shape[0],
        str(array.dtype),
        nodata,
        names,
        unit,
        scale,
        offset,
        tags or {},
        cog,
        compress,
        masked=valid is not None,
    )
    with writer:
        writer.write(array, 0, valid)
    return Path(path)
