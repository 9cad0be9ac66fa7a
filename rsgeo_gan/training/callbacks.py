"""Lightning callbacks of a training process: say how far it is, start from another checkpoint's weights."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from rsgeo_gan.errors import CheckpointError

__all__ = ["ProgressFile", "StartFrom"]


class ProgressFile(Callback):
    """Write `progress.json`, atomically and at most once per interval, for a process that watches.

    Args:
        path: The file to write.
        interval_s: Shortest time between two writes, in seconds.
    """

    def __init__(self, path: str, interval_s: float = 1.0) -> None:
        super().__init__()
        self.path = Path(path)
        self.interval_s = interval_s
        self._last_s = 0.0

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Report the batch just finished."""
        now = time.monotonic()
        if now - self._last_s >= self.interval_s:
            self._last_s = now
            self._write(trainer, "running")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the end and which checkpoint to publish: the best one, or the last where nothing is monitored."""
        checkpoint = ""
        for callback in trainer.checkpoint_callbacks:
            best = str(getattr(callback, "best_model_path", "") or "")
            last = str(getattr(callback, "last_model_path", "") or "")
            checkpoint = checkpoint or best or last
        self._write(trainer, "finished", checkpoint=checkpoint)

    def _write(self, trainer: Trainer, state: str, **more: str) -> None:
        if not trainer.is_global_zero:
            return
        per_epoch = int(trainer.num_training_batches)
        total = per_epoch * max(1, int(trainer.max_epochs or 1))
        done = total if state == "finished" else int(trainer.fit_loop.total_batch_idx) + 1
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if torch.isfinite(value).all()}
        text = json.dumps(
            {"state": state, "epoch": trainer.current_epoch, "done": done, "total": total, "metrics": values, **more}
        )
        part = self.path.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        part.replace(self.path)


class StartFrom(Callback):
    """Begin with the weights of another checkpoint, unless this training is being resumed.

    Args:
        path: Checkpoint of the same networks.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the weights before anything copies them (an EMA does so in its own setup)."""
        if stage != "fit" or trainer.ckpt_path is not None:
            return
        weights = torch.load(self.path, map_location="cpu", weights_only=True)["state_dict"]
        try:
            pl_module.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"Checkpoint {self.path} does not fit the recipe it should be refined with: {error}"
            ) from error
