"""The tokenizer files of a checkpoint → what a GGUF keeps of them.

Only the released make of tokenizer is taken: BPE with byte fallback over text whose spaces became
"▁". Another one would convert without complaint and then cut every text differently.
"""

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from dgguf.convert.json_file import read_json, read_optional_json
from dgguf.errors import ConversionError

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_ROLES = ("bos", "eos", "unk", "pad", "mask")
_NEEDED_ROLES = ("bos", "eos", "unk")
_SPACE_TO_BAR = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
# Settings of the BPE model that change where a text is cut, and the values that change nothing.
_NEUTRAL = {
    "byte_fallback": (True,),
    "ignore_merges": (False, None),
    "dropout": (None, 0, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
}


class TokenType(IntEnum):
    """A token's type in a GGUF."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """The tokens by id, the merges by rank, and what stands around them.

    Attributes:
        merges: "left right".
        ids: id by role: bos, eos, unk, and pad and mask where the checkpoint has them.
        chat_template: Jinja; None where the checkpoint has none.
    """

    tokens: list[str]
    types: list[TokenType]
    merges: list[str]
    ids: Mapping[str, int]
    chat_template: str | None


def read_vocabulary(folder: Path, size: int, config_ids: Mapping[str, int]) -> Vocabulary:
    """Read tokenizer.json and the files around it.

    Args:
        folder: the checkpoint.
        size: rows of the embedding; ids without a token up to it become unused ones.
        config_ids: ids by role, for roles that the tokenizer's files do not name.

    Raises:
        ConversionError: tokenizer.json is missing, damaged or of another make, or the files disagree.
    """
    path = folder / "tokenizer.json"
    root = _object(path, "the file", read_json(path))
    model = _object(path, "model", root.get("model"))
    _check_make(path, root, model)
    ids_by_token = _object(path, "model.vocab", model.get("vocab"))
    _check_bytes(path, ids_by_token)
    tokens, types = _place_tokens(path, ids_by_token, size)
    _add_tokens(path, root.get("added_tokens"), tokens, types)
    config = read_optional_json(folder / "tokenizer_config.json")
    roles = read_optional_json(folder / "special_tokens_map.json") | config
    roles.setdefault("unk_token", model.get("unk_token"))
    ids = _find_roles(path, roles, tokens, config_ids)
    for token_id in ids.values():
        types[token_id] = TokenType.CONTROL
    texts = [f"[PAD{i}]" if token is None else token for i, token in enumerate(tokens)]
    _check_texts(path, texts)
    merges = _read_merges(path, model.get("merges"), ids_by_token)
    return Vocabulary(texts, types, merges, ids, _read_chat_template(folder, config))


def _object(path: Path, what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConversionError(f"{path} is damaged: {what} should be a JSON object")
    return value


def _check_make(path: Path, root: dict[str, Any], model: dict[str, Any]) -> None:
    def refuse(what: str) -> ConversionError:
        return ConversionError(
            f"{path}: {what}; dgguf converts only BPE with byte fallback over '▁' for spaces"
        )

    if model.get("type", "BPE") != "BPE":
        raise refuse(f"model.type is {model['type']!r}")
    for key, neutral in _NEUTRAL.items():
        if model.get(key) not in neutral:
            raise refuse(f"model.{key} is {model.get(key)!r}")
    normalizer = root.get("normalizer")
    if (
        isinstance(normalizer, dict)
        and normalizer.get("type") == "Sequence"
        and normalizer.get("normalizers")
    ):
        normalizer, *others = normalizer["normalizers"]
        normalizer = None if others else normalizer
    if normalizer != _SPACE_TO_BAR:
        raise refuse("the normalizer is not the one that replaces spaces by '▁'")
    splitter = root.get("pre_tokenizer")
    # A split at spaces is harmless: the normalizer leaves none.
    harmless = {"type": "Split", "pattern": {"String": " "}}
    if splitter is not None and not (isinstance(splitter, dict) and splitter.items() >= harmless.items()):
        raise refuse("the pre_tokenizer cuts the text before the merges")


def _check_bytes(path: Path, ids_by_token: dict[str, Any]) -> None:
    missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in ids_by_token]
    if missing:
        raise ConversionError(f"{path}: the vocabulary lacks the byte token {missing[0]}")


def _place_tokens(
    path: Path, ids_by_token: dict[str, Any], size: int
) -> tuple[list[str | None], list[TokenType]]:
    tokens: list[str | None] = [None] * size
    types = [TokenType.UNUSED] * size
    for token, token_id in ids_by_token.items():
        _place(path, tokens, token_id, token)
        types[token_id] = TokenType.BYTE if _BYTE.fullmatch(token) else TokenType.NORMAL
    return tokens, types


def _add_tokens(path: Path, added: Any, tokens: list[str | None], types: list[TokenType]) -> None:
    """The tokens that are matched in the text before anything else."""
    for token in added if isinstance(added, list) else []:
        entry = _object(path, "an added token", token)
        _place(path, tokens, entry.get("id"), entry.get("content"))
        types[entry["id"]] = TokenType.CONTROL if entry.get("special") else TokenType.USER_DEFINED


def _place(path: Path, tokens: list[str | None], token_id: Any, token: Any) -> None:
    if type(token_id) is not int or not isinstance(token, str) or not token:
        raise ConversionError(
            f"{path} is damaged: a token needs a text and a number, not {token!r} and {token_id!r}"
        )
    if not 0 <= token_id < len(tokens):
        raise ConversionError(
            f"{path}: the token {token!r} has the id {token_id}, but the model has {len(tokens)} ids"
        )
    if tokens[token_id] not in (None, token):
        raise ConversionError(
            f"{path}: the tokens {tokens[token_id]!r} and {token!r} have one id, {token_id}"
        )
    tokens[token_id] = token


def _check_texts(path: Path, texts: list[str]) -> None:
    seen: set[str] = set()
    for i, text in enumerate(texts):
        if text in seen:
            raise ConversionError(
                f"{path}: the token {text!r} stands in the vocabulary twice, the second time as {i}"
            )
        seen.add(text)
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise ConversionError(f"{path} is damaged: a token's text is not valid Unicode") from None


def _find_roles(
    path: Path, roles: dict[str, Any], tokens: list[str | None], config_ids: Mapping[str, int]
) -> dict[str, int]:
    ids = {}
    for role in _ROLES:
        text = roles.get(f"{role}_token")
        text = text.get("content") if isinstance(text, dict) else text
        if text is None and role == "mask" and "<mask>" in tokens:
            text = "<mask>"
        if text is not None:
            if text not in tokens:
                raise ConversionError(f"{path}: the {role} token {text!r} is not in the vocabulary")
            ids[role] = tokens.index(text)
        elif role in config_ids and 0 <= config_ids[role] < len(tokens):
            ids[role] = config_ids[role]
        elif role in _NEEDED_ROLES:
            raise ConversionError(
                f"{path.parent}: neither tokenizer_config.json nor config.json names the {role} token"
            )
    return ids


def _read_merges(path: Path, merges: Any, ids_by_token: dict[str, Any]) -> list[str]:
    """The merges as "left right", from that spelling or from pairs."""
    if not isinstance(merges, list) or not merges:
        raise ConversionError(f"{path} is damaged: model.merges should be a list of merges")
    texts = []
    for rank, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(part, str) and part and " " not in part for part in pair)
        ):
            raise ConversionError(
                f"{path} is damaged: merge {rank} is no pair of tokens: {reprlib.repr(merge)}"
            )
        left, right = pair
        if left not in ids_by_token or right not in ids_by_token or left + right not in ids_by_token:
            raise ConversionError(
                f"{path} is damaged: merge {rank} of {left!r} and {right!r} is not in the vocabulary"
            )
        texts.append(f"{left} {right}")
    return texts


def _read_chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """chat_template.jinja, else what tokenizer_config.json says; of several the one named "default"."""
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return path.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise ConversionError(f"{path} cannot be read: {error}") from None
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if not isinstance(template, str):
        return None
    return template.encode("utf-8", "replace").decode()  # JSON can spell halves of characters
