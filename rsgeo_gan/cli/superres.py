"""The command that makes finer scenes: of one raster, or a whole super-resolution from a catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsgeo_gan import chain
from rsgeo_gan.chain import SuperresJob
from rsgeo_gan.cli.options import (
    RecipeOption,
    SetOption,
    TrainOption,
    read_numbers,
    read_settings,
    read_train,
    refuse,
)
from rsgeo_gan.cli.running import heed_termination, progress_bar, run_whole, wide_console
from rsgeo_gan.cli.shell import app

__all__ = ["superres_command"]

_SCENE_OPTIONS = (
    "reference",
    "checkpoint",
    "sensor",
    "bands",
    "reference_bands",
    "offset_dn",
    "alone",
    "align",
    "max_shift_px",
    "window_px",
)


@app.command(
    "superres",
    epilog="Examples: rsgeo-gan superres S2.tif --reference AERIAL.tif --checkpoint best.ckpt --out fine.tif; "
    "rsgeo-gan superres --catalog superres --out out/superres",
)
def superres_command(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The GeoTIFF to write, OUT.tif; with a catalogue the output folder.")
    ],
    scene: Annotated[
        str | None,
        typer.Argument(
            metavar="SCENE",
            help="The raster to sharpen, instead of a catalogue; one-band files joined by commas are one raster.",
            show_default=False,
        ),
    ] = None,
    catalog: Annotated[
        str | None, typer.Option("--catalog", "-c", help="Catalogue: collect, train, sharpen, report.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The .ckpt file of a super-resolution.", show_default=False)
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference", "-r", help="A sharper image of the same place, likewise; may be given more than once."
        ),
    ] = None,
    sensor: Annotated[str | None, typer.Option(help="Sensor of SCENE; default: the checkpoint's.")] = None,
    bands: Annotated[
        str | None, typer.Option(metavar="N,N", help="Bands of SCENE, counted from 1, when names do not tell.")
    ] = None,
    reference_bands: Annotated[str | None, typer.Option(metavar="N,N", help="The same for the references.")] = None,
    offset_dn: Annotated[
        float,
        typer.Option(
            "--offset-dn",
            help="Added to DNs of SCENE that tell no offset of their own (Sentinel-2 since baseline 04.00: -1000).",
        ),
    ] = 0.0,
    alone: Annotated[
        bool, typer.Option("--alone", help="Do without a reference although the network was trained with one.")
    ] = False,
    align: Annotated[
        bool, typer.Option(help="Measure where references lie, and move them; else trust their georeference.")
    ] = True,
    max_shift_px: Annotated[
        float, typer.Option(help="Largest displacement of a reference looked for, pixels of SCENE.")
    ] = 12.0,
    uncertainty: Annotated[
        int | None, typer.Option(min=0, max=8, help="Turned copies whose spread is written; 0: none. [default: 4]")
    ] = None,
    window_px: Annotated[int, typer.Option(min=16, help="Side of a window, pixels of SCENE.")] = 192,
    device: Annotated[str, typer.Option(help="Torch device; auto: a GPU where there is one.")] = "auto",
    train: TrainOption = "if_missing",
    recipe: RecipeOption = "",
    settings: SetOption = None,
) -> None:
    """Divide the pixels of a scene: finer, on the same corner, clearly synthetic."""
    if (scene is None) == (catalog is None):
        raise typer.BadParameter("give either SCENE, or --catalog", param_hint="SCENE")
    if scene is None or catalog is not None:
        refuse(context, "--catalog", *_SCENE_OPTIONS)
        chosen = read_settings(settings)
        if uncertainty is not None:
            chosen["products.uncertainty"] = uncertainty
        job = SuperresJob(str(catalog), str(out), read_train(train), recipe, settings=chosen, device=device)
        titles = {"tiles": "Tiles", "scores": "Scores on held-out tiles, 95 % intervals"}
        return run_whole(job, chain.superres_headline, titles, "finer images")
    refuse(context, "SCENE", "train", "recipe", "settings")
    if checkpoint is None:
        raise typer.BadParameter("a scene needs the checkpoint of a network", param_hint="--checkpoint")
    if not 0 < max_shift_px <= 256:
        text = f"expected more than 0 and at most 256, got {max_shift_px:g}"
        raise typer.BadParameter(text, param_hint="--max-shift-px")
    if not reference:
        refuse(context, "a scene without --reference", "reference_bands", "max_shift_px")
    from rsgeo_gan.inference.superres import superres

    heed_termination()
    with progress_bar("superres") as progress:
        made = superres(
            _files(scene),
            checkpoint,
            out,
            references=[_files(text) for text in reference or ()],
            sensor=sensor,
            bands=read_numbers(bands, "--bands"),
            reference_bands=read_numbers(reference_bands, "--reference-bands"),
            offset_dn=offset_dn,
            alone=alone,
            align=align,
            max_shift_px=max_shift_px,
            uncertainty=4 if uncertainty is None else uncertainty,
            window_px=window_px,
            device=device,
            progress=progress,
        )
    console = wide_console()
    for line in made.lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _files(text: str) -> list[str]:
    """One raster, or the one-band files that commas join; a name that holds a comma is one raster where it exists."""
    return [text] if Path(text).exists() else [part for part in text.split(",") if part]
