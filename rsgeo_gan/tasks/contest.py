"""What a task of super-resolution adds for a discriminator: what it sees, its terms, its steps ahead."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from rsgeo_gan.errors import TrainingError
from rsgeo_gan.losses import AdversarialLoss, interpolated_penalty, r1, r2
from rsgeo_gan.models import logit_mask
from rsgeo_gan.models.sampling import enlarge
from rsgeo_gan.tasks.base import Batch, Terms
from rsgeo_gan.tasks.scoring import holes
from rsgeo_gan.tasks.sharpening import SharpeningTask
from rsgeo_gan.tasks.stepping import limit_gradients

__all__ = ["JudgedSharpening", "counts_of"]


class JudgedSharpening(SharpeningTask):
    """Base of tasks whose images may be judged by a discriminator; see `SuperResolution` for the settings.

    Images reach it as real and made ones with one footprint of valid pixels.
    """

    discriminator: nn.Module | None
    adversarial: AdversarialLoss
    conditional: bool
    plain_epochs: int
    discriminator_steps: int
    penalty_every: int

    def weight_of(self, term: str) -> float:
        """Return a term's weight at this moment."""
        return self.weights[term] * (self.penalty_every if term in ("r1", "r2") else 1)

    def _judges(self) -> bool:
        """Tell whether the discriminator has a say in this epoch."""
        return self.discriminator is not None and self.weights["adversarial"] > 0 and not self._plain()

    def _plain(self) -> bool:
        return self.training and self.current_epoch < self.plain_epochs

    def _branch(self) -> AbstractContextManager[None]:
        """Surround what a discriminator computes; a task may give it random numbers of its own."""
        return nullcontext()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Let the discriminator step ahead where it is to, then take the step of both."""
        batch = dict(batch)
        if self.discriminator_steps > 1 and self._judges():
            batch = self.prepare(batch)
            for _ in range(self.discriminator_steps - 1):
                self._step_ahead(batch)
        super().training_step(batch, batch_idx)

    def _step_ahead(self, batch: Batch) -> None:
        """Take a step of the discriminator that the trainer does not count, so that a batch remains two steps."""
        optimizer = cast(list[LightningOptimizer], self.optimizers())[0]
        with optimizer.toggle_model():
            optimizer.zero_grad(set_to_none=True)
            self.manual_backward(self._weighted("train_d", self.discriminator_terms(batch)))
        within = optimizer.optimizer
        if not torch.isfinite(limit_gradients(within, self.clip_norm)):
            raise TrainingError(self._stopped("the gradient of train_d is not finite"))
        within.step()

    def _shown(self, image: Tensor, batch: Batch) -> Tensor:
        """Return what the discriminator sees of an image: its valid part, beside the enlarged input if asked."""
        parts = [image]
        if self.conditional:
            parts = [enlarge(batch["image"], self.scale, batch["mask_valid"]), image]
        return torch.where(batch["mask_both"] > 0, torch.cat(parts, dim=1), image.new_zeros(()))

    def _judged(self, shown: Tensor, mask: Tensor) -> Tensor:
        assert self.discriminator is not None
        return self._run(self.discriminator, shown, holes(mask))

    def discriminator_terms(self, batch: Batch) -> Terms:
        """Return `discrimination` and the penalties that have a weight; none without a discriminator."""
        if not self._judges():
            return {}
        mask = batch["mask_both"]
        real, fake = self._shown(batch["image_target"], batch), self._shown(batch["made"].detach(), batch)
        with self._branch():
            on_real, on_fake = self._judged(real, mask), self._judged(fake, mask)
            counts = counts_of(mask, on_real)
            terms = {"discrimination": self.adversarial.discriminator(on_real, on_fake, counts, counts)}

            def counted(at: Tensor) -> Tensor:
                logits = self._judged(at, mask)
                return logits if counts is None else logits * counts

            if self.batches_seen % self.penalty_every == 0:
                terms |= {
                    name: penalty(image, counted)
                    for name, penalty, image in (("r1", r1, real), ("r2", r2, fake))
                    if self.weights[name] > 0
                }
            if self.weights["penalty"] > 0:
                terms["penalty"] = interpolated_penalty(real, fake, counted, mask)
        return terms


def counts_of(mask: Tensor, logits: Tensor) -> Tensor | None:
    """Return which logits of patches count; None for one logit an image."""
    return logit_mask(mask, logits) if logits.ndim == 4 else None
