"""Does generated SAR have the looks and the values of real SAR, with and without the noise input?

    python tests/benchmarks/speckle.py --out out/speckle [--data ../shared/data] [--steps 400] [--seeds 3]

Trains narrow conditional GANs on 64 px patches of the sample scenes and of real pairs in dB, once per set, variant and
seed, and keeps every result in the folder: a second call goes on where the first was ended. Prints the table.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from common import arguments
from PIL import Image
from torch import Tensor
from torch.optim import Adam

from rsgeo_gan.metrics import amplitude_distance, enl_map, log_spectral_distance
from rsgeo_gan.models import PatchDiscriminator, ResNetGenerator
from rsgeo_gan.sample import make
from rsgeo_gan.tasks import PairedTranslation

SIZE, BATCH = 64, 4
RANGE_DB = torch.tensor([[-25.0, -32.0], [0.0, -5.0]])[..., None, None]
"""Least and largest VV and VH that the model domain holds, as in docs of the scalers."""
VARIANTS = {"without noise": 0, "with noise": 2}
HELD_OUT = 4
"""Every so-manieth patch is held out."""
SCORES = ("enl_ratio", "ks", "wasserstein_db", "spectrum_db")

Pairs = tuple[Tensor, Tensor]


def read(path: Path, bands: tuple[int, ...] | None = None) -> Tensor:
    with rasterio.open(path) as file:
        return torch.from_numpy(file.read(bands).astype(np.float32))


def patches(optical: Tensor, decibel: Tensor) -> Pairs:
    """Cut wholly valid patches; optical reflectance and dB to the model domain."""
    low, high = RANGE_DB
    both = torch.cat([optical * 4 - 1, 2 * (decibel - low) / (high - low) - 1])
    cut = both.unfold(1, SIZE, SIZE).unfold(2, SIZE, SIZE).permute(1, 2, 0, 3, 4).flatten(0, 1)
    cut = cut[torch.isfinite(cut).flatten(1).all(dim=1)]
    cut = cut.clamp(-1, 1)
    return cut[:, :4], cut[:, 4:]


def sample(out: Path) -> list[Pairs]:
    """The invented scenes: radar as it would be on the optical grid, with speckle."""
    folder = out / "sample"
    make(folder, size_px=512)
    paths = [next(folder.rglob(f"*{band}.tif")) for band in ("B02", "B03", "B04", "B08")]
    optical = torch.cat([(read(path) - 1000) / 10000 for path in paths])
    return [patches(optical, 10 * torch.log10(read(folder / "truth" / "target.tif", (3, 4)).clamp_min(1e-5)))]


def terramesh(data: Path) -> list[Pairs]:
    """Three scenes with terrain-corrected VV and VH, 16-bit L2A."""
    radars = sorted((data / "s1s2-terramesh").glob("*S1RTC.tif"))
    return [
        patches(read(path.with_name(path.name.replace("S1RTC", "S2L2A")), (2, 3, 4, 8)) / 10000, read(path))
        for path in radars
    ]


def sen1floods11(data: Path) -> list[Pairs]:
    folder = data / "s1s2-sen1floods11"
    optical = read(next(folder.glob("*S2Hand.tif")), (2, 3, 4, 8)) / 10000
    return [patches(optical, read(next(folder.glob("*S1Hand.tif"))))]


def bigearthnet(data: Path) -> list[Pairs]:
    """Four places of 120 x 120 px: four patches in all."""
    found = []
    for place in sorted((data / "s1s2-bigearthnet").iterdir()):
        optical = [next(place.rglob(f"*_{band}.tif")) for band in ("B02", "B03", "B04", "B08")]
        radar = [next(place.rglob(f"*_{band}.tif")) for band in ("VV", "VH")]
        found.append(patches(torch.cat([read(p) for p in optical]) / 10000, torch.cat([read(p) for p in radar])))
    return found


def split(pairs: list[Pairs]) -> tuple[Pairs, Pairs]:
    """Patches to learn from, and to score by."""
    optical, radar = (torch.cat(side) for side in zip(*pairs, strict=True))
    held = torch.arange(len(optical)) % HELD_OUT == HELD_OUT - 1
    return (optical[~held], radar[~held]), (optical[held], radar[held])


def train(pairs: Pairs, noise: int, seed: int, steps: int) -> PairedTranslation:
    torch.manual_seed(seed)
    task = PairedTranslation(
        ResNetGenerator(4, 2, width=12, blocks=2, noise_channels=noise),
        PatchDiscriminator(6, width=16, layers=2),
        weights={"pixel": 10.0},
    )
    sides = [
        Adam(net.parameters(), lr, (0.5, 0.999)) for net, lr in ((task.discriminator, 5e-4), (task.generator, 1e-3))
    ]
    mask = torch.ones(BATCH, 1, SIZE, SIZE)
    for _ in range(steps):
        chosen = torch.randint(len(pairs[0]), (BATCH,))
        batch = {"image": pairs[0][chosen], "image_target": pairs[1][chosen]}
        batch = task.prepare(batch | {"mask_valid": mask, "mask_valid_target": mask})
        for optimizer, terms_of in zip(sides, (task.discriminator_terms, task.generator_terms), strict=True):
            total = torch.stack([task.weights[name] * term for name, term in terms_of(batch).items()]).sum()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    return task.eval()


def decibel(model: Tensor) -> Tensor:
    low, high = RANGE_DB
    return (model + 1) / 2 * (high - low) + low


def looks(db: Tensor) -> float:
    """Looks of homogeneous areas, mean of VV and VH: upper decile of 7 x 7 windows, as in the report."""
    blocks = enl_map(10 ** (db / 10)).transpose(0, 1).flatten(1)
    return float(torch.stack([torch.quantile(band[torch.isfinite(band)], 0.9) for band in blocks]).mean())


@torch.no_grad()
def score(task: PairedTranslation, pairs: Pairs) -> tuple[dict[str, float], Tensor]:
    fake, real = decibel(task(pairs[0])), decibel(pairs[1])
    apart = [amplitude_distance(fake[:, band], real[:, band]) for band in range(2)]
    found = {
        "enl": looks(fake),
        "enl_real": looks(real),
        "ks": statistics.mean(float(x.ks) for x in apart),
        "wasserstein_db": statistics.mean(float(x.wasserstein) for x in apart),
        "spectrum_db": float(log_spectral_distance(fake, real)),
    }
    return found | {"enl_ratio": found["enl"] / found["enl_real"]}, fake


def strip(images: list[Tensor], path: Path) -> None:
    """Real, then every variant: VV of the first held-out patches in rows."""
    rows = [torch.cat(list(image[:6, 0]), dim=1) for image in images]
    grey = ((torch.cat(rows) + 25) / 25 * 255).clamp(0, 255).byte().numpy()
    Image.fromarray(grey).resize((grey.shape[1] * 2, grey.shape[0] * 2), Image.Resampling.NEAREST).save(path)


def main() -> None:
    options = arguments(__doc__ or "", out="out/speckle", data="../shared/data", steps=400, seeds=3, sets="")
    torch.set_num_threads(1)
    out, data = Path(options.out), Path(options.data)
    out.mkdir(parents=True, exist_ok=True)
    sets = {
        "sample": lambda: sample(out),
        "terramesh": lambda: terramesh(data),
        "sen1floods11": lambda: sen1floods11(data),
        "bigearthnet": lambda: bigearthnet(data),
    }
    print("| set | variant | ENL fake / real | KS | Wasserstein, dB | spectrum, dB | seeds |\n" + 7 * "|---" + "|")
    for name in options.sets.split() or sets:
        learn, judge = split(sets[name]())
        shown = [decibel(judge[1])]
        for variant, noise in VARIANTS.items():
            results = []
            for seed in range(options.seeds):
                path = out / f"{name}-{variant.replace(' ', '-')}-{seed}-{options.steps}.json"
                if not path.exists():
                    begun = time.process_time()
                    found, fake = score(train(learn, noise, seed, options.steps), judge)
                    torch.save(fake[:6], path.with_suffix(".pt"))
                    path.write_text(json.dumps(found | {"seconds": time.process_time() - begun}))
                results.append(json.loads(path.read_text()))
            shown.append(
                torch.load(out / f"{name}-{variant.replace(' ', '-')}-0-{options.steps}.pt", weights_only=True)
            )
            cells = [[result[key] for result in results] for key in SCORES]
            spread = [f"{statistics.mean(c):.2f} ± {statistics.stdev(c) if len(c) > 1 else 0:.2f}" for c in cells]
            print(f"| {name} | {variant} | {' | '.join(spread)} | {len(results)} |", flush=True)
        strip(shown, out / f"{name}.png")


if __name__ == "__main__":
    main()
