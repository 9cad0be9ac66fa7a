"""Adversarial objectives on logits, (B, 1) or of patches: two methods each, no optimiser, no weights of terms.

Every objective reduces with `masked_mean`; masks are at the size of the logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.losses.reconstruction import masked_mean

__all__ = ["AdversarialLoss", "Hinge", "LeastSquares", "NonSaturating", "Relativistic", "Wasserstein"]


class AdversarialLoss(nn.Module, ABC):
    """What a task expects of an adversarial objective.

    Attributes:
        relativistic: Whether the generator's loss needs the logits of the reals.
    """

    relativistic = False

    @abstractmethod
    def generator(self, fake: Tensor, real: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the generator's loss.

        Args:
            fake: Logits of fakes, shape (B, 1) or (B, 1, h, w).
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
            real: Logits of reals, shape (B, 1) or (B, 1, h, w).
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


class Relativistic(AdversarialLoss):
    """Logistic loss of the difference between a real and a fake, paired in the order of the batch.

    It needs penalties on the discriminator's slope at reals and at fakes beside it (`r1` and `r2`).

    Reference: Jolicoeur-Martineau, 2018, arXiv:1807.00734, in the form of Huang et al., 2024, arXiv:2501.05441 (R3GAN).
    """

    relativistic = True

    def generator(
        self,
        fake: Tensor,
        real: Tensor | None = None,
        mask: Tensor | None = None,
        mask_real: Tensor | None = None,
    ) -> Tensor:
        """Mean softplus(real - fake); a pair counts where both masks do.

        Raises:
            ValueError: If the logits of the reals are missing, or of another shape.
        """
        if real is None:
            raise ValueError("Relativistic: the generator's loss needs the logits of the reals too; pass real=")
        return self._paired(real, fake, mask_real, mask)

    def discriminator(
        self, real: Tensor, fake: Tensor, mask_real: Tensor | None = None, mask_fake: Tensor | None = None
    ) -> Tensor:
        """Mean softplus(fake - real); a pair counts where both masks do.

        Raises:
            ValueError: If the shapes of the logits differ.
        """
        return self._paired(fake, real, mask_fake, mask_real)

    @staticmethod
    def _paired(low: Tensor, high: Tensor, mask_low: Tensor | None, mask_high: Tensor | None) -> Tensor:
        """Pull `high` above `low`."""
        if low.shape != high.shape:
            raise ValueError(
                "Relativistic: expected as many reals as fakes, got logits of shapes "
                f"{tuple(low.shape)} and {tuple(high.shape)}; use batches of equal size"
            )
        masks = [mask.float() for mask in (mask_low, mask_high) if mask is not None]
        both = None if not masks else masks[0] if len(masks) == 1 else masks[0] * masks[1]
        return masked_mean(F.softplus(low.float() - high.float()), both)
