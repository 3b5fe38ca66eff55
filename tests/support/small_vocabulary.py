"""A small vocabulary of the released make, as the metadata of a GGUF file; for tests that need one."""

import numpy as np

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6

# The released special tokens that mean something here; those that a user sees are "user-defined" there.
SPECIALS = {
    "<pad>": CONTROL,
    "<eos>": CONTROL,
    "<bos>": CONTROL,
    "<unk>": UNKNOWN,
    "<mask>": CONTROL,
    "<|tool_response>": USER_DEFINED,
    "<tool_response|>": USER_DEFINED,
    '<|"|>': USER_DEFINED,
    "<|think|>": CONTROL,
    "<|channel>": USER_DEFINED,
    "<channel|>": USER_DEFINED,
    "<|turn>": CONTROL,
    "<turn|>": CONTROL,
    "<|image|>": CONTROL,
    "<|image>": CONTROL,
}
WORDS = ["thought", "user", "model", "system", "the", "turn", "channel", "Hi", "answer", "ing", "▁the", "▁a"]


def all_splits(pieces, others):
    """Merges as converters list them: each piece in turn, each way to make it of two that exist."""
    known = {*pieces, *others}
    return [
        (piece[:n], piece[n:])
        for piece in pieces
        for n in range(1, len(piece))
        if piece[:n] in known and piece[n:] in known
    ]


def to_metadata(pieces, characters, merges=None):
    """GGUF metadata: specials, bytes, pieces in the order of their merges, single characters.

    Args:
        pieces: of two characters or more.
        characters: of one.
        merges: pairs; None for all splits of all pieces.
    """
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    tokens = [*SPECIALS, *byte_tokens, *pieces, *characters]
    types = [*SPECIALS.values()] + [BYTE] * 256 + [NORMAL] * (len(pieces) + len(characters))
    merges = all_splits(pieces, characters) if merges is None else merges
    return {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.scores": np.full(len(tokens), -1000, np.float32),
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in merges],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
    }


def small_metadata():
    """ASCII, some words with all their prefixes, runs of newlines and spaces; 430 tokens."""
    pieces = ["\n" * n for n in range(2, 9)] + ["▁" * n for n in range(2, 9)]
    pieces += dict.fromkeys(word[:n] for word in WORDS for n in range(2, len(word) + 1))
    return to_metadata(pieces, [*map(chr, range(33, 127)), "\n", "\t", "▁", "é", "世"])
