"""Super-resolution of whole scenes: peak memory by height, by width, with references and with uncertainty, as ratios.

    python tests/benchmarks/bench_sharpening.py --sizes 1024x1024,4096x1024,1024x4096

Each case runs in a process of its own: a scene of three bands, height x width, goes the way of `rsgeo-gan superres`
to four times as many pixels along each side. Memory is the high-water mark above that of the imports.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, box, folder, isolated, land, peak_mib, quiet, table

BANDS, SCALE = ("B02", "B03", "B04"), 4
CASES = ("image", "image, uncertainty", "image, reference")


def scene(path: Path, height: int, width: int, finer: int = 1, bands: int = 3) -> Path:
    """A raster of parcels, or a finer one of fewer bands on the same corner, written strip by strip."""
    from rsgeo_gan.grid import divided
    from rsgeo_gan.raster import StripWriter

    at = divided(box(max(height, width))[:height, :width], finer)
    pattern = (400 + 1800 * np.kron(land(1024), np.ones((finer, finer), np.float32))).astype(np.uint16)
    names = BANDS[-bands:]
    with StripWriter(path, at, bands, "uint16", 0, names, scale=1e-4, cog=False, masked=False) as writer:
        for row in range(0, at.shape.y, 256):
            rows = np.arange(row, min(row + 256, at.shape.y)) % len(pattern)
            strip = pattern[rows][:, np.arange(at.shape.x) % len(pattern)]
            writer.write(np.stack([strip] * bands), row)
    return path


def resolver(*, reference: bool) -> Any:
    import torch

    from rsgeo_gan.inference.sharpfacts import SharpFacts
    from rsgeo_gan.inference.superresolver import SuperResolver
    from rsgeo_gan.models import Constrained, RandomFeatures, SRResNet, TextureTransfer
    from rsgeo_gan.sensors import SENSORS, Scaler

    torch.manual_seed(0)
    content = SRResNet(in_channels=3, out_channels=3, scale=SCALE, width=4, blocks=1)
    network: Any = Constrained(content)
    if reference:
        features = RandomFeatures(in_channels=1, width=4)
        network = TextureTransfer(content, features, common=[[2, 0]], window_px=2, floor=0.5, form="local")
    scaler = Scaler("sentinel2-l2a", "reflectance", BANDS, (0.0,) * 3, (0.3,) * 3)
    single = Scaler("sentinel2-l2a", "reflectance", BANDS[2:], (0.0,), (0.3,))
    sensor = SENSORS["sentinel2-l2a"].select(BANDS)
    sensors = {"source": sensor, "target": sensor, "reference": sensor.select(BANDS[2:])}
    facts = SharpFacts(scaler, scaler, single, SCALE, 10.0, int(reference), ((2, 0),), {}, "bench", sensors=sensors)
    return SuperResolver(network, facts)


def job(facts: dict[str, Any]) -> None:
    import torch

    from rsgeo_gan import raster
    from rsgeo_gan.inference.references import Reference, file_side
    from rsgeo_gan.inference.sharp import make

    quiet()
    torch.set_num_threads(1)
    here = Path(facts["folder"])
    asked = resolver(reference="reference" in facts["case"])
    given: list[torch.Tensor] = [torch.zeros(1, 3, 16, 16)]
    asked(*given)
    before, started = peak_mib(), time.perf_counter()
    known = asked.facts
    side = file_side(here / "scene.tif", known.source, known.sensor("source"), "scene")
    references = []
    if "reference" in facts["case"]:
        references = [Reference(file_side(here / "sharp.tif", known.reference, known.sensor("reference"), "reference"))]
    make(
        here / "out.tif",
        side,
        raster.inspect(here / "scene.tif").geobox,
        references,
        asked,
        uncertainty=4 if "uncertainty" in facts["case"] else 0,
    )
    seconds = time.perf_counter() - started
    told = {"seconds": seconds, "peak": peak_mib() - before, "imports": before}
    sys.stdout.write(json.dumps(told) + "\n")


def main() -> None:
    options = arguments(__doc__.splitlines()[0], sizes="1024x1024,4096x1024,1024x4096", rounds=1, cases=";".join(CASES))
    if options.job:
        return job(json.loads(options.job))
    rows: list[list[str]] = []
    first: dict[str, float] = {}
    for text in options.sizes.split(","):
        height, width = map(int, text.split("x"))
        with folder() as here:
            scene(here / "scene.tif", height, width)
            if "reference" in options.cases:
                scene(here / "sharp.tif", height, width, SCALE, bands=1)
            for case in options.cases.split(";"):
                found = []
                for _ in range(options.rounds):
                    found.append(isolated(__file__, {"folder": str(here), "case": case}))
                    for left in here.glob("out*"):
                        left.unlink()
                peak = max(run["peak"] for run in found)
                seconds = statistics.median(run["seconds"] for run in found) * 1e6 / (height * width)
                ratio = peak / first.setdefault(case, peak)
                imports = f"{found[0]['imports']:.0f}"
                rows.append([case, text, f"{peak:.0f}", f"{ratio:.2f}", imports, f"{seconds:.1f}"])
    columns = ["product", "scene, height x width", "peak MiB above imports", "to the first size", "imports MiB", "s/MP"]
    table(f"Super-resolution x {SCALE} of whole scenes", columns, rows)


if __name__ == "__main__":
    main()
