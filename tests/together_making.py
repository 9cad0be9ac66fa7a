"""Tasks that make images, trained by two processes, and one of them by one; run in a process of its own.

    python -m tests.together_making FOLDER TILES

Leaves `synthesis`, `decoupled` and `alone`, each with a `rankN.pt` of every process.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lightning.pytorch import seed_everything

from rsgeo_gan.augment import AdaptiveAugmentation
from rsgeo_gan.datamodules import TileDataModule
from rsgeo_gan.models import (
    Encoder,
    ImageDecoder,
    ImageDiscriminator,
    LatentDiscriminator,
    StyleDiscriminator,
    StyleGenerator,
)
from rsgeo_gan.tasks import ConditionalAutoencoding, ImageSynthesis
from tests.together import fit, quieten

SIZE = 32
PATCHES = 8
LATENT = 6


def data(tiles: Path, processes: int) -> TileDataModule:
    """`PATCHES` patches a step and one step an epoch, with the day as a condition."""
    return TileDataModule(
        str(tiles),
        side="source",
        patch_size=SIZE,
        batch_size=PATCHES // processes,
        length=PATCHES,
        conditions=["day"],
        seed=3,
    )


def synthesis() -> ImageSynthesis:
    """Everything that keeps a state or draws: styles, noise, path length, spread features, augmentation."""
    seed_everything(1)
    widths = {"size_px": SIZE, "width": 4, "max_width": 8, "condition_dim": 2}
    return ImageSynthesis(
        StyleGenerator(2, latent_dim=LATENT, mapping_layers=1, **widths),
        StyleDiscriminator(2, **widths),
        augmentation=AdaptiveAugmentation(p=0.4, target=0.1, speed_images=100, interval=1),
        weights={"path_length": 2.0, "uniformity_g": 0.2, "uniformity_d": 0.2, "entropy_g": 0.5, "entropy_d": 0.5},
        penalty_every=2,
        path_every=2,
    )


def decoupled() -> ConditionalAutoencoding:
    """Both discriminators; only that of codes meets noise, and the encoder hears nothing of it."""
    seed_everything(1)
    shared = {"size_px": SIZE, "latent_dim": LATENT, "width": 4}
    decoder = {"condition_dim": 2, **shared}
    return ConditionalAutoencoding(
        Encoder(2, **shared),
        ImageDecoder(2, **decoder),
        ImageDiscriminator(2, SIZE, 2, 4, 8),
        LatentDiscriminator(LATENT, 8),
        residual=ImageDecoder(2, norm="group", **decoder),
        weights={"adversarial_z": 0.5},
        quiet_share=1.0,
        ramp_share=0.0,
        r1_every=2,
    )


if __name__ == "__main__":
    quieten()
    folder, tiles = Path(sys.argv[1]), Path(sys.argv[2])
    fit(folder / "synthesis", synthesis(), data(tiles, 2), 2, "image")
    fit(folder / "decoupled", decoupled(), data(tiles, 2), 2, "image")
    # The last one: what is forked must not have computed before.
    fit(folder / "alone", decoupled(), data(tiles, 1), 1, "image")
