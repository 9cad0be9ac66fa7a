"""Tasks of super-resolution, trained by two processes, and one of them by one; run in a process of its own.

    python -m tests.together_sharpening FOLDER TILES

Leaves `decoupled`, `references` and `alone`, each with a `rankN.pt` of every process.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lightning.pytorch import seed_everything

from rsgeo_gan.datamodules import SuperResolutionDataModule
from rsgeo_gan.losses import LeastSquares, Perceptual
from rsgeo_gan.models import Constrained, PatchDiscriminator, RandomFeatures, SRResNet, TextureTransfer
from rsgeo_gan.tasks import ReferenceSuperResolution, SuperResolution
from tests.together import fit, quieten

PATCHES = 8
SIDE = 8
SCALE = 2
WIDTHS = {"scale": SCALE, "width": 4, "blocks": 1}


def data(tiles: Path, processes: int, references: int = 0) -> SuperResolutionDataModule:
    """`PATCHES` patches a step and one step an epoch."""
    return SuperResolutionDataModule(
        str(tiles),
        scale=SCALE,
        patch_size=SIDE,
        batch_size=PATCHES // processes,
        length=PATCHES,
        references=references,
        val_length=6,
        seed=3,
    )


def decoupled() -> SuperResolution:
    """Two networks and a discriminator that steps ahead; nothing that depends on which batch is the first."""
    seed_everything(1)
    return SuperResolution(
        Constrained(SRResNet(3, 3, **WIDTHS)),
        PatchDiscriminator(6, width=4, layers=2),
        adversarial=LeastSquares(),
        residual=SRResNet(3, 3, **WIDTHS),
        conditional=True,
        discriminator_steps=2,
        weights={"r1": 0.1},
        penalty_every=2,
    )


def references() -> ReferenceSuperResolution:
    """Content in the first epoch, all terms in the second; features and floor are measured on the first batch."""
    seed_everything(1)
    return ReferenceSuperResolution(
        TextureTransfer(SRResNet(3, 3, **WIDTHS), RandomFeatures(1, 4), common=[[1, 0]], window_px=2),
        PatchDiscriminator(3, width=4, layers=2),
        Perceptual(RandomFeatures(3, 4, seed=1)),
        adversarial=LeastSquares(),
        content_epochs=1,
    )


if __name__ == "__main__":
    quieten()
    folder, tiles = Path(sys.argv[1]), Path(sys.argv[2])
    fit(folder / "decoupled", decoupled(), data(tiles, 2), 2)
    fit(folder / "references", references(), data(tiles, 2, references=1), 2)
    # The last one: what is forked must not have computed before.
    fit(folder / "alone", decoupled(), data(tiles, 1), 1)
