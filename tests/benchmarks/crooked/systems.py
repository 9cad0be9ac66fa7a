"""The systems under study, and one training of equal steps for each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging

from crooked.data import CrookedPairs, bands
from rsgeo_gan.losses import (
    Combined,
    Correspondence,
    LeastSquares,
    PairLoss,
    PatchNCE,
    PooledL1,
    RegistrationHead,
    ShiftTolerantL1,
)
from rsgeo_gan.models import PatchDiscriminator, PyramidDiscriminator, PyramidGenerator, UNetGenerator
from rsgeo_gan.tasks import AdversarialTask, CycleTranslation, PairedTranslation, SinglePairTranslation


@dataclass(frozen=True)
class Size:
    """How large networks and trainings are.

    Attributes:
        width: Channels of the first stage.
        depth: Levels of the generators.
        side_px: Side of the patches.
        batch: Patches in a batch.
        steps: Batches.
        lr: Learning rate of the generators; the discriminators' is 0.3 of it.
        decay: Of the moving average of the weights.
        device: Lightning's accelerator.
        precision: Lightning's precision.
    """

    width: int = 16
    depth: int = 5
    side_px: int = 64
    batch: int = 2
    steps: int = 450
    lr: float = 5e-4
    decay: float = 0.98
    device: str = "cpu"
    precision: Any = "bf16-mixed"


FULL = Size(64, 7, 256, 8, 40_000, 2e-4, 0.999, "auto", "bf16-mixed")
Bands = tuple[int, int]


def _cycle(
    make: Callable[[Size], Correspondence | None], cycle: float, pair: float
) -> Callable[[Bands, Size], AdversarialTask]:
    """Build CycleGAN with a correspondence, generators with the path that keeps brightness, and noise for SAR."""

    def build(counts: Bands, size: Size) -> AdversarialTask:
        source, target = counts

        return CycleTranslation(
            _generator(source, target, target, size),
            _generator(target, source, 0, size),
            PatchDiscriminator(target, size.width),
            PatchDiscriminator(source, size.width),
            LeastSquares(),
            make(size),
            weights={"cycle": cycle, "pair": pair},
            pool_size=16,
            **_rates(size),
        )

    return build


def _generator(takes: int, gives: int, noise: int, size: Size) -> UNetGenerator:
    return UNetGenerator(
        takes, gives, width=size.width, depth=size.depth, noise_channels=noise, direct_channels=size.width
    )


def _pix2pix_ours(counts: Bands, size: Size) -> AdversarialTask:
    """Build Pix2Pix with the generator of the others, so that what is left is the difference of the losses."""
    source, target = counts
    generator = _generator(source, target, target, size)
    discriminator = PatchDiscriminator(source + target, size.width)
    return PairedTranslation(generator, discriminator, **_rates(size))


def _pix2pix(counts: Bands, size: Size) -> AdversarialTask:
    generator = UNetGenerator(*counts, width=size.width, depth=size.depth)
    return PairedTranslation(generator, PatchDiscriminator(sum(counts), size.width), **_rates(size))


def _tuigan(counts: Bands, size: Size) -> AdversarialTask:
    """Build TuiGAN's pyramid; it is fed the patches that all systems are fed, and does not use their pairing."""
    source, target = counts
    rates = {"lr": size.lr, "channels_last": True}
    return SinglePairTranslation(
        PyramidGenerator(source, target, width=2 * size.width),
        PyramidGenerator(target, source, width=2 * size.width),
        PyramidDiscriminator(target, width=2 * size.width),
        PyramidDiscriminator(source, width=2 * size.width),
        **rates,
    )


def _rates(size: Size) -> dict[str, Any]:
    return {"lr": size.lr, "lr_discriminator": 0.3 * size.lr, "ramp_share": 0.05, "channels_last": True}


def _both(size: Size) -> Correspondence:
    return Combined({"pair": PairLoss(decay=size.decay), "pooled": PooledL1(4, overlapping=True)}, {"pair": 0.1})


SYSTEMS: dict[str, Callable[[Bands, Size], AdversarialTask]] = {
    "CycleGAN": _cycle(lambda size: None, 10.0, 0.0),
    "Pix2Pix": _pix2pix,
    "Pix2Pix, our generator": _pix2pix_ours,
    "pair loss": _cycle(lambda size: PairLoss(decay=size.decay), 5.0, 5.0),
    "pooled L1": _cycle(lambda size: PooledL1(4, overlapping=True), 1.0, 50.0),
    "pair + pooled": _cycle(_both, 1.0, 50.0),
}
"""What the default run compares."""
MORE: dict[str, Callable[[Bands, Size], AdversarialTask]] = {
    "pair loss, literal": _cycle(lambda size: PairLoss(antialias=False, grad="through"), 5.0, 5.0),
    "registration head": _cycle(lambda size: RegistrationHead(pool=2), 1.0, 50.0),
    "shift-tolerant L1": _cycle(lambda size: ShiftTolerantL1(4, pool=4), 1.0, 50.0),
    "TuiGAN": _tuigan,
    "PatchNCE": _cycle(lambda size: PatchNCE(window=1, decay=size.decay), 5.0, 1.0),
}


def train(
    name: str, tiles: Path, level_px: float, smooth: bool, seed: int, size: Size
) -> tuple[AdversarialTask, float]:
    """Train one system from scratch.

    Returns:
        The task with its averaged weights, in evaluation mode, and the seconds it took.
    """
    seed_everything(seed, verbose=False)
    task = {**SYSTEMS, **MORE}[name](bands(tiles), size)
    epochs = 10
    data = CrookedPairs(
        level_px,
        smooth,
        size.side_px,
        tiles=str(tiles),
        batch_size=size.batch,
        length=size.batch * size.steps // epochs,
        seed=seed,
        val_length=size.batch,
    )
    trainer = Trainer(
        max_epochs=epochs,
        accelerator=size.device,
        devices=1,
        precision=size.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[EMAWeightAveraging(decay=size.decay, use_buffers=False)],
    )
    start = time.perf_counter()
    trainer.fit(task, datamodule=data)
    return task.cpu().eval(), time.perf_counter() - start
