"""Commands on one trained model: write it for others, ask its registration head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsgeo_gan.chain import DIRECTIONS
from rsgeo_gan.cli.options import read_directions
from rsgeo_gan.cli.running import progress_bar
from rsgeo_gan.cli.shell import app, screen

__all__ = ["displacement_command", "export_command"]


@app.command(
    "export", epilog="Example: rsgeo-gan export out/sample/models/translation-1a2b3c4d5e6f.ckpt --out out/model"
)
def export_command(
    checkpoint: Annotated[Path, typer.Argument(help="The .ckpt file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make; an earlier export there is replaced.")],
    direction: Annotated[
        str,
        typer.Option(metavar="|".join((*DIRECTIONS, "both")), help="What to export; default: all the checkpoint has."),
    ] = "",
    scene: Annotated[
        Path | None, typer.Option(help="Raster whose statistics freeze the normalisation of one direction.")
    ] = None,
    tiles: Annotated[
        Path | None,
        typer.Option(help="tiles.json whose statistics do so; default: the tiles beside a published checkpoint."),
    ] = None,
    onnx: Annotated[bool, typer.Option(help="Write ONNX for onnxruntime and for QGIS with Deepness.")] = True,
    offset_dn: Annotated[
        float,
        typer.Option(
            help="Added to stored values first, such as -1000 for Sentinel-2 from processing baseline 04.00 on."
        ),
    ] = 0.0,
    tile_px: Annotated[int, typer.Option(min=64, max=4096, help="Side of the tiles in QGIS, pixels.")] = 512,
) -> None:
    """Write a trained model for others: safetensors, ONNX, a STAC item and a model card, without pickle."""
    if scene is not None and tiles is not None:
        raise typer.BadParameter("give either --scene or --tiles", param_hint="--scene")
    from rsgeo_gan.export import export

    with progress_bar("export") as progress:
        made = export(
            checkpoint,
            out,
            directions=read_directions(direction),
            scene=scene,
            tiles=tiles,
            onnx=onnx,
            offset_dn=offset_dn,
            tile_px=tile_px,
            progress=progress,
        )
    text = f"    export  {', '.join(made.directions)} in {made.path}"
    if onnx:
        text += f"; normalisation frozen to {made.origin}; ONNX within {made.difference:.1g} of PyTorch"
    screen.print(text, highlight=False, markup=False, soft_wrap=True)


@app.command(
    "displacement", epilog="Example: rsgeo-gan displacement best.ckpt --tiles out/mine/tiles/tiles.json --out out/left"
)
def displacement_command(
    checkpoint: Annotated[Path, typer.Argument(help="The .ckpt file of a training with a RegistrationHead.")],
    tiles: Annotated[Path, typer.Option(help="tiles.json, or its folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")],
    direction: Annotated[
        str, typer.Option(metavar="|".join(DIRECTIONS), help="Generator to use; default: the first one there is.")
    ] = "",
) -> None:
    """Show how far pairs are still apart by the registration head: rasters and arrows for QGIS."""
    if direction == "both":
        raise typer.BadParameter("give one direction at a time", param_hint="--direction")
    from rsgeo_gan.inference import learned_displacement

    with progress_bar("displacement") as progress:
        made = learned_displacement(
            checkpoint, tiles, out, direction=next(iter(read_directions(direction)), None), progress=progress
        )
    lengths = sorted(item.properties["rsgeo:median_px"] or 0.0 for item in made)
    pairs = "1 pair" if len(lengths) == 1 else f"{len(lengths)} pairs"
    text = f"displacement  {pairs} in {out}; median length {lengths[0]:.2f} to {lengths[-1]:.2f} px"
    screen.print(text, highlight=False, markup=False, soft_wrap=True)
