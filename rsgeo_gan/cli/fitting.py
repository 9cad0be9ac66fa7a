"""LightningCLI's own commands, their arguments passed on untouched."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from rsgeo_gan import __version__
from rsgeo_gan.cli.shell import app

__all__ = ["lightning"]

_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def lightning(arguments: Sequence[str]) -> None:
    """Run LightningCLI on a command and its arguments."""
    from lightning.pytorch.cli import LightningCLI
    from torchgeo.datamodules import BaseDataModule
    from torchgeo.tasks import BaseTask

    sys.argv = ["rsgeo-gan", *arguments]
    LightningCLI(
        model_class=BaseTask,
        datamodule_class=BaseDataModule,
        seed_everything_default=0,
        parser_kwargs={"version": __version__},
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
    )


def _lightning_command(name: str, text: str) -> None:
    """Add one command of LightningCLI, its arguments passed on untouched."""

    def command(ctx: typer.Context) -> None:
        lightning([name, *ctx.args])

    command.__doc__ = f"{text}\n\nExample: rsgeo-gan {name} --config recipe.yaml (as `torchgeo {name}`)"
    app.command(name, context_settings=_THROUGH, add_help_option=False)(command)


_lightning_command("fit", "Train from a recipe, by LightningCLI.")
_lightning_command("validate", "Evaluate a checkpoint on the validation split, by LightningCLI.")
_lightning_command("test", "Evaluate a checkpoint on the test split, by LightningCLI.")
_lightning_command("predict", "Predict with a checkpoint, by LightningCLI.")
