"""One-band files as one raster: a VRT that shows them in order, under the names of their bands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from rsgeo_gan import raster
from rsgeo_gan.errors import SourceError
from rsgeo_gan.grid import crs_code, same_lattice
from rsgeo_gan.manifest import write_text

__all__ = ["band_names", "stack"]

_TYPES = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32"}
_TYPES |= {"int8": "Int8", "float32": "Float32", "float64": "Float64"}


def band_names(paths: Sequence[Path | str]) -> list[str]:
    """Tell the bands of one-band files by what their names have not in common: `l8_B2.tif`, `l8_B3.tif` are B2, B3."""
    stems = [Path(path).stem for path in paths]
    words = [re.split(r"[^A-Za-z0-9]+", stem) for stem in stems]
    for end in (0, -1):
        while all(len(own) > 1 for own in words) and len({own[end] for own in words}) == 1:
            words = [own[1:] if end == 0 else own[:-1] for own in words]
    told = ["_".join(own) for own in words]
    return told if len(set(told)) == len(told) else stems


def stack(paths: Sequence[Path | str], out: Path, names: Sequence[str] = ()) -> Path:
    """Write a VRT of one-band files of one grid; nothing is copied, and one that is there already is left alone.

    Args:
        paths: The files, in the order of the bands.
        out: The `.vrt` to write.
        names: Names of the bands; those that the files state, else those that `band_names` tells, when empty.

    Returns:
        The VRT, which is touched only when a file has changed.

    Raises:
        SourceError: If a file cannot be read, has more bands, or lies on another grid.
        GridError: If a file has no usable georeference.
        ProductError: If the VRT cannot be written.
    """
    infos = [raster.inspect(path) for path in paths]
    first = infos[0]
    for info in infos:
        if info.count != 1:
            raise SourceError(
                f"{info.path} has {info.count} bands: expected one band in each of {len(infos)} files that are given "
                "as one raster. Give a raster of several bands alone."
            )
        if info.geobox.shape != first.geobox.shape or same_lattice(first.geobox, info.geobox) != (0, 0):
            raise SourceError(
                f"{info.path} has {info.geobox.shape.x} x {info.geobox.shape.y} pixels of "
                f"{abs(info.geobox.resolution.x):g}; expected the grid of {first.path}, {first.geobox.shape.x} x "
                f"{first.geobox.shape.y} of {abs(first.geobox.resolution.x):g}. Leave the band out, or bring it there "
                "(gdalwarp)."
            )
        if info.dtype not in _TYPES or info.masked:
            raise SourceError(
                f"{info.path} holds {info.dtype}{' and a mask of its own' if info.masked else ''}: expected one of "
                f"{', '.join(_TYPES)}, with missing pixels told by nodata. Convert it (gdal_translate)."
            )
    told = list(names) or [info.names[0] or name for info, name in zip(infos, band_names(paths), strict=True)]
    height, width = first.geobox.shape
    transform = ", ".join(repr(float(value)) for value in first.geobox.affine.to_gdal())
    bands = "".join(_band(number, info, name) for number, (info, name) in enumerate(zip(infos, told, strict=True), 1))
    # The stamps make the text another one, and so the file newer, when one of its sources is.
    stamps = " ".join(_stamp(info.path) for info in infos)
    text = (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">\n'
        f" <SRS>{escape(crs_code(first.geobox))}</SRS>\n <GeoTransform>{transform}</GeoTransform>\n"
        f' <Metadata><MDI key="RSGEO_SOURCES">{stamps}</MDI></Metadata>\n{bands}</VRTDataset>\n'
    )
    if not (out.is_file() and out.read_text(encoding="utf-8") == text):
        write_text(out, text)
    return out


def _band(number: int, info: raster.RasterInfo, name: str) -> str:
    where = info.path if "://" in info.path or info.path.startswith("/vsi") else str(Path(info.path).resolve())
    nodata = "" if info.nodata is None else f"  <NoDataValue>{info.nodata!r}</NoDataValue>\n"
    scale, offset = info.scales[0], info.offsets[0]
    told = "" if (scale, offset) == (1.0, 0.0) else f"  <Scale>{scale!r}</Scale>\n  <Offset>{offset!r}</Offset>\n"
    return (
        f" <VRTRasterBand dataType={quoteattr(_TYPES[info.dtype])} band={quoteattr(str(number))}>\n"
        f"  <Description>{escape(name)}</Description>\n{nodata}{told}"
        f"  <SimpleSource><SourceFilename>{escape(where)}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>\n"
        " </VRTRasterBand>\n"
    )


def _stamp(path: str) -> str:
    file = Path(path)
    return f"{file.stat().st_size}:{file.stat().st_mtime_ns}" if file.is_file() else "-"
