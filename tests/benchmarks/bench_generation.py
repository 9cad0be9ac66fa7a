"""Whole-scene generation: strips against the naive loop, in seconds and in peak memory.

    python tests/benchmarks/bench_generation.py --sizes 4096,8192

Both read a 4-band uint16 scene and write a 2-band raster of it; the network is one 3 x 3 convolution, so that the
pipelines' own costs show. Memory is the high-water mark of a fresh process above its imports.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from common import EO_BANDS, SAR_BANDS, WHEN, arguments, box, folder, isolated, optical, peak_mib, quiet, table

TILE, OVERLAP = 256, 32


def network() -> Any:
    import torch
    from torch import nn

    class Convolution(nn.Module):
        receptive_radius_px = 1
        stride = 1

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(len(EO_BANDS), len(SAR_BANDS), 3, padding=1)

        def forward(self, x: Any) -> Any:
            return torch.tanh(self.body(x))

    torch.manual_seed(0)
    return Convolution().eval()


def naive(path: Path, out: Path) -> None:
    """Tile by tile with linear blending, sums of the whole scene in memory, one write at the end."""
    import numpy as np
    import rasterio
    import torch

    model = network()
    edge = (np.arange(OVERLAP, dtype=np.float32) + 0.5) / OVERLAP
    ramp = np.ones(TILE, np.float32)
    ramp[:OVERLAP], ramp[-OVERLAP:] = edge, edge[::-1]
    weight = ramp[:, None] * ramp[None] + 1e-6
    with rasterio.open(path) as source:
        total = np.zeros((2, source.height, source.width), np.float32)
        weights = np.zeros((source.height, source.width), np.float32)

        def starts(length: int) -> list[int]:
            return sorted({*range(0, length - TILE, TILE - OVERLAP), length - TILE})

        for row in starts(source.height):
            for col in starts(source.width):
                tile = source.read(window=((row, row + TILE), (col, col + TILE)))
                with torch.inference_mode():
                    answer = model(torch.from_numpy(tile.astype(np.float32) * 1e-4)[None])[0].numpy()
                total[:, row : row + TILE, col : col + TILE] += answer * weight
                weights[row : row + TILE, col : col + TILE] += weight
        profile = {
            **source.profile,
            "count": 2,
            "dtype": "float32",
            "compress": "deflate",
            "predictor": 3,
            "nodata": None,
        }
        profile = {key: value for key, value in profile.items() if key not in ("photometric", "interleave")}
        with rasterio.open(out, "w", **{**profile, "driver": "GTiff", "tiled": True}) as target:
            target.write(12.5 * total / weights - 12.5)


def streamed(path: Path, out: Path, *, cog: bool) -> None:
    """What `generate` does with a scene, without planning and item."""
    import rasterio

    from rsgeo_gan.inference import Facts, Translator
    from rsgeo_gan.inference.encoding import Encoding
    from rsgeo_gan.inference.streaming import SceneReader, sample_windows, translate
    from rsgeo_gan.manifest import make_item
    from rsgeo_gan.raster import GDAL_CACHE_MIB, StripWriter, inspect
    from rsgeo_gan.sensors import Scaler
    from rsgeo_gan.tiling import side_of

    source = Scaler("sentinel2-l2a", "reflectance", EO_BANDS, (-1.0,) * 4, (1.0,) * 4)
    target = Scaler("sentinel1-rtc", "dB", SAR_BANDS, (-25.0,) * 2, (0.0,) * 2)
    where = inspect(path).geobox
    facts = {"rsgeo:sensor": "sentinel2-l2a", "rsgeo:side": "source", "rsgeo:bands": list(EO_BANDS)}
    item = make_item("scene", where, when=WHEN, properties=facts, assets={"data": path})
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MIB << 20, GDAL_NUM_THREADS="ALL_CPUS"):
        reader = SceneReader(side_of(item), where, source)
        translator = Translator(network(), "source_to_target", Facts(source, target, 10.0, 3, "bench"))
        sample_windows(reader, translator.stride)
        encoding = Encoding.of(target)
        with StripWriter(out, where, 2, encoding.dtype, encoding.nodata, encoding.names, "dB", cog=cog) as writer:
            translate(
                reader,
                translator,
                lambda model, row, kept: writer.write(encoding(model, kept), row, kept),
                channels=2,
            )


CASES = {
    "naive loop, whole-scene sums": naive,
    "rsgeo_gan, strips, tiled GeoTIFF": lambda path, out: streamed(path, out, cog=False),
    "rsgeo_gan, strips, finished as COG": lambda path, out: streamed(path, out, cog=True),
}


def job_of(name: str, path: Path, threads: int = 1) -> dict[str, Any]:
    return {"case": name, "path": str(path), "threads": threads}


def job(facts: dict[str, Any]) -> None:
    import torch

    import rsgeo_gan.inference  # noqa: F401  (imports do not count)

    quiet()
    torch.set_num_threads(facts["threads"])
    network()(torch.zeros(1, len(EO_BANDS), 8, 8))
    path, out = Path(facts["path"]), Path(facts["path"]).with_name("out.tif")
    before, started, spent = peak_mib(), time.perf_counter(), sum(os.times()[:2])
    CASES[facts["case"]](path, out)
    seconds, cpu = time.perf_counter() - started, sum(os.times()[:2]) - spent
    out.unlink()
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak_mib() - before}) + "\n")


def main() -> None:
    options = arguments(__doc__.splitlines()[0], sizes="2048,4096", rounds=2, threads=1)
    if options.job:
        return job(json.loads(options.job))
    from rsgeo_gan import raster

    peaks: dict[str, list[float]] = {name: [] for name in CASES}
    for size in map(int, options.sizes.split(",")):
        with folder() as here:
            path = here / "scene.tif"
            raster.write(path, optical(size), box(size), nodata=0, names=EO_BANDS, compress="deflate")
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
            for _ in range(options.rounds):
                for name in CASES:
                    runs[name].append(isolated(__file__, job_of(name, path, options.threads)))
        slow = runs["naive loop, whole-scene sums"]
        rows = []
        for name, found in runs.items():
            peaks[name].append(max(run["peak"] for run in found))
            ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(slow, found, strict=True))
            per = 1e9 / size**2
            seconds = statistics.median(run["seconds"] for run in found) * per
            cpu = min(run["cpu"] for run in found) * per
            rows.append([name, f"{seconds:.0f}", f"{cpu:.0f}", f"{ratio:.2f}", f"{peaks[name][-1]:.0f}"])
        columns = ["pipeline", "ms/MP", "least CPU ms/MP", "speed to naive", "peak MiB above imports"]
        table(f"Whole scene, {size} x {size}, 3 x 3 convolution", columns, rows)
    if len(options.sizes.split(",")) > 1:
        rows = [[name, *(f"{a / found[0]:.2f}" for a in found)] for name, found in peaks.items()]
        table("Peak memory relative to the first size", ["pipeline", *options.sizes.split(",")], rows)


if __name__ == "__main__":
    main()
