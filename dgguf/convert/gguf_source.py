"""A GGUF file, of any readable types and split or not, as a source of conversion."""

from pathlib import Path

from dgguf.convert.source import Source, SourceTensor, StoredTensor
from dgguf.errors import ConversionError, ModelFileError
from dgguf.ggufio.file import GgufFile
from dgguf.ggufio.layout import ALIGNMENT_KEY, SPLIT_PREFIX
from dgguf.model.config import ModelConfig

# What old files call a tensor, and what both programs call it now.
_NEW_NAMES = {"self_cond_norm.weight": "self_cond_pre_norm.weight"}
# Keys that speak of the file and not of the model.
_OF_THE_FILE = (SPLIT_PREFIX, "quantize.", ALIGNMENT_KEY)
_FLOATS = ("F32", "F16", "BF16")


def read_gguf(path: Path) -> Source:
    """Open a file, or any part of a split one; its tensors stay in it.

    Raises:
        ConversionError: it cannot be read, or holds no DiffusionGemma.
    """
    try:
        with GgufFile(path) as file, file.reading():
            ModelConfig.from_file(file)
            metadata = {
                key: value
                for key, value in file.stored_metadata().items()
                if not key.startswith(_OF_THE_FILE)
            }
            tensors = tuple(_tensor(file, name) for name in file.tensors)
    except ModelFileError as error:
        raise ConversionError(str(error)) from None
    rounded = sorted({t.parts[0].format.name for t in tensors} - {*_FLOATS})
    notes = []
    if rounded:
        notes.append(
            f"the source is quantized already ({', '.join(rounded)}): "
            "what is quantized again carries both errors"
        )
    return Source(path, metadata, tensors, tuple(notes))


def _tensor(file: GgufFile, name: str) -> SourceTensor:
    info, data = file.tensors[name], file.data(name)
    raw = data.reshape(-1, data.shape[-1])
    stored = StoredTensor(name, file.path, info.format, info.shape, raw, file.maps[info.part])
    return SourceTensor(_NEW_NAMES.get(name, name), info.shape, (stored,))
