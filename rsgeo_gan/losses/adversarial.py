"""Adversarial objectives on patch logits: two methods each, no optimiser, no weights of terms.

Every objective reduces with `masked_mean`; masks are at the size of the logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.losses.reconstruction import masked_mean

__all__ = ["AdversarialLoss", "Hinge", "LeastSquares", "NonSaturating", "Wasserstein"]


class AdversarialLoss(nn.Module, ABC):
    """What a task expects of an adversarial objective."""

    @abstractmethod
    def generator(self, fake: Tensor, real: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the generator's loss.

        Args:
            fake: Logits of fakes, shape (B, 1, h, w).
            real: Logits of reals, for relativistic objectives only.
            mask: 1 where a logit of the fake counts, same shape.

        Returns:
            Scalar, float32.
        """

    @abstractmethod
    def discriminator(
        self, real: Tensor, fake: Tensor, mask_real: Tensor | None = None, mask_fake: Tensor | None = None
    ) -> Tensor:
        """Return the discriminator's loss.

        Args:
            real: Logits of reals, shape (B, 1, h, w).
            fake: Logits of fakes.
            mask_real: 1 where a logit of the real counts.
            mask_fake: 1 where a logit of the fake counts.

        Returns:
            Scalar, float32.
        """


class LeastSquares(AdversarialLoss):
    """Squared distance to 1 for real and 0 for fake; the discriminator's sum is halved.

    Reference: Mao et al., 2017, arXiv:1611.04076.
    """

    def generator(self, fake: Tensor, real: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Mean (fake - 1)²."""
        return masked_mean((fake.float() - 1.0).square(), mask)

    def discriminator(
        self, real: Tensor, fake: Tensor, mask_real: Tensor | None = None, mask_fake: Tensor | None = None
    ) -> Tensor:
        """Half of mean (real - 1)² + mean fake²."""
        on_real = masked_mean((real.float() - 1.0).square(), mask_real)
        return 0.5 * (on_real + masked_mean(fake.float().square(), mask_fake))


class Hinge(AdversarialLoss):
    """Margin of 1 on both sides for the discriminator, linear for the generator.

    Reference: Lim and Ye, 2017, arXiv:1705.02894.
    """

    def generator(self, fake: Tensor, real: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Mean -fake."""
        return -masked_mean(fake, mask)

    def discriminator(
        self, real: Tensor, fake: Tensor, mask_real: Tensor | None = None, mask_fake: Tensor | None = None
    ) -> Tensor:
        """Mean max(0, 1 - real) + mean max(0, 1 + fake)."""
        on_real = masked_mean(F.relu(1.0 - real.float()), mask_real)
        return on_real + masked_mean(F.relu(1.0 + fake.float()), mask_fake)


class NonSaturating(AdversarialLoss):
    """Logistic loss in its non-saturating form.

    Reference: Goodfellow et al., 2014, arXiv:1406.2661.
    """

    def generator(self, fake: Tensor, real: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Mean softplus(-fake)."""
        return masked_mean(F.softplus(-fake.float()), mask)

    def discriminator(
        self, real: Tensor, fake: Tensor, mask_real: Tensor | None = None, mask_fake: Tensor | None = None
    ) -> Tensor:
        """Mean softplus(-real) + mean softplus(fake)."""
        on_real = masked_mean(F.softplus(-real.float()), mask_real)
        return on_real + masked_mean(F.softplus(fake.float()), mask_fake)


class Wasserstein(AdversarialLoss):
    """Difference of the mean logits; the discriminator needs a penalty on its slope beside it.

    Reference: Arjovsky et al., 2017, arXiv:1701.07875.
    """

    def generator(self, fake: Tensor, real: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Mean -fake."""
        return -masked_mean(fake, mask)

    def discriminator(
        self, real: Tensor, fake: Tensor, mask_real: Tensor | None = None, mask_fake: Tensor | None = None
    ) -> Tensor:
        """Mean fake - mean real."""
        return masked_mean(fake, mask_fake) - masked_mean(real, mask_real)
