"""The command that judges folders of rasters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsgeo_gan.cli.options import read_numbers
from rsgeo_gan.cli.running import progress_bar, table_of, wide_console
from rsgeo_gan.cli.shell import app

if TYPE_CHECKING:
    from rsgeo_gan.score import Scores

__all__ = ["score_command"]

_PLAIN_WIDTH = 180
"""Columns of the table where the output is not a terminal."""


@app.command(
    "score",
    epilog="Examples: rsgeo-gan score data/real out/a/products out/b/products --out out/scores; "
    "rsgeo-gan score sar/real sar/fake --sensor sentinel1-rtc --sensor sentinel1-rtc-db --out out/scores",
)
def score_command(
    real: Annotated[Path, typer.Argument(metavar="REAL_DIR", help="Folder of real images.", show_default=False)],
    fakes: Annotated[
        list[Path], typer.Argument(metavar="FAKE_DIR...", help="Folders to be judged.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for scores.md, .csv, .json and .png.")],
    backend: Annotated[
        str, typer.Option(metavar="random-conv|inception|resnet", help="Features that the distances compare.")
    ] = "random-conv",
    weights: Annotated[Path | None, typer.Option(help="Local file of the backend's weights.")] = None,
    tile_px: Annotated[
        int | None, typer.Option(help="Side of the tiles; default: the smallest raster's, at most 128.")
    ] = None,
    bands: Annotated[
        str | None, typer.Option(metavar="N,N", help="Bands to use, counted from 1; default: all.")
    ] = None,
    sensor: Annotated[
        list[str] | None,
        typer.Option(help="What values are where files do not say: once for all folders, or once per folder."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", metavar="NAME,NAME", help="Only these classes (sub-folders or labels).")
    ] = None,
    asset: Annotated[str | None, typer.Option(help="Asset of STAC items that holds the image.")] = None,
    split: Annotated[str | None, typer.Option(help="Real items of this split only, such as test.")] = None,
    judge: Annotated[
        str,
        typer.Option(metavar="quick|published|none", help="How NRDS judges are trained; published takes hours."),
    ] = "quick",
    levels: Annotated[bool, typer.Option("--levels", help="Compare level by level of frequency too.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Number of judges.")] = 5,
    draws: Annotated[int, typer.Option(min=2, help="Random halves behind an interval.")] = 20,
    most: Annotated[int, typer.Option(min=10, help="Tiles of a folder that are read.")] = 1000,
    min_valid: Annotated[float, typer.Option(min=0, max=1, help="Share of valid pixels a tile needs.")] = 0.95,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse generated folders of unequal size.")] = False,
) -> None:
    """Judge folders of generated rasters, ours or not, against real ones: a table and a figure."""
    from rsgeo_gan.score import score_folders

    with progress_bar("score") as progress:
        scores = score_folders(
            real,
            fakes,
            out,
            backend=backend,
            weights=weights,
            tile_px=tile_px,
            bands=read_numbers(bands, "--bands"),
            sensors=sensor or (),
            classes=None if classes is None else [name.strip() for name in classes.split(",")],
            asset=asset,
            split=split,
            judge=judge,
            levels=levels,
            seeds=range(seeds),
            draws=draws,
            most=most,
            min_valid=min_valid,
            strict=strict,
            progress=progress,
        )
    _show(scores, out)


def _show(scores: Scores, out: Path) -> None:
    from rsgeo_gan.score.tables import HEADINGS, cells

    console = wide_console(_PLAIN_WIDTH)
    title = f"{scores.frechet_name}, {scores.count} tiles of {scores.tile_px} px a side, ± half a 95 % interval"
    rows = [dict(zip(HEADINGS, cells(row, short=True), strict=True)) for row in scores.rows]
    console.print(table_of(title, rows))
    for note in scores.notes:
        console.print(f"Note: {note}.", highlight=False, markup=False, soft_wrap=True)
    console.print(f"How to read it: {out / 'scores.md'}", highlight=False, soft_wrap=True)
