"""Which pairs of rasters there are, how they are read, and what is known about how they lie.

Understood layouts below a data folder:

* the developers' sets, known by the names of their folders (see `_SETS`);
* any folder `NAME/` with `ref.tif` and `mov.tif` on one grid, and optionally `points.csv` (header
  `ref_x,ref_y,mov_x,mov_y`; pixels, x right, y down, 0 at the centre of the upper-left pixel).

Tie-point sets given apart are either folders of the second kind or a checkout of yeyuanxin110/CFOG.
"""

from __future__ import annotations

import csv
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window
from scipy import ndimage
from scipy.interpolate import RBFInterpolator

from coreg.cases import Points, Tile

__all__ = ["MARGIN_PX", "Pair", "Side", "find", "find_tie_points", "read_points", "samples"]

_FOLDS = 7
_NEIGHBOURHOOD_PX = 64
_STIFFNESS = (1e2, 1e3, 1e4, 1e5, 1e6)

MARGIN_PX = 18
"""Image around a tile, from which content moves in."""

_LARGEST_TILE_PX = 512
_BORDER_PX = 33


@dataclass(frozen=True)
class Side:
    """Where one image of a pair lies.

    Attributes:
        path: File.
        bands: Bands counted from 1; their mean is taken.
        unit: "dn", "display", "dB" or "linear".
        modality: "optical" or "sar".
        window: Column, row, width and height; the whole file when None.
    """

    path: Path
    bands: tuple[int, ...] = (1,)
    unit: str = "display"
    modality: str = "optical"
    window: tuple[int, int, int, int] | None = None

    def read(self) -> Tile:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(self.path) as dataset:
                window = None if self.window is None else Window(*self.window)
                found = dataset.read(self.bands, window=window, masked=True)
        values = np.ma.filled(found.astype(np.float32), np.nan).mean(axis=0)
        values[_undeclared(values)] = np.nan
        return Tile(values, self.unit, self.modality)


@dataclass(frozen=True)
class Pair:
    """Two images on one grid.

    Attributes:
        name: Unique name; decides the part and the random numbers.
        block: Which question it answers, see `coreg.judge`.
        group: Set it comes from.
        reference: Image that gives the geometry.
        moving: Image that is moved.
        points: File of manual points, when there are any.
        place: What the halves are split by, so that no place is in both; the name when empty.
    """

    name: str
    block: str
    group: str
    reference: Side
    moving: Side
    points: Path | None = None
    place: str = ""

    @property
    def part(self) -> str:
        """The half it belongs to: thresholds are tuned on one, results reported on the other."""
        return "tune" if zlib.crc32(f"half/{self.place or self.name}".encode()) & 1 else "report"

    def load(self) -> tuple[Tile, Tile]:
        """Both images, cut to the size they share."""
        here, there = self.reference.read(), self.moving.read()
        height = min(here.values.shape[0], there.values.shape[0])
        width = min(here.values.shape[1], there.values.shape[1])
        cut = [replace(tile, values=tile.values[:height, :width]) for tile in (here, there)]
        return cut[0], cut[1]

    def residual(self) -> Callable[[Points], Points] | None:
        """Displacement the pair has by its manual points, in image pixels; None when there are none."""
        return None if self.points is None else _surface_of(read_points(self.points))


def find(folder: Path) -> list[Pair]:
    """All pairs below a data folder, except those of tie-point sets given apart.

    Args:
        folder: See the module's text.

    Returns:
        Pairs in a fixed order.
    """
    found: list[Pair] = []
    for name, pairs in _SETS.items():
        if (folder / name).is_dir():
            found += pairs(folder / name)
    return found + list(_plain(folder, "consistency"))


def find_tie_points(folder: Path) -> list[Pair]:
    """Pairs with manual points.

    Args:
        folder: A checkout of yeyuanxin110/CFOG or folders `NAME/{ref.tif,mov.tif,points.csv}`.

    Returns:
        Pairs in a fixed order.
    """
    found = []
    for name, group, reference, moving, points in _CFOG:
        if all((folder / part).is_file() for part in (reference, moving, points)):
            sides = [Side(folder / part, _all_bands(folder / part)) for part in (reference, moving)]
            if "SAR" in group:
                sides[1] = replace(sides[1], modality="sar")
            found.append(Pair(name, "tie points", group, sides[0], sides[1], folder / points))
    return found + [pair for pair in _plain(folder, "tie points") if pair.points is not None]


def samples(count: int, work: Path | None = None) -> list[Pair]:
    """Pairs of the package's sample generator: invented land, real speckle, exact truth.

    The radar side is the generator's undisplaced one, so that the cases below give the displacement.

    Args:
        count: How many, each with its own seed; 1, 2 and 4 looks in turn.
        work: Folder that keeps them; the system's temporary folder when None.

    Returns:
        The pairs; files are made when they are not there.
    """
    from rsgeo_gan.sample import make

    home = (work or Path(tempfile.gettempdir())) / "rsgeo-coregistration-samples"
    found = []
    for seed in range(count):
        folder = home / f"seed-{seed}"
        make(folder, size_px=_LARGEST_TILE_PX + 2 * MARGIN_PX, seed=seed, looks=(1.0, 2.0, 4.0)[seed % 3])
        red = next(folder.glob("sample-s2/*/B04.tif"))
        radar = Side(folder / "truth" / "target.tif", (3,), "linear", "sar")
        found.append(Pair(f"sample-{seed}", "sample", "sample", Side(red, (1,), "dn"), radar))
    return found


def read_points(path: Path) -> NDArray[np.float64]:
    """Manual points x, y in the reference and x, y in the moving image, 0 at the centre of the first pixel."""
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = [[float(row[key]) for key in ("ref_x", "ref_y", "mov_x", "mov_y")] for row in csv.DictReader(file)]
        return np.array(rows)
    # The research sets count pixels from 1, on both sides.
    return np.loadtxt(path, usecols=(0, 1, 2, 3)) - 1.0


def _surface_of(points: NDArray[np.float64]) -> Callable[[Points], Points]:
    """Smooth displacement through manual points: affine and thin plate, as stiff as left-out points say.

    Points far from the affine are forgotten; where the thin plate predicts left-out points no better, the affine
    alone stays.
    """
    affine, kept = _affine_of(points)
    at = points[kept, :2]
    rest = points[kept, 2:] - at - affine(at)
    # Whole neighbourhoods are left out: points lie in clusters, which a single one left out would not judge.
    column, row = (at // _NEIGHBOURHOOD_PX).astype(int).T
    fold = (column + 3 * row) % _FOLDS
    best, stiffness = float(np.mean(rest**2)), None
    for candidate in _STIFFNESS:
        left = [
            rest[fold == k]
            - RBFInterpolator(at[fold != k], rest[fold != k], smoothing=candidate, kernel="thin_plate_spline")(
                at[fold == k]
            )
            for k in np.unique(fold)
        ]
        error = float(np.mean(np.concatenate(left) ** 2))
        if error < best:
            best, stiffness = error, candidate
    if stiffness is None:
        return affine
    plate = RBFInterpolator(at, rest, smoothing=stiffness, kernel="thin_plate_spline")
    return lambda xy: affine(xy) + plate(xy)


def _affine_of(points: NDArray[np.float64]) -> tuple[Callable[[Points], Points], NDArray[np.bool_]]:
    """Affine through the points' displacements that forgets those far from it, and which it keeps."""
    design = np.column_stack([np.ones(len(points)), points[:, :2]])
    found = points[:, 2:] - points[:, :2]
    weight = np.ones(len(points))
    for _ in range(20):
        root = np.sqrt(weight)[:, None]
        coefficients = np.linalg.lstsq(design * root, found * root, rcond=None)[0]
        distance = np.linalg.norm(found - design @ coefficients, axis=1)
        scale = max(1.4826 * float(np.median(distance)), 0.3)
        weight = np.clip(1 - (distance / (3 * scale)) ** 2, 0, None) ** 2
    return lambda xy: np.column_stack([np.ones(len(xy)), xy]) @ coefficients, weight > 0


def _undeclared(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Large squares of zeros, which are borders that nobody declared."""
    zero = values == 0
    if not zero.any():
        return zero
    core = ndimage.minimum_filter(zero, _BORDER_PX, mode="nearest")
    grown: NDArray[np.bool_] = ndimage.maximum_filter(core, _BORDER_PX + 2, mode="constant") & (zero | core)
    return grown


def _all_bands(path: Path) -> tuple[int, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            return tuple(range(1, min(dataset.count, 3) + 1))


def _plain(folder: Path, block: str) -> Iterator[Pair]:
    for reference in sorted(folder.glob("*/ref.tif")):
        moving, points = reference.with_name("mov.tif"), reference.with_name("points.csv")
        if moving.is_file():
            has = points.is_file()
            sides = [Side(path, _all_bands(path)) for path in (reference, moving)]
            name = reference.parent.name
            yield Pair(name, "tie points" if has else block, "own", *sides, points if has else None)


def _s2(path: Path, band: int, window: tuple[int, int, int, int] | None = None) -> Side:
    return Side(path, (band,), "dn", "optical", window)


def _s1(path: Path, band: int = 1) -> Side:
    return Side(path, (band,), "dB", "sar")


def _same(place: str, what: str, group: str, side: Side) -> Pair:
    return Pair(f"{place}-{what}-again", "exact same band", group, side, side, place=place)


def _bands(place: str, what: str, group: str, reference: Side, moving: Side) -> Pair:
    return Pair(f"{place}-{what}", "exact other band", group, reference, moving, place=place)


def _chips(folder: Path) -> list[Pair]:
    found = []
    for number, path in enumerate(sorted(folder.glob("*_s2rgb.tif"))):
        name = path.name.removesuffix("_s2rgb.tif")
        rgb = Side(path, (1, 2, 3))
        radar = Side(path.with_name(f"{name}_s1vh.tif"), (1,), "display", "sar")
        found.append(Pair(name, "consistency", "chips", rgb, radar))
        if number % 6 == 0:
            found.append(_same(name, *(("vh", "chips", radar) if number % 12 else ("red", "chips", Side(path)))))
        if number % 8 == 0:
            found.append(_bands(name, "red-blue", "chips", Side(path, (1,)), Side(path, (3,))))
    return found


def _los_angeles(folder: Path) -> list[Pair]:
    found = []
    rgb, radar = folder / "losangeles_3072_s2rgb.tif", folder / "losangeles_3072_s1vh.tif"
    if not (rgb.is_file() and radar.is_file()):
        return []
    side, size = _LARGEST_TILE_PX, 3072
    for row in range(0, size, side):
        for column in range(0, size, side):
            left, top = max(0, column - MARGIN_PX), max(0, row - MARGIN_PX)
            right, bottom = (min(size, start + side + MARGIN_PX) for start in (column, row))
            window = (left, top, right - left, bottom - top)
            found.append(
                Pair(
                    f"la-{row // side}{column // side}",
                    "consistency",
                    "los angeles",
                    Side(rgb, (1, 2, 3), window=window),
                    Side(radar, (1,), "display", "sar", window),
                )
            )
    return found


def _terramesh(folder: Path) -> list[Pair]:
    found = []
    for optical in sorted(folder.glob("*_S2L2A.tif")):
        place = optical.name.removesuffix("_S2L2A.tif")
        name, radar = f"tm-{place}", optical.with_name(f"{place}_S1RTC.tif")
        found += [
            Pair(name, "consistency", "terramesh", _s2(optical, 4), _s1(radar)),
            _same(name, "red", "terramesh", _s2(optical, 4)),
            _same(name, "vv", "terramesh", _s1(radar)),
            _bands(name, "red-nir", "terramesh", _s2(optical, 4), _s2(optical, 8)),
            _bands(name, "green-red", "terramesh", _s2(optical, 3), _s2(optical, 4)),
            _bands(name, "vv-vh", "terramesh", _s1(radar, 1), _s1(radar, 2)),
            Pair(f"{name}-l2a-l1c", "well aligned", "terramesh", _s2(optical, 4),
                 _s2(optical.with_name(f"{place}_S2L1C.tif"), 4), place=name),
        ]  # fmt: skip
    return found


def _sen1floods11(folder: Path) -> list[Pair]:
    found = []
    for optical in sorted(folder.glob("*_S2Hand.tif")):
        name = optical.name.removesuffix("_S2Hand.tif").lower()
        radar = optical.with_name(optical.name.replace("S2Hand", "S1Hand"))
        found += [
            Pair(name, "consistency", "sen1floods11", _s2(optical, 4), _s1(radar)),
            _same(name, "red", "sen1floods11", _s2(optical, 4)),
            _same(name, "vv", "sen1floods11", _s1(radar)),
            _bands(name, "red-nir", "sen1floods11", _s2(optical, 4), _s2(optical, 8)),
            _bands(name, "green-nir", "sen1floods11", _s2(optical, 3), _s2(optical, 8)),
            _bands(name, "vv-vh", "sen1floods11", _s1(radar, 1), _s1(radar, 2)),
        ]
    return found


def _bigearthnet(folder: Path) -> list[Pair]:
    found = []
    for red in sorted(folder.glob("*/S2/*/*_B04.tif")):
        place = red.relative_to(folder).parts[0]
        name, infrared = f"ben-{place}", red.with_name(red.name.replace("_B04", "_B08"))
        radar = next((folder / place / "S1").glob("*/*_VV.tif"))
        other = radar.with_name(radar.name.replace("_VV", "_VH"))
        found += [
            Pair(name, "consistency", "bigearthnet", _s2(red, 1), _s1(radar)),
            _bands(name, "red-nir", "bigearthnet", _s2(red, 1), _s2(infrared, 1)),
            _bands(name, "vv-vh", "bigearthnet", _s1(radar), _s1(other)),
        ]
    return found


def _boadella(folder: Path) -> list[Pair]:
    dates = sorted(folder.glob("*.tif"))
    found = [_same("boadella", path.stem[-10:], "boadella", _s2(path, 4)) for path in dates]
    found += [_bands("boadella", f"{p.stem[-10:]}-red-nir", "boadella", _s2(p, 4), _s2(p, 8)) for p in dates]
    if len(dates) > 1:
        found += [
            Pair(f"boadella-dates-{band}", "well aligned", "boadella", _s2(dates[0], band), _s2(dates[1], band),
                 place="boadella")
            for band in (2, 3, 4, 8)
        ]  # fmt: skip
    return found


def _brandenburg(folder: Path) -> list[Pair]:
    found = []
    for path in sorted(folder.glob("ref_*.jp2")):
        for number, corner in enumerate(((1600, 1500), (1300, 700), (500, 1800), (1400, 2400))):
            side = _s2(path, 1, (*corner, _LARGEST_TILE_PX + 2 * MARGIN_PX, _LARGEST_TILE_PX + 2 * MARGIN_PX))
            found.append(_same(f"brandenburg-{number}", "red", "brandenburg", side))
    return found


def _rotterdam(folder: Path) -> list[Pair]:
    return [
        _bands(f"rotterdam-{path.stem}", name, "rotterdam", Side(path, (3,)), Side(path, (band,)))
        for path in sorted(folder.glob("ms*.tif"))
        for name, band in (("green", 2), ("nir", 4))
    ]


_SETS: dict[str, Callable[[Path], Sequence[Pair]]] = {
    "s1s2-chips-usa": _chips,
    "s1s2-scene-losangeles": _los_angeles,
    "s1s2-terramesh": _terramesh,
    "s1s2-sen1floods11": _sen1floods11,
    "s1s2-bigearthnet": _bigearthnet,
    "s2-timeseries-boadella": _boadella,
    "coreg-s2-s2-brandenburg": _brandenburg,
    "sr-rotterdam-ms-pan": _rotterdam,
}

_CFOG = (
    ("cfog-sar", "optical–SAR", "data/optical_ref.png", "data/SAR_sen.png", "data/OpticaltoSAR_CP.txt"),
    ("cfog-sar-fine", "optical–SAR", "data/Stest3_ref.tif", "data/Stest3_sen.tif", "data/Stest3gcp.pts"),
    ("cfog-sar-1", "optical–SAR", "other data/visible-SAR/visible1_ref.tif", "other data/visible-SAR/SAR1_sen.tif",
     "other data/visible-SAR/visibleToSAR1_CP.txt"),
    ("cfog-infrared", "visible–infrared", "data/visible_ref.tif", "data/infrared_sen.tif",
     "data/VisibletoInfrared_CP.txt"),
    ("cfog-infrared-6", "visible–infrared", "other data/visible-infrared/test6_ref.tif",
     "other data/visible-infrared/test6_sen.tif", "other data/visible-infrared/VisibletoInfrared_CP.txt"),
    ("cfog-lidar", "optical–lidar", "data/LidarDepth_ref.png", "data/optical1_sen.png", "data/LidartoOptical_CP.txt"),
    # Its points name the lidar image first.
    ("cfog-lidar-1", "optical–lidar", "other data/optical-LiDAR/LiDARintensity1_sen.tif",
     "other data/optical-LiDAR/visible1_ref.tif", "other data/optical-LiDAR/LiDARToVisible1.txt"),
)  # fmt: skip
