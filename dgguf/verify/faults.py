"""What is wrong with a model beside its numbers: it cannot be loaded, or it is not what the hub has."""

from collections.abc import Sequence
from pathlib import Path

from dgguf.errors import BackendError, DggufError
from dgguf.hub import HubFile
from dgguf.session import Session
from dgguf.verify.whole_file import WholeFile


def loading_fault(path: Path) -> str:
    """Why a model cannot be run; "" if it can: found by loading it and encoding a message.

    Configuration, tensors, vocabulary, sampler settings and chat template are looked at by whoever uses
    them. One thread, and no weights are read but for the norms.

    Raises:
        BackendError: this machine cannot run any model as it is set up.
    """
    try:
        with Session(path, threads=1) as session:
            session.settings()
            session.encode("Hello")
    except BackendError:
        raise
    except DggufError as error:
        return str(error)
    return ""


def differences(whole: WholeFile, published: Sequence[HubFile]) -> list[str]:
    """What tells a model that was read from what the hub has, a sentence each."""
    if len(whole.files) != len(published):
        return [
            f"{whole.files[0].path}: the model is in {len(whole.files)} files here, {published[0].name} of "
            f"{published[0].repository} in {len(published)}: name the same one"
        ]
    found = []
    for file, of_hub in zip(whole.files, published, strict=True):
        where = f"{of_hub.name} of {of_hub.repository}"
        if file.n_bytes != of_hub.n_bytes:
            found.append(f"{file.path} has {file.n_bytes} bytes, {where} has {of_hub.n_bytes}: another file")
        elif not of_hub.sha256:
            found.append(f"{file.path}: the hub has no digest of {where}, only the sizes are known to agree")
        elif file.sha256 != of_hub.sha256:
            found.append(
                f"{file.path}: its digest is not that of {where}, which has as many bytes: it is damaged or "
                "another file; download it again"
            )
    return found
