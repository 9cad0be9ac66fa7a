"""Terms that spread the features of generated images: of which block, how far, and what is seen of them.

Reference: Su et al., arXiv:2303.05240 (uniformity and entropy regularisation).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from rsgeo_gan.losses import EntropyLimit, entropy
from rsgeo_gan.losses.features import feature_scale, halved_uniformity, halves, masked_features
from rsgeo_gan.tasks.base import Terms

__all__ = ["EntropyMode", "Spreading", "check_taps", "usual_tap"]

EntropyMode = Literal["gaussian", "reference"]

_TAP_PX = 32
_TERMS = ("uniformity", "entropy")


class Spreading:
    """Uniformity and entropy of the features of both networks, "g" the generator's and "d" the discriminator's.

    Args:
        weights: Weight by term: uniformity_g, uniformity_d, entropy_g and entropy_d.
        mode: Estimate of the entropy, see `rsgeo_gan.losses.entropy`.
        cap: Largest entropy that is rewarded: a number for both networks, "real" for what real images have in the
            discriminator; no limit when None.
        limit: Keeps that of real images; a part of the task, whose state it belongs to.

    Raises:
        ValueError: If mode or cap are none of these.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        mode: EntropyMode,
        cap: float | Literal["real"] | None,
        limit: EntropyLimit,
    ) -> None:
        if mode not in get_args(EntropyMode):
            raise ValueError(f'ImageSynthesis: expected entropy_mode "gaussian" or "reference", got {mode!r}')
        if not (cap is None or cap == "real" or isinstance(cap, int | float)):
            raise ValueError(f'ImageSynthesis: expected entropy_cap as a number, "real" or none, got {cap!r}')
        self.weights = weights
        self.mode = mode
        self.cap = cap
        self.limit = limit

    def check_batch(self, size: int) -> None:
        """See that a batch of one process is large enough.

        Raises:
            ValueError: If uniformity has a weight and nothing to compare.
        """
        if size < 2 and any(self.weights[f"uniformity_{side}"] > 0 for side in "gd"):
            raise ValueError(
                f"ImageSynthesis: uniformity compares the images of a batch of one process: expected batch_size >= 2 "
                f"(4 for two halves), got {size}; raise batch_size, or set the weights of uniformity_g and "
                "uniformity_d to 0"
            )

    def of(self, side: str) -> bool:
        """Tell whether any term of a network has a weight."""
        return any(self.weights[f"{kind}_{side}"] > 0 for kind in _TERMS)

    @property
    def limits(self) -> bool:
        """Whether real images are to be looked at."""
        return self.cap == "real" and self.weights["entropy_d"] > 0

    def real(self, maps: Tensor, mask: Tensor) -> Tensor:
        """Return the entropy of the discriminator's features (B, C, h, w) of real images, and keep it as the limit."""
        held = entropy(_flat(maps.detach(), mask), self.mode)
        if self.limits:
            self.limit.update(held)
        return held

    def terms(self, side: str, maps: Tensor, mask: Tensor, *, look: bool) -> tuple[Terms, dict[str, Tensor]]:
        """Measure one network's features of generated images.

        Args:
            side: Which network's.
            maps: Features, shape (B, C, h, w).
            mask: Validity of the images, shape (B, 1, H, W).
            look: Describe them too.

        Returns:
            The terms that have a weight, to be minimised, and what the features are like.
        """
        features = _flat(maps, mask)
        wanted = {kind: self.weights[f"{kind}_{side}"] > 0 for kind in _TERMS}
        terms: Terms = {}
        with torch.set_grad_enabled(wanted["uniformity"]):
            apart = halved_uniformity(features)
        with torch.set_grad_enabled(wanted["entropy"]):
            held = entropy(features, self.mode)
        if wanted["uniformity"]:
            terms[f"uniformity_{side}"] = apart
        if wanted["entropy"]:
            terms[f"entropy_{side}"] = -self.capped(side, held)
        if not look:
            return terms, {}
        norm, deviation = feature_scale(features)
        seen = {"entropy": held.detach(), "norm": norm, "deviation": deviation}
        if groups := halves(features):
            # Of groups this large only: the potential depends on it.
            seen |= {"potential": apart.detach().exp(), "group": torch.tensor(float(len(groups[0])))}
        return terms, {f"features/{name}_{side}": value for name, value in seen.items()}

    def capped(self, side: str, held: Tensor) -> Tensor:
        """Return an entropy up to the limit of its network."""
        if isinstance(self.cap, int | float):
            return held.clamp_max(float(self.cap))
        limited: Tensor = self.limit(held) if self.cap == "real" and side == "d" else held
        return limited


def usual_tap(network: nn.Module) -> str:
    """Return the tap at 32 px or a quarter of the image, or the next finer one."""
    sizes = sorted(int(name[1:]) for name in cast(Any, network).taps)
    wanted = min(_TAP_PX, int(cast(Any, network).size_px) // 4)
    return f"b{next((size for size in sizes if size >= wanted), sizes[-1])}"


def check_taps(task: str, networks: Mapping[str, nn.Module], taps: Mapping[str, str]) -> None:
    """See that networks have their taps, by the first letter of their names.

    Raises:
        ValueError: If one has not.
    """
    for name, network in networks.items():
        known = tuple(cast(Any, network).taps)
        if taps[name[0]] not in known:
            raise ValueError(
                f"{task}: {type(network).__name__} has no tap {taps[name[0]]!r}; set model.tap_{name} to one of "
                f"{', '.join(known)}"
            )


def _flat(maps: Tensor, mask: Tensor) -> Tensor:
    """Return one vector a sample, of valid cells where something is missing."""
    return masked_features(maps, None if bool(mask.all()) else mask)
