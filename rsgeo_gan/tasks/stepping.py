"""What a step of an adversarial task needs around its terms: windows of accumulation, gradient norms, compilation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rsgeo_gan.errors import TrainingError
from rsgeo_gan.losses import Correspondence

__all__ = ["batches_planned", "check_trainer", "compile_networks", "limit_gradients", "window"]


def check_trainer(trainer: Any, task: str) -> None:
    """Refuse settings of the trainer that a task with two optimisers has itself, or that would be wrong.

    Raises:
        TrainingError: If the trainer accumulates or clips, trains in float16, or expects every weight in every
            backward pass.
    """
    if trainer.accumulate_grad_batches != 1:
        raise TrainingError(
            f"{task}: trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, but the trainer cannot "
            f"accumulate for two optimisers; remove it and set model.accumulate to {trainer.accumulate_grad_batches}."
        )
    if trainer.gradient_clip_val:
        raise TrainingError(
            f"{task}: trainer.gradient_clip_val is {trainer.gradient_clip_val}, but the trainer cannot clip for two "
            f"optimisers; remove it and set model.clip_norm to {trainer.gradient_clip_val}."
        )
    if str(trainer.precision).startswith("16"):
        raise TrainingError(
            f"{task}: trainer.precision is {trainer.precision}; one loss scale does not serve two optimisers. Use "
            "bf16-mixed, which needs none, or 32-true."
        )
    settings = getattr(trainer.strategy, "_ddp_kwargs", None)
    if settings is not None and not settings.get("find_unused_parameters"):
        raise TrainingError(
            f"{task}: this strategy expects every weight in every backward pass, but discriminators and generators "
            "have one each; set trainer.strategy to ddp_find_unused_parameters_true."
        )


def window(batch_idx: int, accumulate: int, batches: float) -> tuple[int, int]:
    """Return the first batch of the window that a batch belongs to, and how many batches the window has.

    The last window of an epoch has the batches that are left, and is a step like the others.
    """
    first = batch_idx - batch_idx % accumulate
    return first, accumulate if math.isinf(batches) else min(accumulate, int(batches) - first)


def batches_planned(trainer: Any, accumulate: int) -> float:
    """Return how many batches a training will take; infinite when neither epochs nor steps are limited."""
    total = float(trainer.num_training_batches) * trainer.max_epochs if (trainer.max_epochs or -1) > 0 else math.inf
    # Steps of optimisers, two for every `accumulate` batches.
    return min(total, trainer.max_steps * accumulate / 2) if trainer.max_steps > 0 else total


def limit_gradients(optimizer: Optimizer, limit: float | None) -> Tensor:
    """Return the norm of all gradients of an optimiser; those of a group are scaled down to a limit on their own."""
    norms = []
    for group in optimizer.param_groups:
        held = [p for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in held if p.grad is not None])
        if limit is not None:
            torch.nn.utils.clip_grads_with_norm_(held, limit, norm)
        norms.append(norm)
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def compile_networks(modules: Iterable[nn.Module | None], mode: bool | str) -> None:
    """Compile networks in place, each shape of its own, so that names in checkpoints stay as they are."""
    for module in modules:
        for network in module if isinstance(module, nn.ModuleList) else [module]:
            if network is not None and not isinstance(network, Correspondence):
                network.compile(mode=mode if isinstance(mode, str) else None, dynamic=False)
