"""The systems under study: how reconstruction and adversarial term share the work, and one training of each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.utils.data import DataLoader, RandomSampler

from branches.data import Data
from rsgeo_gan.models import Encoder, ImageDecoder, ImageDiscriminator, LatentDiscriminator
from rsgeo_gan.tasks import ConditionalAutoencoding

RATES = {"adam": (5e-4, 1e-3, 2e-3), "sgd": (0.005, 0.02, 0.04)}
"""Learning rates by optimiser; the middle one is used where rates are not compared."""
MOMENTUM = 0.9
DISCRIMINATOR_SHARE = {"adam": 1.0, "sgd": 0.02}
"""Learning rate of the discriminators as a share of the others'; at the same one plain gradient descent diverges."""


@dataclass(frozen=True)
class Size:
    """How large networks and trainings are.

    Attributes:
        width: Channels of the first convolution.
        latent: Length of a code.
        side_px: Side of the chips.
        batch: Chips in a batch.
        steps: Batches.
        decay: Of the moving average of the weights.
        device: Lightning's accelerator.
    """

    width: int = 16
    latent: int = 50
    side_px: int = 32
    batch: int = 16
    steps: int = 800
    decay: float = 0.98
    device: str = "cpu"


FULL = Size(64, 128, 64, 32, 30_000, 0.999, "auto")


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        mode: tied, decoupled or none.
        adversarial: Weight of the image's adversarial term.
        adversarial_z: Weight of the code's.
        optimizer: adam or sgd.
        lr: Learning rate.
        seed: Of weights and batches.
    """

    mode: Literal["tied", "decoupled", "none"]
    adversarial: float
    adversarial_z: float
    optimizer: Literal["adam", "sgd"]
    lr: float
    seed: int

    @property
    def pool(self) -> tuple[Any, ...]:
        """What is judged together: trainings that differ in mode and weights only."""
        return self.optimizer, self.lr, self.adversarial_z, self.seed


def train(cell: Cell, data: Data, size: Size) -> tuple[ConditionalAutoencoding, float]:
    """Train one system from scratch.

    Returns:
        The task with its averaged weights, in evaluation mode, and the seconds it took.
    """
    seed_everything(cell.seed, verbose=False)
    task = _task(cell, data, size)
    # Networks are built of other random numbers in every system; batches are to be the same.
    torch.manual_seed(cell.seed)
    samples = [
        {"image": image, "mask_valid": torch.ones_like(image[:1]), "condition": code, "tile": torch.tensor(k)}
        for k, (image, code) in enumerate(zip(data.train, data.train_conditions, strict=True))
    ]
    drawn = RandomSampler(samples, replacement=True, num_samples=size.steps * size.batch // 10)  # type: ignore[arg-type]
    trainer = Trainer(
        max_epochs=10,
        accelerator=size.device,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[EMAWeightAveraging(decay=size.decay, use_buffers=False)],
    )
    start = time.perf_counter()
    trainer.fit(task, DataLoader(samples, batch_size=size.batch, sampler=drawn, drop_last=True))  # type: ignore[arg-type]
    return task.cpu().eval(), time.perf_counter() - start


def _task(cell: Cell, data: Data, size: Size) -> ConditionalAutoencoding:
    bands, width = data.train.shape[1], data.train_conditions.shape[1]
    common = {"size_px": size.side_px, "width": size.width}

    def decoder(**more: Any) -> ImageDecoder:
        return ImageDecoder(bands, latent_dim=size.latent, condition_dim=width, **common, **more)

    encoder, generator = Encoder(bands, latent_dim=size.latent, **common), decoder()
    judges: dict[str, Any] = {}
    if cell.mode != "none":
        judges["discriminator"] = ImageDiscriminator(bands, condition_dim=width, **common)
        judges["discriminator_z"] = LatentDiscriminator(size.latent)
    task = ConditionalAutoencoding(
        encoder,
        generator,
        residual=decoder(norm="group") if cell.mode == "decoupled" else None,
        mode=cell.mode,
        weights={"adversarial": cell.adversarial, "adversarial_z": cell.adversarial_z},
        optimizer=cell.optimizer,
        momentum=MOMENTUM if cell.optimizer == "sgd" else 0.0,
        lr=cell.lr,
        lr_discriminator=cell.lr * DISCRIMINATOR_SHARE[cell.optimizer],
        r1_every=4,
        **judges,
    )
    task.facts = dict(data.facts)
    return task
