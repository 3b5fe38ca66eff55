"""Opening a GGUF file, or all parts of a split one: typed metadata and zero-copy views of the tensors."""

import contextlib
import functools
import hashlib
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from dgguf.errors import ModelFileError, UnsupportedModelError
from dgguf.ggufio import layout
from dgguf.ggufio.metadata import REQUIRED, metadata_value
from dgguf.ggufio.read_header import Header
from dgguf.mapping.mapped_file import MappedFile, reading
from dgguf.mapping.read_ahead import ReadAhead

T = TypeVar("T")
D = TypeVar("D")

_MOST_PARTS = 99_999  # what the names of split files can say
_PIECES, _PIECE_BYTES = 16, 4096  # of a file's weights that its digest looks at


class GgufFile:
    """An open GGUF model: one file, or all parts of a split one, given any of them.

    Attributes:
        path: the file as given.
        paths: all files, one but for a split model.
        version: of the GGUF format, 2 or 3.
        n_bytes: size of the file, or of all parts together.
        metadata: int, float, bool, str; arrays of numbers as read-only 1-D numpy arrays, arrays of
            strings as StringArray. In a split model, the metadata of its first part.
        tensors: name → TensorInfo, in the order of the file.

    Raises:
        ModelFileError: the file cannot be read, is no GGUF, is cut short or contradicts itself.
    """

    _ahead: ReadAhead | None = None

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._parts = _open_parts(self.path)
        self.paths = [part.path for part in self._parts]
        first = self._parts[0]
        self.version = first.version
        self.n_bytes = sum(part.n_bytes for part in self._parts)
        self.metadata: Mapping[str, Any] = MappingProxyType(first.metadata)
        self.tensors = {
            name: replace(tensor, part=i) if i else tensor
            for i, part in enumerate(self._parts)
            for name, tensor in part.tensors.items()
        }

    def data(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of a tensor, read-only and not copied, shape (*shape[:-1], row_bytes).

        The view stays valid after `close`.
        """
        if not self._parts:
            raise ValueError(f"{self.path} is closed")
        if name not in self.tensors:
            raise UnsupportedModelError(f"{self.path}: the tensor {name!r} is missing")
        tensor = self.tensors[name]
        flat = self._parts[tensor.part].map.array(tensor.offset, tensor.n_bytes)
        return flat.reshape(*tensor.shape[:-1], tensor.format.row_bytes(tensor.shape[-1]))

    def stored_metadata(self) -> dict[str, bytes]:
        """Each key's value with its type as the bytes in the file, to be written again."""
        first = self._parts[0]
        return {
            key: first.map.array(start, end - start).tobytes() for key, (start, end) in first.spans.items()
        }

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """A context for computing from `data`: it is left only if the files are still what they were.

        To be left before a result is used for good, as a file can change at any time. It takes some
        microseconds a file.

        Raises:
            FileChangedError: on leaving it: one was cut or written to meanwhile, or its disk failed.
        """
        return reading(self.maps)

    @functools.cached_property
    def digest(self) -> str:
        """Tells models apart, in 16 hexadecimal digits: of all headers, and of pieces of the weights.

        It is cheap, and no proof: `dgguf check` reads every byte.

        Raises:
            FileChangedError: as of `reading`.
        """
        found = hashlib.sha256()
        with self.reading():
            for part in self._parts:
                header = min((tensor.offset for tensor in part.tensors.values()), default=part.n_bytes)
                found.update(part.map.array(0, header).data)
                for i in range(_PIECES):
                    start = header + (part.n_bytes - header) * i // _PIECES
                    if start < part.n_bytes:
                        found.update(part.map.array(start, min(_PIECE_BYTES, part.n_bytes - start)).data)
            return found.hexdigest()[:16]

    @property
    def maps(self) -> list[MappedFile]:
        """The maps of the files, which a tensor's `part` counts; none once it is closed."""
        return [part.map for part in self._parts]

    @overload
    def get(self, key: str, kind: type[T], *, least: float | None = None, most: float | None = None) -> T: ...
    @overload
    def get(
        self, key: str, kind: type[T], default: D, *, least: float | None = None, most: float | None = None
    ) -> T | D: ...
    def get(
        self,
        key: str,
        kind: Any,
        default: Any = REQUIRED,
        *,
        least: float | None = None,
        most: float | None = None,
    ) -> Any:
        """The value of a metadata key, checked as by `metadata_value`."""
        return metadata_value(self.metadata, self.path, key, kind, default, least=least, most=most)

    def read_ahead(self, names: Iterable[str], most: int) -> None:
        """Ask the system for tensors that will be wanted in this order; a thread does it, and nobody waits.

        Args:
            names: of tensors.
            most: bytes, of the first of them.
        """
        tensors = [self.tensors[name] for name in names]
        parts = [(tensor.part, tensor.offset, tensor.n_bytes) for tensor in tensors]
        self._ahead = ReadAhead(self.maps, parts, most)
        self._ahead.start()

    def close(self) -> None:
        """Close the file. Views that `data` gave out stay valid and keep their part mapped."""
        if self._ahead:
            self._ahead.stop()
        for part in self._parts:
            part.close()
        self._parts = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Part:
    """One file: its memory map and what its header says, checked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.ExitStack() as on_error:
            file, self.map = _open_and_map(path)
            on_error.callback(self.close)
            self.n_bytes = self.map.n_bytes
            with file, reading([self.map]):
                header = Header(path, file, self.n_bytes)
                self.version, n_tensors, n_keys = header.preamble()
                self.metadata = header.keys(n_keys)
                self.spans = header.spans
                self.alignment = header.alignment(self.metadata)
                self.tensors = header.tensors(n_tensors, self.alignment)
            on_error.pop_all()

    def close(self) -> None:
        # A map with views cannot be closed; it goes when the last of them does.
        with contextlib.suppress(BufferError):
            self.map.close()


def _open_and_map(path: Path) -> tuple[BinaryIO, MappedFile]:
    """Open a file, at its start, and map it, after refusing what can be told from its first bytes."""
    try:
        # Asked before opening, because opening a pipe waits for its writer.
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelFileError(f"{path}: this is a directory; give the .gguf file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ModelFileError(f"{path}: this is not a regular file, so it cannot be mapped")
        with contextlib.ExitStack() as on_error:
            file = on_error.enter_context(path.open("rb"))
            head = file.read(512)
            if not head:
                raise ModelFileError(f"{path}: the file is empty; download it again")
            if not layout.MAGIC.startswith(head[:4]):
                raise ModelFileError(f"{path}: this is not a GGUF file{_likeness(head)}")
            file.seek(0)
            mapped = MappedFile.of(file, path)
            on_error.pop_all()
            return file, mapped
    except FileNotFoundError:
        raise ModelFileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot read the file: {error.strerror or error}") from None
    except ValueError as error:  # a path with a null byte, a file emptied since it was read
        raise ModelFileError(f"{path}: cannot read the file: {error}") from None


def _likeness(head: bytes) -> str:
    """A clause on what a file is that begins with `head` and not with "GGUF"; "" if unknown."""
    text = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return " but a Git LFS pointer to one; fetch the file itself, with `git lfs pull`"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return " but a web page, perhaps an error or a login page; download the file again"
    if head.startswith(b"PK\x03\x04"):
        return " but a zip archive, perhaps a PyTorch checkpoint"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        return " but a safetensors checkpoint; `dgguf quantize` makes a GGUF from the directory it is in"
    if head.startswith((b"lmgg", b"fmgg", b"tjgg", b"algg")):
        return " but a model in an older GGML format; look for a newer file of it"
    if not any(head):
        return " but starts with zeros, as an unfinished download does; download it again"
    return ""


def _open_parts(path: Path) -> list[_Part]:
    """Open `path` and, where it is a part of a split model, the others, in order."""
    with contextlib.ExitStack() as on_error:
        opened = _Part(path)
        on_error.callback(opened.close)
        count = metadata_value(opened.metadata, path, layout.SPLIT_COUNT, int, 1, least=0, most=_MOST_PARTS)
        if count in (0, 1):
            on_error.pop_all()
            return [opened]
        name = layout.parse_split_name(path.name)
        if name is None or name.count != count:
            raise ModelFileError(
                f"{path}: this is one of {count} parts, whose names must end as in -00001-of-{count:05}.gguf;"
                " name them as they were published"
            )
        parts = []
        for i, part_name in enumerate(layout.split_names(name.stem, count)):
            if i + 1 == name.number:
                parts.append(opened)
                continue
            sibling = path.with_name(part_name)
            if not sibling.exists():
                raise ModelFileError(f"{sibling}: part {i + 1} of {count} is missing; download it too")
            parts.append(_Part(sibling))
            on_error.callback(parts[-1].close)
        _check_parts(parts)
        on_error.pop_all()
        return parts


def _check_parts(parts: Sequence[_Part]) -> None:
    """Refuse parts that are not of one model: their keys differ, or their tensors do not add up."""
    n_tensors = sum(len(part.tensors) for part in parts)
    expected = {layout.SPLIT_COUNT: len(parts), layout.SPLIT_TENSORS: n_tensors}
    owners: dict[str, Path] = {}
    for i, part in enumerate(parts):
        for key, value in (expected | {layout.SPLIT_NUMBER: i}).items():
            found = metadata_value(part.metadata, part.path, key, int)
            if found != value:
                raise ModelFileError(
                    f"{part.path}: this part says {key} = {found} where the {len(parts)} parts together"
                    f" need {value}; take all parts from one download"
                )
        if part.alignment != parts[0].alignment:
            raise ModelFileError(
                f"{part.path}: this part's {layout.ALIGNMENT_KEY} differs from the first part's"
            )
        for name in part.tensors:
            if name in owners:
                raise ModelFileError(f"{part.path}: the tensor {name!r:.99} is also in {owners[name]}")
            owners[name] = part.path
