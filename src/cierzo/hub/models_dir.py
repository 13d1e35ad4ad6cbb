"""The models on this machine: one folder each, with a record of what was fetched from where.

    <home>/models/<folder>/     the model's files, and the packed copy that loading writes there
      cierzo-model.json         written last: a folder without it is an unfinished fetch

Knows nothing of the network.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path

from cierzo.errors import ModelFileError, ModelNotFoundError
from cierzo.hub.catalogue import CATALOGUE, find_entry

RECORD_NAME = "cierzo-model.json"


@dataclass(frozen=True, slots=True)
class PulledModel:
    """A model wholly on this disk. `entry` is what to load: a file, or "." for the folder."""

    name: str
    source: str
    licence: str
    entry: str
    files: dict[str, int]
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / self.entry if self.entry != "." else self.folder

    @property
    def size_bytes(self) -> int:
        """What was fetched; the packed copy is not counted."""
        return sum(self.files.values())


def models_dir(home: Path) -> Path:
    """Where models are kept, under `home` (the setting of that name, resolved by the caller)."""
    return home / "models"


def folder_of(name: str, home: Path) -> Path:
    """The folder a model of this name is fetched into, whether or not it is there."""
    return models_dir(home) / (re.sub(r"[/:]", "--", name).lstrip(".") or "unnamed")


def write_record(model: PulledModel) -> None:
    """Mark `model` as wholly fetched, atomically."""
    record = {key: value for key, value in asdict(model).items() if key != "folder"}
    part = model.folder / f"{RECORD_NAME}.part"
    part.write_text(json.dumps(record, indent=2) + "\n")
    part.replace(model.folder / RECORD_NAME)


def find_model(name: str, home: Path) -> PulledModel | None:
    """The pulled model of this name, or None."""
    folder = folder_of(name, home)
    return _read_record(folder) if (folder / RECORD_NAME).is_file() else None


def list_models(home: Path) -> list[PulledModel]:
    """Every pulled model, by name."""
    records = sorted(models_dir(home).glob(f"*/{RECORD_NAME}"))
    return sorted((_read_record(record.parent) for record in records), key=lambda m: m.name)


def remove(name: str, home: Path) -> int:
    """Delete a pulled model, its packed copy and any unfinished fetch of it; the bytes freed.

    Raises ModelNotFoundError when nothing of that name is on this disk.
    """
    folder = folder_of(name, home)
    if not folder.is_dir():
        raise ModelNotFoundError(
            f"no model {name!r} to remove; on this machine: {_pulled_names(home)}"
        )
    freed = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    shutil.rmtree(folder)
    return freed


def resolve(name_or_path: str | Path, *, home: Path) -> Path:
    """The file or folder to load for a path, a catalogue name or a pulled name. Never fetches.

    Raises ModelNotFoundError, which lists what there is.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    name = str(name_or_path)
    model = find_model(name, home)
    if model is not None:
        return model.path
    if find_entry(name) is not None:
        raise ModelNotFoundError(
            f"model {name!r} is not on this machine yet: fetch it with `cierzo pull {name}`"
        )
    if (
        path.is_absolute()
        or name.startswith(("./", "../", "~"))
        or path.suffix in {".gguf", ".safetensors"}
    ):
        raise ModelNotFoundError(
            f"no file or folder {str(path)!r}; check the path, or name a model"
        )
    raise ModelNotFoundError(f"no model {name!r}{_nearest(name, home)}; {_what_there_is(home)}")


def _nearest(name: str, home: Path) -> str:
    known = [*CATALOGUE, *(model.name for model in list_models(home))]
    near = get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _pulled_names(home: Path) -> str:
    return ", ".join(model.name for model in list_models(home)) or "none"


def _what_there_is(home: Path) -> str:
    known = f"{', '.join(CATALOGUE)}, or any hf:owner/repo[:file]"
    return f"on this machine: {_pulled_names(home)}; to pull: {known}"


def _read_record(folder: Path) -> PulledModel:
    record = folder / RECORD_NAME
    try:
        model = PulledModel(**json.loads(record.read_text()), folder=folder)
    except (ValueError, TypeError) as error:
        raise ModelFileError(
            f"{record} is not a model record ({error}); delete {folder} and pull the model again"
        ) from error
    missing = [file for file in model.files if not (folder / file).is_file()]
    if missing:
        raise ModelFileError(
            f"{folder} should hold {', '.join(missing)}: pull {model.name!r} again, or remove it"
        )
    return model
