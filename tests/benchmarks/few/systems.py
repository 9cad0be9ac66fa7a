"""The systems under study: two pairs of networks under four settings of the added terms, and one training."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.utils.data import DataLoader, WeightedRandomSampler

from few.data import Split
from rsgeo_gan.augment import AdaptiveAugmentation
from rsgeo_gan.losses import NonSaturating, Relativistic
from rsgeo_gan.models import DCGANDiscriminator, DCGANGenerator, StyleDiscriminator, StyleGenerator
from rsgeo_gan.tasks import ImageSynthesis

UNIFORMITY, ENTROPY = 0.2, 0.5
"""Weights of the reference, on the features of both networks."""
SETTINGS = {
    "off": (0.0, 0.0),
    "both": (UNIFORMITY, ENTROPY),
    "UR only": (UNIFORMITY, 0.0),
    "ER only": (0.0, ENTROPY),
}
ARCHITECTURES = ("style", "relativistic")


@dataclass(frozen=True)
class Size:
    """How large networks and trainings are.

    Attributes:
        width: Channels at the finest resolution of the pair with styles; the other has twice as many.
        max_width: Most channels.
        latent: Length of a latent.
        side_px: Side of the chips.
        batch: Chips in a batch; uniformity is measured in halves of it.
        steps: Batches.
        decay: Of the moving average of the weights.
        augment: Adaptive augmentation, as in the reference.
        device: Lightning's accelerator.
    """

    width: int = 8
    max_width: int = 64
    latent: int = 64
    side_px: int = 32
    batch: int = 8
    steps: int = 600
    decay: float = 0.98
    augment: bool = True
    device: str = "cpu"


FULL = Size(32, 256, 128, 64, 32, 20_000, 0.999, True, "auto")


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        architecture: style or relativistic.
        setting: off, both, UR only or ER only.
        classes: Classes learnt; 0 for all.
        per_class: Most training chips of a class.
        seed: Of weights, noise and batches, and of which few chips are learnt.
    """

    architecture: str
    setting: str
    classes: int
    per_class: int
    seed: int


def train(cell: Cell, split: Split, size: Size) -> tuple[ImageSynthesis, float]:
    """Train one system from scratch; every class is drawn equally often.

    Returns:
        The task with its averaged weights, in evaluation mode, and the processor seconds it took.
    """
    seed_everything(cell.seed, verbose=False)
    chips = split.train
    task = _task(cell, chips.images.shape[1], chips.codes.shape[1], size)
    task.facts = dict(split.facts)
    samples = [
        {"image": image, "mask_valid": torch.ones_like(image[:1]), "condition": code, "tile": torch.tensor(k)}
        for k, (image, code) in enumerate(zip(chips.images, chips.codes, strict=True))
    ]
    drawn = WeightedRandomSampler(chips.evenly.tolist(), size.steps * size.batch // 10)
    loader: Any = DataLoader(samples, batch_size=size.batch, sampler=drawn, drop_last=True)  # type: ignore[arg-type]
    # Networks of all settings are made alike; noise and batches are to be the same, too.
    torch.manual_seed(cell.seed)
    trainer = Trainer(
        max_epochs=10,
        accelerator=size.device,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[EMAWeightAveraging(decay=size.decay, use_buffers=True)],
    )
    start = time.process_time()
    trainer.fit(task, loader)
    return task.cpu().eval(), time.process_time() - start


def _task(cell: Cell, bands: int, codes: int, size: Size) -> ImageSynthesis:
    uniform, entropic = SETTINGS[cell.setting]
    common: dict[str, Any] = {
        "size_px": size.side_px,
        "width": size.width,
        "max_width": size.max_width,
        "condition_dim": codes,
    }
    added = {"uniformity_g": uniform, "uniformity_d": uniform, "entropy_g": entropic, "entropy_d": entropic}
    augmentation = AdaptiveAugmentation(speed_images=10 * size.steps) if size.augment else None
    if cell.architecture == "style":
        return ImageSynthesis(
            StyleGenerator(bands, latent_dim=size.latent, mapping_layers=2, mixing=0.5, **common),
            StyleDiscriminator(bands, group=4, **common),
            NonSaturating(),
            augmentation,
            weights={"r1": 0.1, "r2": 0.0, **added},
            penalty_every=8,
            lr=2.5e-3,
            decay_share=0.25,
        )
    # Cheaper layers than those of the other pair, so twice as many; at higher rates it repeats one image of a class.
    common["width"] = 2 * size.width
    return ImageSynthesis(
        DCGANGenerator(bands, latent_dim=size.latent, norm="batch", **common),
        DCGANDiscriminator(bands, **common),
        Relativistic(),
        augmentation,
        weights={"r1": 0.1, "r2": 0.1, **added},
        penalty_every=4,
        lr=5e-4,
        decay_share=0.25,
    )
