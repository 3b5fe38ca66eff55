"""What Ollama's clients are told of the model: /api/version, /api/tags, /api/ps, /api/show."""

import datetime
from pathlib import Path
from typing import Any

from dgguf import __version__
from dgguf.convert.recipes import RECIPES
from dgguf.server.errors import ApiError
from dgguf.session import Session
from dgguf.text.tool_calls import OPEN

FOLLOWED = (
    "0.12.0"  # the version of Ollama whose addresses these are: clients look for one that is new enough
)
_FOR_EVER = "2318-01-01T00:00:00Z"


def version() -> dict[str, Any]:
    """Of /api/version."""
    return {"version": FOLLOWED, "dgguf": __version__}


def known(name: Any) -> str | None:
    """A model's name without the tag that Ollama's clients give it.

    Raises:
        ApiError: 400; it is no name.
    """
    if not isinstance(name, str | None):
        raise ApiError(400, "model must be a name", param="model")
    return None if name is None else name.removesuffix(":latest")


def card(session: Session, name: str) -> dict[str, Any]:
    """The model as /api/tags tells of it."""
    try:
        changed = Path(session.file.path).stat().st_mtime
    except OSError:  # it was taken away since
        changed = 0.0
    when = datetime.datetime.fromtimestamp(changed, datetime.UTC)
    return {
        "name": f"{name}:latest",
        "model": f"{name}:latest",
        "modified_at": when.isoformat().replace("+00:00", "Z"),
        "size": session.file.n_bytes,
        "digest": session.file.digest,
        "details": _details(session),
    }


def running(session: Session, name: str) -> dict[str, Any]:
    """The model as /api/ps tells of it: it stays."""
    told = {"expires_at": _FOR_EVER, "size_vram": 0, "context_length": session.context}
    return card(session, name) | told


def shown(session: Session, name: str) -> dict[str, Any]:
    """The model as /api/show tells of it."""
    architecture, tokenizer = session.config.architecture, session.tokenizer
    can = ["completion", "insert"]
    can += ["tools"] * (OPEN in tokenizer.special) + ["thinking"] * (tokenizer.channel_open_id is not None)
    told = card(session, name)
    return {
        "modelfile": "",
        "parameters": "",
        "template": session.file.get("tokenizer.chat_template", str, ""),
        "details": told["details"],
        "model_info": {
            "general.architecture": architecture,
            "general.parameter_count": _n_weights(session),
            f"{architecture}.context_length": session.context,
            f"{architecture}.embedding_length": session.config.hidden_size,
            f"{architecture}.block_count": len(session.config.layers),
        },
        "capabilities": can + ["vision"] * session.sees,
        "modified_at": told["modified_at"],
    }


def _details(session: Session) -> dict[str, Any]:
    number = session.file.metadata.get("general.file_type")
    recipe = next((name for name, recipe in RECIPES.items() if recipe.file_type == number), "unknown")
    architecture, n_weights = session.config.architecture, _n_weights(session)
    size = f"{n_weights / 1e9:.1f}B" if n_weights >= 1e9 else f"{n_weights / 1e6:.1f}M"
    return {
        "parent_model": "",
        "format": "gguf",
        "family": architecture,
        "families": [architecture],
        "parameter_size": size,
        "quantization_level": recipe,
    }


def _n_weights(session: Session) -> int:
    return sum(tensor.n_weights for tensor in session.file.tensors.values())
