"""The name of a file to be written, and the one it has while it grows."""

from pathlib import Path

from dgguf.errors import ConversionError


def check_name(out: Path, force: bool) -> None:
    """Refuse a name that no file can have, or one that has, unless `force` gives it up."""
    if not out.parent.is_dir():
        raise ConversionError(f"there is no folder {out.parent} to write {out.name} in")
    if out.is_dir():
        raise ConversionError(f"{out} is a folder; name the file to write")
    if out.exists() and not out.is_file():
        raise ConversionError(f"{out} is a device or a pipe, which cannot hold a model; name a file to write")
    if out.exists() and not force:
        raise ConversionError(f"{out} exists: choose another name or use --force")


def partial_name(out: Path) -> Path:
    return out.with_name(out.name + ".partial")
