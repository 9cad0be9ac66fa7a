"""Loading a catalogue: finding the file, absolute paths, overrides, and errors that name file and key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from rsgeo_gan.catalog.models import Catalog
from rsgeo_gan.catalog.superres import SuperresCatalog
from rsgeo_gan.catalog.synthesis import SynthesisCatalog, SyntheticProducts
from rsgeo_gan.errors import CatalogError

__all__ = ["load", "load_superres", "load_synthesis", "products_of", "set_key", "validate"]

EMBEDDED = Path(__file__).parents[1] / "catalogs"
"""Catalogues that come with the package, found by bare name after those of the working directory."""

_PATH_KEYS = (
    "source.path",
    "target.path",
    "source.url",
    "target.url",
    "collect.images.path",
    "collect.images.splits.train",
    "collect.images.splits.val",
    "collect.images.splits.test",
    "collect.labels.path",
    "collect.low.images.path",
    "collect.references.*.images.path",
    "scoring.weights",
)
_EXAMPLE: dict[type[BaseModel], str] = {
    Catalog: "catalogs/folder.yaml",
    SynthesisCatalog: "catalogs/synthesis-folder.yaml",
    SuperresCatalog: "catalogs/superres-folder.yaml",
}


def load(path_or_name: Path | str, *, overrides: Mapping[str, Any] | None = None) -> Catalog:
    """Read a catalogue; what comes back is complete, checked and frozen.

    A bare name such as "sample" is looked for as `catalogs/<name>.yaml` in the working directory, then among
    those that come with the package. Relative paths in the file start from `root`, else from the file's
    folder; those in `overrides` start from the working directory.

    Args:
        path_or_name: Path of a YAML file, or a bare name.
        overrides: Values by dotted key that replace those of the file, such as {"source.path": "/data/s2"}.

    Returns:
        The catalogue, with absolute paths.

    Raises:
        CatalogError: If the file is missing or unreadable, or does not describe usable data; the text names
            the file, the key, what was expected and what was found.
    """
    path, raw = _read(path_or_name, overrides, Catalog)
    for kind, command in (("synthesis", "synthesize"), ("superres", "superres")):
        if raw.get("kind") == kind:
            what = {"synthesis": "a synthesis", "superres": "a super-resolution"}[kind]
            raise CatalogError(
                f"Catalogue {path} is that of {what} (kind: {kind}), expected two sides, source and target. Run it "
                f"with `rsgeo-gan {command}`."
            )
    return validate(raw, str(path))


def load_synthesis(path_or_name: Path | str, *, overrides: Mapping[str, Any] | None = None) -> SynthesisCatalog:
    """Read the catalogue of a synthesis; see `load`.

    Args:
        path_or_name: Path of a YAML file, or a bare name.
        overrides: Values by dotted key that replace those of the file, such as {"products.count": 8}.

    Returns:
        The catalogue, with absolute paths.

    Raises:
        CatalogError: As `load`.
    """
    path, raw = _read(path_or_name, overrides, SynthesisCatalog)
    if "kind" not in raw and {"source", "target"} & raw.keys():
        raise CatalogError(
            f"Catalogue {path} has the sides of a translation, expected `kind: synthesis` and `collect`. Run it with "
            "`rsgeo-gan run`; catalogs/synthesis-folder.yaml is a commented example of the other kind."
        )
    made = _validated(raw, str(path), SynthesisCatalog)
    assert isinstance(made, SynthesisCatalog)
    return made


def load_superres(path_or_name: Path | str, *, overrides: Mapping[str, Any] | None = None) -> SuperresCatalog:
    """Read the catalogue of a super-resolution; see `load`.

    Args:
        path_or_name: Path of a YAML file, or a bare name.
        overrides: Values by dotted key that replace those of the file, such as {"products.most": 8}.

    Returns:
        The catalogue, with absolute paths.

    Raises:
        CatalogError: As `load`.
    """
    path, raw = _read(path_or_name, overrides, SuperresCatalog)
    if raw.get("kind") != "superres" and ("kind" in raw or {"source", "target"} & raw.keys()):
        raise CatalogError(
            f"Catalogue {path} is of another kind ({raw.get('kind', 'two sides, source and target')}), expected "
            "`kind: superres` and `collect`. catalogs/superres-folder.yaml is a commented example of it."
        )
    made = _validated(raw, str(path), SuperresCatalog)
    assert isinstance(made, SuperresCatalog)
    return made


def products_of(settings: Mapping[str, Any]) -> SyntheticProducts:
    """Say which images are made, without a catalogue.

    Args:
        settings: Entries by dotted key, such as {"products.count": 8}.

    Raises:
        CatalogError: If an entry is unknown or has a wrong value.
    """
    raw: dict[str, Any] = {"products": {}}
    for key, value in settings.items():
        set_key(raw, key, value, "--set")
    made = _validated(raw, "--set", _Products)
    assert isinstance(made, _Products)
    return made.products


class _Products(BaseModel):
    """The part of a catalogue that a checkpoint needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    products: SyntheticProducts


def _read(
    path_or_name: Path | str, overrides: Mapping[str, Any] | None, model: type[BaseModel]
) -> tuple[Path, dict[str, Any]]:
    """Read a file, make its paths absolute, and put the overrides in."""
    path = _find(path_or_name)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"Catalogue {path} cannot be read ({error}); check the path and its permissions.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise CatalogError(
            f"Catalogue {path}{where}: expected YAML, got text that does not parse ({problem}); mend it."
        ) from error
    if not isinstance(raw, dict):
        raise CatalogError(
            f"Catalogue {path}: expected a mapping with the keys {', '.join(model.model_fields)}, "
            f"got {type(raw).__name__}; see {_EXAMPLE[model]} for a commented example."
        )
    replaced = {key: _absolute(key, value) for key, value in (overrides or {}).items()}
    base = Path(str(replaced.get("root") or raw.get("root") or ".")).expanduser()
    base = (path.resolve().parent / base).resolve()
    for key in _PATH_KEYS:
        *parents, leaf = key.split(".")
        for entry in _entries(raw, parents):
            if isinstance(entry.get(leaf), str) and not _has_scheme(entry[leaf]):
                entry[leaf] = str((base / Path(entry[leaf]).expanduser()).resolve())
    if raw.get("root") is not None:
        raw["root"] = str(base)
    for key, value in replaced.items():
        set_key(raw, key, value, str(path))
    return path, raw


def _entries(raw: Any, parents: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the mappings at a place; `*` stands for every entry of a list."""
    if not parents:
        if isinstance(raw, dict):
            yield raw
        return
    first, *rest = parents
    if first == "*":
        for entry in raw if isinstance(raw, list) else ():
            yield from _entries(entry, rest)
    elif isinstance(raw, dict):
        yield from _entries(raw.get(first), rest)


def _find(path_or_name: Path | str) -> Path:
    """Return the file of a path or bare name."""
    path = Path(path_or_name).expanduser()
    if path.is_file():
        return path
    tried = [path]
    if path.parent == Path() and path.suffix in ("", ".yaml", ".yml"):
        stem = path.stem if path.suffix else path.name
        tried += [Path("catalogs") / f"{stem}.yaml", EMBEDDED / f"{stem}.yaml"]
        for candidate in tried[1:]:
            if candidate.is_file():
                return candidate
    known = sorted({file.stem for folder in (Path("catalogs"), EMBEDDED) for file in folder.glob("*.yaml")})
    raise CatalogError(
        f"Catalogue {path_or_name}: expected a YAML file or one of {', '.join(known)}, "
        f"found none of {', '.join(str(item) for item in tried)}; give the path of an existing file."
    )


def _has_scheme(text: str) -> bool:
    """Tell addresses from file paths."""
    return bool(re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE))


def _absolute(key: str, value: Any) -> Any:
    """Make the paths among the overrides absolute, from the working directory."""
    if isinstance(value, Path) or (
        isinstance(value, str) and (key in _PATH_KEYS or key == "root") and not _has_scheme(value)
    ):
        return str(Path(value).expanduser().resolve())
    return value


def set_key(raw: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a value by dotted key, in place; recipe settings keep their dots.

    Args:
        raw: The catalogue as read, changed.
        key: Such as "source.path" or "training.overrides.trainer.max_epochs".
        value: The value.
        where: File or option, for the message.

    Raises:
        CatalogError: If the key runs through something that is not a mapping.
    """
    prefix = "training.overrides."
    *parents, leaf = ["training", "overrides", key[len(prefix) :]] if key.startswith(prefix) else key.split(".")
    here = raw
    for parent in parents:
        child = here.setdefault(parent, {})
        if not isinstance(child, dict):
            raise CatalogError(f"{where}: key `{key}` cannot be set, `{parent}` is {child!r} and no mapping; check it.")
        here = child
    here[leaf] = value


def validate(raw: dict[str, Any], where: str) -> Catalog:
    """Build the catalogue, turning all findings into one error.

    Args:
        raw: The catalogue as plain values, paths absolute.
        where: File or option, for the message.

    Raises:
        CatalogError: Naming each key, what was expected and what was found.
    """
    made = _validated(raw, where, Catalog)
    assert isinstance(made, Catalog)
    return made


def _validated(raw: dict[str, Any], where: str, model: type[BaseModel]) -> BaseModel:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        found = [
            _sentence(model, tuple(item["loc"]), item["type"], item["msg"], item.get("input"), item.get("ctx", {}))
            for item in error.errors(include_url=False)
        ]
    hint = f"Mend the catalogue and run again; {_EXAMPLE.get(model, _EXAMPLE[SynthesisCatalog])} lists every key."
    if len(found) == 1:
        raise CatalogError(f"Catalogue {where}: {found[0]} {hint}")
    lines = "\n".join(f"  - {text}" for text in found)
    raise CatalogError(f"Catalogue {where} has {len(found)} problems:\n{lines}\n{hint}")


def _sentence(
    model: type[BaseModel], loc: tuple[int | str, ...], kind: str, message: str, got: Any, context: Mapping[str, Any]
) -> str:
    """Say in one sentence which key, what was expected and what was found."""
    known, keys = _walked(model, loc)
    key = ".".join(keys)
    if keys and keys[-1] == "token_env":
        got = "something else"  # may be the secret itself
    shown = repr(got) if len(repr(got)) <= 80 else repr(got)[:77] + "…"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(keys[-1], known, n=1)
        also = f" Did you mean `{near[0]}`?" if near else ""
        return f"key `{key}`: expected one of {', '.join(sorted(known))}; got an unknown key.{also}"
    if kind == "missing":
        return f"key `{key}`: expected a value, got nothing."
    if kind == "string_pattern_mismatch":
        return f"key `{key}`: expected text matching {context.get('pattern')}; got {shown}."
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        tags = ", ".join(_members(model, loc))
        tag = context.get("tag")
        return f"key `{key}.kind`: expected one of {tags}; got {tag if tag else 'nothing'}."
    expected = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return f"key `{key}`: expected {expected}; got {shown}."


def _walked(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """Names of the keys allowed where the last one of a place was found, and the place as the file has it.

    A place names the kind of a union as if it were a key, which the file does not.
    """
    here: type[BaseModel] | None = model
    kinds: dict[str, type[BaseModel]] = {}
    known, keys = list(model.model_fields), []
    for part in map(str, loc):
        if part in kinds:
            here, kinds = kinds[part], {}
            continue
        if part.isdigit():
            keys.append(part)
            continue
        known = list(here.model_fields) if here is not None else []
        keys.append(part)
        found = here.model_fields.get(part) if here is not None else None
        kinds = _kinds(found.annotation) if found is not None else {}
        models = _models(found.annotation) if found is not None and not kinds else []
        here = models[0] if models else None
    return known, keys


def _members(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Kinds of the union at a place."""
    here: type[BaseModel] = model
    for part in (str(part) for part in loc[:-1] if not isinstance(part, int)):
        models = _models(here.model_fields[part].annotation)
        here = models[0] if models else here
    return list(_kinds(here.model_fields[str(loc[-1])].annotation))


def _models(annotation: Any) -> list[type[BaseModel]]:
    """All models that a key's value may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _kinds(annotation: Any) -> dict[str, type[BaseModel]]:
    """Models by the value of their `kind`, where a key's value is a union told apart by it."""
    models = [model for model in _models(annotation) if "kind" in model.model_fields]
    return {str(get_args(model.model_fields["kind"].annotation)[0]): model for model in models if len(models) > 1}
