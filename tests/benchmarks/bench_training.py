"""One CycleGAN training step: our task against a plain step on the same networks.

    python tests/benchmarks/bench_training.py --width 64 --size 256

The plain step runs every generator for itself (two translations, two cycles, two identity passes) and the
discriminators once for the generators and twice for themselves, with ordinary Adam, as the first implementations did.
Ours leaves out identity, which has no meaning between unlike sensors; the middle row leaves it out of the plain step.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import arguments, interleave, quiet, ratios, table
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss


def networks(width: int, blocks: int) -> list[nn.Module]:
    from rsgeo_gan.models import PatchDiscriminator, ResNetGenerator

    torch.manual_seed(0)
    there, back = (ResNetGenerator(2, 2, width=width, blocks=blocks) for _ in range(2))
    return [there, back, PatchDiscriminator(2, width=width), PatchDiscriminator(2, width=width)]


def plain(width: int, blocks: int, images: tuple[Tensor, Tensor], *, identity: bool) -> Callable[[], None]:
    there, back, judge, judge_back = networks(width, blocks)
    settings = {"lr": 2e-4, "betas": (0.5, 0.999)}
    generators = torch.optim.Adam(itertools.chain(there.parameters(), back.parameters()), **settings)
    judges = torch.optim.Adam(itertools.chain(judge.parameters(), judge_back.parameters()), **settings)
    a, b = images

    def towards(logits: Tensor, value: float) -> Tensor:
        return mse_loss(logits, torch.full_like(logits, value))

    def step() -> None:
        fake_b, fake_a = there(a), back(b)
        loss = 10 * (l1_loss(back(fake_b), a) + l1_loss(there(fake_a), b))
        loss = loss + towards(judge(fake_b), 1) + towards(judge_back(fake_a), 1)
        if identity:
            loss = loss + 5 * (l1_loss(there(b), b) + l1_loss(back(a), a))
        judge.requires_grad_(False)
        judge_back.requires_grad_(False)
        generators.zero_grad()
        loss.backward()
        generators.step()
        judge.requires_grad_(True)
        judge_back.requires_grad_(True)
        judges.zero_grad()
        for network, real, fake in ((judge, b, fake_b), (judge_back, a, fake_a)):
            (0.5 * towards(network(real), 1) + 0.5 * towards(network(fake.detach()), 0)).backward()
        judges.step()

    return step


def ours(width: int, blocks: int, images: tuple[Tensor, Tensor], precision: str) -> Callable[[], None]:
    """A whole step of the task under Lightning, without data loading and logging to disk."""
    from lightning.pytorch import Trainer
    from torch.utils.data import DataLoader

    from rsgeo_gan.tasks import CycleTranslation

    task = CycleTranslation(*networks(width, blocks), weights={"pair": 0.0}, pool_size=0)
    a, b = (image[0] for image in images)
    mask = torch.ones(1, *a.shape[1:])
    sample = {
        "image": a,
        "image_target": b,
        "mask_valid": mask,
        "mask_valid_target": mask,
        "mask_confidence": mask,
        "residual_px": torch.tensor(0.0),
        "confidence": torch.tensor(1.0),
        "tile": torch.tensor(0),
    }

    def step() -> None:
        trainer.fit(task, DataLoader([sample], batch_size=1))

    trainer: Any = None

    def timed() -> float:
        nonlocal trainer
        from lightning.pytorch import Callback

        class Clock(Callback):
            seconds = 0.0

            def on_train_batch_start(self, *_: Any) -> None:
                self.started = time.perf_counter()

            def on_train_batch_end(self, *_: Any) -> None:
                self.seconds = time.perf_counter() - self.started

        clock = Clock()
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            precision=precision,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        step()
        return clock.seconds

    return timed


def main() -> None:
    quiet()
    options = arguments(__doc__.splitlines()[0], width=32, blocks=3, size=128, rounds=3, threads=1)
    torch.set_num_threads(options.threads)
    import lightning.pytorch  # noqa: F401  (sets its own level when imported)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(1)
    images = tuple(torch.rand(1, 2, options.size, options.size) * 2 - 1 for _ in range(2))
    common = (options.width, options.blocks, images)
    cases = {
        "plain step, with identity": plain(*common, identity=True),
        "plain step, without identity": plain(*common, identity=False),
        "rsgeo_gan CycleTranslation, fp32": ours(*common, "32-true"),
        "rsgeo_gan CycleTranslation, bf16": ours(*common, "bf16-mixed"),
    }
    seconds = interleave(cases, options.rounds)
    faster = ratios(seconds, "plain step, with identity")
    rows = [[name, f"{statistics.median(seconds[name]):.2f}", faster[name]] for name in cases]
    title = f"CycleGAN step, batch 1, {options.size} px, width {options.width}, {options.blocks} blocks"
    table(title, ["step", "s", "speed"], rows)


if __name__ == "__main__":
    main()
