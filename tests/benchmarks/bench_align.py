"""Cost and memory of aligning a large band, beside a plain whole-array warp that knows one shift only.

    python tests/benchmarks/bench_align.py --size 10980

Every case runs in a process of its own; memory is the most it ever held, of which an interpreter with the libraries
loaded takes about 150 MiB.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, box, folder, isolated, land, peak_mib, quiet, table

CASES = ("whole pixels", "shift", "affine", "field")


def prepare(path: Path, size: int) -> None:
    """Write one uint16 band, a few rows at a time."""
    from rsgeo_gan.raster import StripWriter

    base = land(size)
    rng = np.random.default_rng(1)
    with StripWriter(path, box(size), 1, "uint16", 0, ["B04"], compress="deflate", masked=False) as writer:
        for row in range(0, size, 512):
            part = base[row : row + 512]
            writer.write((250 + 1400 * part + rng.normal(0, 20, part.shape))[None].astype(np.uint16), row)


def displacement(case: str, size: int) -> Any:
    from affine import Affine
    from odc.geo.geobox import GeoBox

    from rsgeo_gan.displacement import Displacement, Field

    here = box(size)
    if case == "field":
        n = size // 64 + 5
        lattice = GeoBox((n, n), here.affine * Affine.translation(-128, -128) * Affine.scale(64), here.crs)
        row, col = np.indices((n, n))
        values = np.stack([2.3 + 2 * np.sin(row / 2), -1.6 + 2 * np.cos(col / 2)]).astype(np.float32)
        flat = np.ones((n, n), np.float32)
        return Displacement(
            here, "field", (2.3, 0, 0, -1.6, 0, 0), 0.2, 0.9, True, 99, "", Field(lattice, values, flat, flat)
        )
    matrix = {"whole pixels": (2, 0, 0, -3, 0, 0), "shift": (2.3, 0, 0, -1.6, 0, 0)}.get(
        case, (2.3, 1e-4, -1e-4, -1.6, 1e-4, 1e-4)
    )
    return Displacement(here, "affine" if case == "affine" else "shift", matrix, 0.1, 0.9, True, 99)


def naive(path: Path, out: Path) -> None:
    """Read the whole band, warp it, write it."""
    import rasterio
    from affine import Affine
    from rasterio.enums import Resampling
    from rasterio.warp import reproject

    with rasterio.open(path) as file:
        values, profile = file.read(1).astype(np.float32), file.profile
    moved = profile["transform"] * Affine.translation(-2.3, 1.6)
    warped = np.zeros_like(values)
    reproject(
        values, warped, src_transform=moved, src_crs=profile["crs"], src_nodata=0, dst_transform=profile["transform"],
        dst_crs=profile["crs"], dst_nodata=0, resampling=Resampling.cubic,
    )  # fmt: skip
    kept = np.clip(np.rint(warped), 0, 65535).astype(np.uint16)
    facts = {key: profile[key] for key in ("crs", "transform", "width", "height", "count", "dtype", "nodata")}
    with rasterio.open(out, "w", driver="COG", compress="deflate", predictor="STANDARD", **facts) as file:
        file.write(kept, 1)


def run(case: str, path: str, out: str, workers: int, size: int) -> dict[str, float]:
    quiet()
    if case == "prepare":
        prepare(Path(path), size)
        return {}
    from rsgeo_gan.coregister.apply import align
    from rsgeo_gan.coregister.views import View
    from rsgeo_gan.sensors import get_sensor

    moved, start = displacement(case, size) if case in CASES else None, time.perf_counter()
    if moved is None:
        naive(Path(path), Path(out))
    else:
        align(View(path, get_sensor("sentinel2-l2a"), (1,)), moved, Path(out), workers=workers)
    took = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"wall": took, "cpu": usage.ru_utime + usage.ru_stime, "mib": peak_mib()}


def main() -> None:
    options = arguments(__doc__ or "", size=10980, workers=2)
    if options.job:
        sys.stdout.write(json.dumps(run(**json.loads(options.job))) + "\n")
        return
    with folder() as here:
        path = here / "moving.tif"
        job = {"path": str(path), "out": str(here / "out.tif"), "size": options.size}
        isolated(__file__, {"case": "prepare", "workers": 1, **job})
        rows = []
        for case, workers in [("whole array", 1), *((case, n) for n in (1, options.workers) for case in CASES)]:
            got = isolated(__file__, {"case": case, "workers": workers, **job})
            rows.append([case, workers, f"{got['wall']:.1f}", f"{got['cpu']:.1f}", f"{got['mib']:.0f}"])
        table(
            f"One uint16 band of {options.size} x {options.size}, aligned and written as a COG",
            ["displacement", "workers", "wall s", "CPU s", "peak MiB"],
            rows,
        )


if __name__ == "__main__":
    main()
