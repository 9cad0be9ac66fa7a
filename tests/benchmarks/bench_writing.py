"""Writing a scene as a Cloud Optimized GeoTIFF: ours against rio-cogeo with its defaults.

python tests/benchmarks/bench_writing.py --size 4096
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import EO_BANDS, SAR_BANDS, arguments, box, folder, interleave, optical, quiet, radar, ratios, table


def rio_cogeo(path: Path, array: np.ndarray, threads: str) -> None:
    from rasterio.io import MemoryFile
    from rio_cogeo.cogeo import cog_translate
    from rio_cogeo.profiles import cog_profiles

    where = box(array.shape[1])
    profile = {
        "driver": "GTiff",
        "count": len(array),
        "height": array.shape[1],
        "width": array.shape[2],
        "dtype": str(array.dtype),
        "crs": str(where.crs),
        "transform": where.affine,
    }
    with MemoryFile() as memory:
        with memory.open(**profile) as staged:
            staged.write(array)
        with memory.open() as staged:
            codec = {**cog_profiles.get("deflate"), "predictor": 3 if array.dtype.kind == "f" else 2}
            config = {"GDAL_NUM_THREADS": threads, "GDAL_TIFF_OVR_BLOCKSIZE": "512"}
            cog_translate(staged, str(path), codec, in_memory=True, quiet=True, config=config)


def measure(what: str, array: np.ndarray, names: tuple[str, ...], rounds: int) -> None:
    from rsgeo_gan import raster

    size, sizes = array.shape[1], {}
    with folder() as here:
        writers = {
            "rio-cogeo, deflate, its defaults": lambda path: rio_cogeo(path, array, "1"),
            "rio-cogeo, deflate, all threads": lambda path: rio_cogeo(path, array, "ALL_CPUS"),
            "rsgeo_gan, deflate": lambda path: raster.write(path, array, box(size), names=names, compress="deflate"),
            "rsgeo_gan, ZSTD-1 (default)": lambda path: raster.write(path, array, box(size), names=names),
            "rsgeo_gan, ZSTD-1, tiled, no overviews": lambda path: raster.write(
                path, array, box(size), names=names, cog=False
            ),
        }

        def case(name: str) -> Callable[[], None]:
            def run() -> None:
                path = here / "out.tif"
                writers[name](path)
                sizes[name] = path.stat().st_size / 2**20

            return run

        seconds = interleave({name: case(name) for name in writers}, rounds)
    faster = ratios(seconds, "rio-cogeo, deflate, its defaults")
    rows = [[name, f"{statistics.median(seconds[name]):.2f}", faster[name], f"{sizes[name]:.1f}"] for name in writers]
    table(f"Writing {what}, {size} x {size}", ["writer", "s", "speed to rio-cogeo", "MiB"], rows)


def main() -> None:
    quiet()
    options = arguments(__doc__.splitlines()[0], size=2048, rounds=3)
    measure("optical, uint16", optical(options.size), EO_BANDS, options.rounds)
    measure("SAR, float32 dB", radar(options.size), SAR_BANDS, options.rounds)


if __name__ == "__main__":
    main()
