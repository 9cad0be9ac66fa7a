"""Images from noise and conditions: an adversarial pair, with terms that spread the features of what is generated.

References: Huang et al., 2024, arXiv:2501.05441 (R3GAN, the default objective); Karras et al., 2020, arXiv:1912.04958
(StyleGAN2: lazy penalties, path length) and arXiv:2006.06676 (adaptive augmentation); Su et al., arXiv:2303.05240
(uniformity and entropy regularisation); Khayatkhoei and Elgammal, arXiv:2010.01473 (full-band shift).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from rsgeo_gan.losses import AdversarialLoss, EntropyLimit, Relativistic, gradient_penalty, path_length
from rsgeo_gan.metrics import FeatureBackend
from rsgeo_gan.models.frequency import swap_spectrum
from rsgeo_gan.tasks.base import Batch, Terms
from rsgeo_gan.tasks.generation import GenerationTask, check_pair
from rsgeo_gan.tasks.judging import Judge, least_contrast
from rsgeo_gan.tasks.noise import sample_noise
from rsgeo_gan.tasks.spreading import EntropyMode, Spreading, check_taps, usual_tap
from rsgeo_gan.tasks.stepping import batches_planned

__all__ = ["ImageSynthesis"]

_OBSERVE_EVERY = 10
"""Batches between two looks at features and logits."""
_SPECTRUM = ("generator", "data")


class ImageSynthesis(GenerationTask):
    """Generate images from noise, and from conditions where the data have some.

    One batch of generated images serves both steps. They take the conditions of the batch in another order, each the
    place (`origin_px`) and the footprint without data of the real image beside it, and pass the same augmentation.

    Uniformity and entropy are measured on generated images only and only in the generator's step, on the output of one
    block of each network; discriminators see augmented images, so their features are of those. Uniformity is the mean
    over two halves of the batch of this process, not of all processes, and values of other batch sizes are another
    quantity. With weights of 0 the training is the one without these terms, bit for bit.

    Entropy has no upper bound. `entropy_cap` "real" limits that of the discriminator's features to a running mean of
    what real images have in the same block; the generator's features have no such counterpart and are limited by a
    number only. The terms logged are U and -H, both to be minimised.

    Penalties may be taken every k batches, with k times their weight. They are part of the step of that batch, not a
    step of their own, so there are no further steps that Adam's decay rates would have to be corrected for.

    A full-band shift exchanges low and high frequencies (mode A of the reference): with `spectrum.data` of what the
    discriminator sees, real and generated, after the augmentation; with `spectrum.generator` of what the generator
    puts out. Scores, pictures and predictions are images of the data in any case.

    Args:
        generator: From noise, conditions and places to images; see `rsgeo_gan.models.RelativisticGenerator`.
        discriminator: Judges images under their conditions, logits (B, 1).
        adversarial: Adversarial objective; the relativistic one when None.
        augmentation: Random changes of all images that the discriminator sees, with a strength that follows its
            logits, such as `AdaptiveAugmentation`; none when None.
        weights: Weight by term: adversarial 1; r1 and r2 1, which is the gamma of the literature; path_length,
            uniformity_g, uniformity_d, entropy_g and entropy_d 0 (the reference has 0.2 for uniformity and 0.5 for
            entropy, of both networks).
        penalty_every: Batches between two evaluations of r1 and r2.
        penalty_final: Factor that the weights of r1 and r2 reach at the end, falling linearly.
        path_every: Batches between two evaluations of the path length.
        tap_generator: Block of the generator whose features are spread; that of 32 px or of a quarter of the image,
            whichever is smaller, when None, or the next finer one that the network has.
        tap_discriminator: Block of the discriminator, likewise.
        entropy_mode: Estimate of the entropy, see `rsgeo_gan.losses.entropy`.
        entropy_cap: Largest entropy that is rewarded: a number for both networks, or "real"; no limit when None.
        spectrum: Where the full-band shift is applied: `{"generator": bool, "data": bool}`.
        backend: Feature network of the scores, ready for use; a random one, standardised on the first validation, when
            None.
        betas: Adam's two decay rates.
        more: See `AdversarialTask`.

    Raises:
        ValueError: If a weight names no term, a number is out of range, or the networks do not belong together.
    """

    default_weights: ClassVar[dict[str, float]] = {
        "adversarial": 1.0,
        "r1": 1.0,
        "r2": 1.0,
        "path_length": 0.0,
        "uniformity_g": 0.0,
        "uniformity_d": 0.0,
        "entropy_g": 0.0,
        "entropy_d": 0.0,
    }

    adversarial: AdversarialLoss
    augmentation: nn.Module | None
    entropy_limit: EntropyLimit
    path_mean: Tensor

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        adversarial: AdversarialLoss | None = None,
        augmentation: nn.Module | None = None,
        weights: dict[str, float] | None = None,
        penalty_every: int = 1,
        penalty_final: float = 1.0,
        path_every: int = 4,
        tap_generator: str | None = None,
        tap_discriminator: str | None = None,
        entropy_mode: EntropyMode = "gaussian",
        entropy_cap: float | Literal["real"] | None = "real",
        spectrum: dict[str, bool] | None = None,
        backend: nn.Module | None = None,
        betas: tuple[float, float] = (0.0, 0.99),
        **more: Any,
    ) -> None:
        if penalty_every < 1 or path_every < 1 or penalty_final < 0:
            raise ValueError(
                "ImageSynthesis: expected penalty_every and path_every >= 1 and penalty_final >= 0, got "
                f"{penalty_every}, {path_every} and {penalty_final}"
            )
        unknown = set(spectrum or ()) - set(_SPECTRUM)
        if unknown:
            raise ValueError(f"ImageSynthesis: spectrum has unknown keys {sorted(unknown)}; expected {_SPECTRUM}")
        check_pair(type(self).__name__, generator, discriminator)
        self.penalty_every = penalty_every
        self.penalty_final = penalty_final
        self.path_every = path_every
        self.swaps = {key: bool((spectrum or {}).get(key)) for key in _SPECTRUM}
        self.taps = {"g": tap_generator or usual_tap(generator), "d": tap_discriminator or usual_tap(discriminator)}
        self.parts = {
            "generator": generator,
            "discriminator": discriminator,
            "adversarial": Relativistic() if adversarial is None else adversarial,
            "augmentation": augmentation,
            "entropy_limit": EntropyLimit(),
        }
        super().__init__(weights=weights, betas=betas, **more)
        self.spreading = Spreading(self.weights, entropy_mode, entropy_cap, self.entropy_limit)
        self.judge = Judge(cast("FeatureBackend | None", backend))
        self.register_buffer("path_mean", torch.zeros(()))

    def setup(self, stage: str) -> None:
        """Take facts of the data over and see that networks, taps and batches fit them.

        Raises:
            ValueError: If a number of a network is not that of the data, a tap does not exist, or batches are too
                small for uniformity.
        """
        super().setup(stage)
        check_taps(type(self).__name__, {"generator": self.generator, "discriminator": self.discriminator}, self.taps)
        if self.weights["path_length"] > 0 and not hasattr(self.generator, "style"):
            raise ValueError(
                f"ImageSynthesis: path_length needs a generator with styles, which {type(self.generator).__name__} has "
                "not; set weights.path_length to 0 or use StyleGenerator"
            )
        size = getattr(getattr(self.trainer, "datamodule", None), "batch_size", None)
        if stage == "fit" and isinstance(size, int):
            self.spreading.check_batch(size)

    def _looks(self) -> bool:
        """Tell whether features and logits of this batch are logged."""
        return self.training and self.batches_seen % _OBSERVE_EVERY == 0

    def _taps(self, side: str) -> tuple[str, ...]:
        """Return the taps of a network that this batch needs."""
        return (self.taps[side],) if self._looks() or self.spreading.of(side) else ()

    def weight_of(self, term: str) -> float:
        """Return a term's weight; times k for what is evaluated every k batches."""
        weight = self.weights[term]
        if term in ("r1", "r2"):
            share = 0.0
            if self.penalty_final != 1:
                share = min(1.0, self.batches_seen / batches_planned(self.trainer, self.accumulate))
            return weight * self.penalty_every * (1 + (self.penalty_final - 1) * share)
        return weight * self.path_every if term == "path_length" else weight

    def forward(self, z: Tensor, condition: Tensor | None = None, origin_px: Tensor | None = None) -> Tensor:
        """Generate images of the data from noise, shape (B, C, H, W), model domain."""
        return self._natural(self.generator(z, condition, origin_px=origin_px), origin_px)

    def _natural(self, made: Tensor, origin_px: Tensor | None) -> Tensor:
        """Bring what the generator put out to the data's own spectrum."""
        # The generator's shift, then the data's taken back: two shifts are none.
        return swap_spectrum(made, origin_px) if self.swaps["generator"] != self.swaps["data"] else made

    def prepare(self, batch: Batch) -> Batch:
        """Add generated images (`fake`), and real and generated ones as the discriminator sees them (`shown_*`).

        Outside of training noise and conditions are those of the sample, and nothing is shown.
        """
        mask = batch["mask_valid"].float() if "mask_valid" in batch else torch.ones_like(batch["image"][:, :1])
        real = torch.where(mask > 0, batch["image"], batch["image"].new_zeros(()))
        wanted, origin = self._condition(batch), batch.get("origin_px")
        found: Batch = {"image": real, "mask_valid": mask, "condition": wanted}
        if self.training:
            z = sample_noise(self.generator, len(real), real.device)
            if wanted is not None:
                wanted = wanted[torch.randperm(len(wanted), device=wanted.device)]
            self.spreading.check_batch(len(real))
        else:
            z = sample_noise(self.generator, len(real), real.device, batch["seed"])
        taps = self._taps("g") if self.training else ()
        if taps:
            features = self.generator.forward_features(z, wanted, taps=taps, origin_px=origin)  # type: ignore[operator]
            fake = self.generator.forward_head(features)  # type: ignore[operator]
            found["features"] = features[taps[0]]
        else:
            fake = self.generator(z, wanted, origin_px=origin)
        fake = self._natural(fake, origin) * mask
        found |= {"z": z, "fake": fake, "condition_fake": wanted}
        if self.training:
            for kind, images in (("real", real), ("fake", fake)):
                shown, seen = (images, mask) if self.augmentation is None else self.augmentation(images, mask)
                if self.swaps["data"]:
                    shown = swap_spectrum(shown, origin)
                found |= {f"shown_{kind}": shown * seen, f"seen_{kind}": seen}
        return batch | found

    def _judge(self, images: Tensor, condition: Tensor | None, taps: tuple[str, ...] = ()) -> tuple[Tensor, Any]:
        """Return logits, and the features of a tap where one is asked for."""
        if not taps:
            return self.discriminator(images, condition), None
        features = self.discriminator.forward_features(images, taps)  # type: ignore[operator]
        return self.discriminator.forward_head(features, condition), features[taps[0]]  # type: ignore[operator]

    def discriminator_terms(self, batch: Batch) -> Terms:
        """Judge real and generated images: `adversarial`, and `r1` and `r2` where they have a weight and are due."""
        real, fake = batch["shown_real"], batch["shown_fake"].detach()
        taps = (self.taps["d"],) if self.spreading.limits or self._looks() else ()
        on_real, features = self._judge(real, batch["condition"], taps)
        on_fake, _ = self._judge(fake, batch["condition_fake"])
        batch["logits_real"] = on_real.detach()
        if features is not None:
            held = self.spreading.real(features, batch["seen_real"])
            self.log("features/entropy_d_real", held, batch_size=len(real))
        if self.augmentation is not None:
            cast(Any, self.augmentation).observe(on_real.detach())
        terms = {"adversarial": self.adversarial.discriminator(on_real, on_fake)}
        if self.batches_seen % self.penalty_every == 0:
            for name, kind, images, condition in (
                ("r1", "real", real, batch["condition"]),
                ("r2", "fake", fake, batch["condition_fake"]),
            ):
                if self.weights[name] > 0:
                    terms[name] = gradient_penalty(images, self._slope(condition, batch[f"seen_{kind}"]))
        if self._looks():
            self._log_looks(batch, on_real, on_fake)
        return terms

    def _slope(self, condition: Tensor | None, mask: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the discriminator as a function of valid pixels."""
        return lambda images: self.discriminator(images * mask, condition)

    def generator_terms(self, batch: Batch) -> Terms:
        """Return `adversarial`, and each other term where it has a weight and is due."""
        logits, features = self._judge(batch["shown_fake"], batch["condition_fake"], self._taps("d"))
        terms = {"adversarial": self.adversarial.generator(logits, batch["logits_real"])}
        if "features" in batch:
            terms |= self._spread("g", batch["features"], batch["mask_valid"])
        if features is not None:
            terms |= self._spread("d", features, batch["seen_fake"])
        if self.weights["path_length"] > 0 and self.batches_seen % self.path_every == 0:
            terms["path_length"] = self._path_length(batch)
        return terms

    def _spread(self, side: str, maps: Tensor, mask: Tensor) -> Terms:
        terms, seen = self.spreading.terms(side, maps, mask, look=self._looks())
        self.log_dict(seen, batch_size=len(maps))
        return terms

    def _path_length(self, batch: Batch) -> Tensor:
        """Return the penalty on path lengths of fresh styles, over half of the batch: it costs a second derivative."""
        count = (len(batch["z"]) + 1) // 2
        network: Any = self.generator
        z = sample_noise(network, count, self.device)
        given = (batch["condition_fake"], batch.get("origin_px"))
        condition, origin = (None if x is None else x[:count] for x in given)

        def synthesis(styles: Tensor) -> Tensor:
            made: Tensor = network.forward_head(network.forward_features(z, condition, origin_px=origin, styles=styles))
            return made

        penalty, mean = path_length(network.style(z, condition), synthesis, self.path_mean)
        self.path_mean.copy_(mean)
        return penalty

    @torch.no_grad()
    def _log_looks(self, batch: Batch, on_real: Tensor, on_fake: Tensor) -> None:
        seen = {
            "logits/sign_real": on_real.sign().mean(),
            "logits/sign_fake": on_fake.sign().mean(),
            "fake/out_of_range": (batch["fake"].abs() > 1).float().mean(),
        }
        if self.augmentation is not None:
            seen["augmentation/p"] = torch.as_tensor(cast(Any, self.augmentation).p).float()
        self.log_dict(seen, batch_size=len(on_real))

    @torch.no_grad()
    def contrast(self, batch: Batch) -> float:
        """Return the deviation of generated images over that of real ones; see `least_contrast`."""
        return least_contrast(batch["fake"], batch["image"])
