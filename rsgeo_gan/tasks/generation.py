"""What tasks have in common that make images from noise and conditions: numbers of the networks, scores, pictures.

There is no real image that a generated one should equal, so sets are compared, and noise of validation, test and
prediction follows from seeds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from rsgeo_gan.conditions import Conditions
from rsgeo_gan.tasks.base import AdversarialTask, Batch
from rsgeo_gan.tasks.judging import LEAST_PX, Judge
from rsgeo_gan.tasks.noise import sample_noise, sample_seeds
from rsgeo_gan.tasks.pictures import picture, show, tiled
from rsgeo_gan.tasks.scoring import Channels

__all__ = ["GenerationTask", "check_pair"]

log = logging.getLogger(__name__)

_GSD_TOLERANCE = 0.05
_SHOWN = 16
"""Images in a logged picture, of the generated and of the real ones."""
_COUNTED = {"image": "bands", "condition": "entries of a condition", "patch": "pixels along a patch"}


class GenerationTask(AdversarialTask):
    """Base of tasks with a generator of images and a discriminator under the same conditions.

    A subclass sets `judge`, and its `prepare` adds `fake`, images of the data, from the `seed` of each sample outside
    of training.
    """

    monitor = "val/fd"
    mode = "min"

    generator: nn.Module
    discriminator: nn.Module
    judge: Judge
    _drawn = 0

    @classmethod
    def channels(cls, arguments: Mapping[str, Any]) -> Channels:
        """Return what the numbers of each network must be: bands, entries of a condition, pixels of a patch."""
        shared = {"condition_dim": ("condition",), "size_px": ("patch",)}
        return {
            "generator": {"out_channels": ("image",), **shared},
            "discriminator": {"in_channels": ("image",), **shared},
        }

    def setup(self, stage: str) -> None:
        """Take facts of the data over and see that the networks and the features of the scores have its numbers.

        Raises:
            ValueError: If they have not.
        """
        super().setup(stage)
        scaler = self.facts.get("image")
        found = {
            "image": None if scaler is None else len(scaler["bands"]),
            "condition": _width(self.facts.get("conditions")) if self.facts else None,
            "patch": self.facts.get("patch_px"),
        }
        for name, numbers in self.channels(self.hparams).items():
            for number, (counted,) in numbers.items():
                built, wanted = getattr(getattr(self, name), number, None), found[counted]
                if wanted is not None and built is not None and built != wanted:
                    raise ValueError(
                        f"{type(self).__name__}: {name} was built with {number} {built}, but the tiles ask for "
                        f"{wanted} ({_COUNTED[counted]}); set model.init_args.{name}.init_args.{number} to {wanted}"
                    )

        own = getattr(self.judge.backend, "in_bands", None)
        if found["image"] is not None and own is not None and own != found["image"]:
            raise ValueError(
                f"{type(self).__name__}: the backend of the scores takes {own} bands, but the tiles have "
                f"{found['image']}; give one for the bands of the tiles, or none for a random one"
            )
        if stage == "fit":
            self._advise(found["patch"])

    def _advise(self, patch_px: int | None) -> None:
        """Warn of what may be meant, but seldom is."""
        if patch_px is not None and self.judge.backend is None and patch_px < LEAST_PX:
            log.warning(
                "patches of %d px are too small for the features of scores, which need %d px; %s will be NaN",
                patch_px,
                LEAST_PX,
                self.monitor,
            )
        here, built = self.facts.get("gsd"), getattr(self.generator, "gsd_m", None)
        if here and built and abs(built / float(here) - 1) > _GSD_TOLERANCE:
            log.warning(
                "the generator's frequencies are stated for pixels of %g m, the tiles have %g (units of their CRS); if "
                "these are metres, correct gsd_m of the generator",
                built,
                here,
            )
        turned = getattr(getattr(self, "augmentation", None), "turns", False)
        if turned and (self.facts.get("image") or {}).get("unit") == "dB":
            log.warning(
                "radar images are turned and mirrored, so that generated ones look from all sides; set "
                "model.augmentation.init_args.turns to false to keep the look direction"
            )

    def forward(self, z: Tensor, condition: Tensor | None = None, origin_px: Tensor | None = None) -> Tensor:
        """Generate images of the data from noise, shape (B, C, H, W), model domain."""
        made: Tensor = self.generator(z, condition, origin_px=origin_px)
        return made

    def _condition(self, batch: Batch) -> Tensor | None:
        width = int(getattr(self.generator, "condition_dim", 0) or 0)
        if not width:
            return None
        found = batch.get("condition")
        if found is None or found.shape[1:] != (width,):
            raise ValueError(
                f"{type(self).__name__}: the networks expect conditions of {width} numbers, but the batch has "
                f"{'none' if found is None else tuple(found.shape)}; set `conditions` of the data module, or "
                "condition_dim of the networks to 0"
            )
        return cast(Tensor, found)

    def on_validation_epoch_start(self) -> None:
        """Begin with the first of the fixed noise."""
        self._drawn = 0

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Generate an image for each real one, and once an epoch draw some."""
        made = self._generated(batch)
        if batch_idx == 0 and not self.trainer.sanity_checking:
            bands = (self.facts.get("image") or {}).get("bands")
            panels = [tiled(picture(made[key][:_SHOWN], bands), 4) for key in ("fake", "image")]
            show(self.loggers, "images/generated, real", torch.cat(panels, dim=-1), self.batches_seen)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Generate an image for each real one."""
        self._generated(batch)

    def _generated(self, batch: Batch) -> Batch:
        first = self._drawn * self.trainer.world_size + self.global_rank
        count = len(batch["image"])
        self._drawn += count
        made = self.prepare(batch | {"seed": [first + k * self.trainer.world_size for k in range(count)]})
        made["fake"] = made["fake"].float().clamp(-1, 1)
        self.judge.add("real", made["image"], made["mask_valid"])
        self.judge.add("fake", made["fake"], made["mask_valid"])
        return made

    def on_validation_epoch_end(self) -> None:
        """Compare what was generated with what is real."""
        if self.trainer.sanity_checking:
            self.judge.forget()
            return
        self.log_dict({f"val/{name}": value for name, value in self.judge.scores().items()})

    def on_test_epoch_end(self) -> None:
        """Compare what was generated with what is real."""
        self.log_dict({f"test/{name}": value for name, value in self.judge.scores().items()})

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return an image for each sample, model domain, and the tile it belongs to.

        Its noise follows from `seed` of the sample, else from tile and place, so it does not depend on the batch.
        """
        seeds = sample_seeds(batch)
        z = sample_noise(self.generator, len(seeds), self.device, seeds)
        made = self(z, self._condition(batch), batch.get("origin_px"))
        return {"prediction": made.float().clamp(-1, 1), "tile": batch["tile"]}

    def extra_state(self) -> dict[str, Any]:
        """Return how the features of the scores are standardised."""
        return {"judge": self.judge.state()}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `extra_state` returned."""
        self.judge.load(state.get("judge", {}))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add which features the scores are of."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["rsgeo_gan"]["features"] = self.judge.name


def check_pair(task: str, generator: nn.Module, discriminator: nn.Module) -> None:
    """See that a discriminator judges what a generator makes.

    Raises:
        ValueError: If it does not.
    """
    for what, other in (("out_channels", "in_channels"), ("condition_dim", "condition_dim"), ("size_px", "size_px")):
        made, judged = getattr(generator, what, None), getattr(discriminator, other, None)
        if made is not None and judged is not None and made != judged:
            raise ValueError(
                f"{task}: the generator has {what} {made}, the discriminator {other} {judged}; expected equal numbers"
            )


def _width(conditions: Mapping[str, Any] | None) -> int:
    return Conditions.from_dict(conditions).width if conditions else 0
