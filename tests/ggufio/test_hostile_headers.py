"""Files that are no GGUF, headers that lie, and any bytes at all."""

import os
import random
import re
import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import pytest

from dgguf.errors import ModelFileError
from dgguf.ggufio.file import GgufFile
from dgguf.ggufio.string_array import StringArray
from tests.support.gguf_by_hand import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U8,
    U32,
    array,
    gguf_bytes,
    key,
    refusal,
    small_model,
    tensor,
    text,
)

TOO_LONG = 5.0  # seconds of processor time; refusals take some milliseconds

# What is no model at all.


def test_what_is_not_a_readable_file(tmp_path, monkeypatch):
    assert "no such file" in refusal(tmp_path / "absent.gguf")
    assert "is a directory" in refusal(tmp_path)
    assert "cannot read" in refusal(str(tmp_path) + "/a\0b")
    with monkeypatch.context() as patch:
        (tmp_path / "secret.gguf").write_bytes(small_model())

        def refuse(self: Path, mode: str) -> None:
            raise PermissionError(13, "Permission denied")

        patch.setattr(Path, "open", refuse)
        assert "cannot read the file: Permission denied" in refusal(tmp_path / "secret.gguf")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"abc", "is not a GGUF file$"),
        (b"GGUX" + bytes(100), "is not a GGUF file$"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\n <!DOCTYPE html><html>", "web page"),
        (b"PK\3\4" + bytes(40), "zip archive"),
        (struct.pack("<Q", 44) + b'{"__metadata__":{}}', "safetensors"),
        (b"tjgg" + bytes(40), "older GGML format"),
        (bytes(2000), "unfinished download"),
    ],
)
def test_what_is_not_gguf_is_said(write, content, message):
    assert re.search(message, refusal(write(content)))


def test_versions_that_are_refused(write, tmp_path):
    content = small_model()
    for version, message in (
        (0, "version 0"),
        (1, "version 1; look for a newer"),
        (4, "version 4; dgguf reads"),
    ):
        assert message in refusal(write(content[:4] + bytes([version]) + content[5:]))
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "diffusion-gemma", endianess=gguf.GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert "big-endian" in refusal(tmp_path / "big.gguf")


# Lying headers.

HUGE = 2**63
ROW = bytes(4 * 8)


def keyed(kind: int, payload: bytes, name: bytes | str = "k") -> bytes:
    """A file of one key."""
    return gguf_bytes([key(name, kind, payload)])


def aligned(kind: int, layout: str, value: float) -> bytes:
    """A file that gives its alignment as a number of type `kind`, packed as `layout`."""
    return keyed(kind, struct.pack(layout, value), "general.alignment")


def holding(*tensors: bytes, data: bytes = ROW) -> bytes:
    """A file of tensors, by default with the data of eight float32."""
    return gguf_bytes(tensors=tensors, data=data)


MISSING = "bytes are missing"
TOO_MANY = "has a length or count of"
NO_POWER = "not a power of two from 8 to 1048576"
# fmt: off
LIES = {
    # A shape larger than its bytes, and products and sums that wrap around 2^64 to something small.
    "shape larger than its bytes": (holding(tensor("t", [2**20])), f"'t', at least {2**22 - 32:,} {MISSING}"),
    "last byte missing": (holding(tensor("t", [8, 2]), data=bytes(63)), f"at least 1 {MISSING}"),
    "product of two dims wraps": (holding(tensor("t", [8, 2**61 + 1])), MISSING),
    "product of four dims wraps": (holding(tensor("t", [2**32] * 4)), MISSING),
    "bytes of a row wrap": (holding(tensor("t", [2**62 + 8])), MISSING),
    "end wraps": (holding(tensor("t", [8], 0, 2**64 - 32)), MISSING),
    "start inside the header": (holding(tensor("t", [8], 0, 2**64 - 64)), MISSING),
    # Alignment.
    "alignment 2^30": (aligned(U32, "<I", 2**30), f"alignment is 1073741824, {NO_POWER}"),
    "alignment 2^21": (aligned(U32, "<I", 2**21), f"alignment is 2097152, {NO_POWER}"),
    "alignment 24": (aligned(U32, "<I", 24), f"alignment is 24, {NO_POWER}"),
    "alignment 4": (aligned(U32, "<I", 4), f"alignment is 4, {NO_POWER}"),
    "alignment 0": (aligned(U32, "<I", 0), f"alignment is 0, {NO_POWER}"),
    "alignment -32": (aligned(I32, "<i", -32), f"alignment is -32, {NO_POWER}"),
    "alignment is a float": (aligned(F32, "<f", 32), "should be an integer but is a number"),
    "alignment is a string": (keyed(STRING, text("32"), "general.alignment"), "an integer but is a string"),
    "alignment is an array": (
        keyed(ARRAY, array(U8, b" " * 99, 99), "general.alignment"), "an integer but is a list of integers"
    ),
    # Counts and lengths.
    "2^63 tensors": (gguf_bytes(n_tensors=HUGE), f"its number of tensors {TOO_MANY} {HUGE:,}, more than"),
    "2^63 keys": (gguf_bytes(n_keys=HUGE), f"its number of metadata keys {TOO_MANY} {HUGE:,}, more than"),
    "2^20 tensors": (gguf_bytes(n_tensors=2**20), f"at least {32 * 2**20:,} {MISSING}"),
    "2^20 keys": (gguf_bytes(n_keys=2**20), f"at least {13 * 2**20:,} {MISSING}"),
    "key of 2^63 bytes": (gguf_bytes([text("k", HUGE) + bytes(64)]), f"key 0 {TOO_MANY} {HUGE:,}"),
    "key of 2^16 bytes": (keyed(U8, b"\0", "k" * 2**16), f"metadata key 0 {TOO_MANY} 65,536"),
    "key past the end": (gguf_bytes([text("k", 60000) + bytes(64)]), f"key 0, at least 59,935 {MISSING}"),
    "tensor name of 2^16 bytes": (holding(tensor("t" * 2**16, [8])), f"tensor 0 {TOO_MANY} 65,536"),
    "string of 2^63 bytes": (keyed(STRING, text("", HUGE)), f"'k' {TOO_MANY} {HUGE:,}"),
    "string of 2^26 + 1 bytes": (keyed(STRING, text("", 2**26 + 1)), f"'k' {TOO_MANY} 67,108,865"),
    "string past the end": (keyed(STRING, text("abc", 10)), f"at least 7 {MISSING}"),
    "array of 2^63 numbers": (keyed(ARRAY, array(I32, b"", HUGE)), f"'k' {TOO_MANY} {HUGE:,}"),
    "array of 2^62 numbers": (keyed(ARRAY, array(I32, b"", 2**62)), f"'k' {TOO_MANY} {2**62:,}"),
    "array past the end": (keyed(ARRAY, array(I32, bytes(8), 3)), f"at least 4 {MISSING}"),
    "array of 2^63 strings": (keyed(ARRAY, array(STRING, b"", HUGE)), f"'k' {TOO_MANY} {HUGE:,}"),
    "array of 2^24 strings": (keyed(ARRAY, array(STRING, b"", 2**24)), f"at least {8 * 2**24:,} {MISSING}"),
    "array of a string of 2^63 bytes": (
        keyed(ARRAY, array(STRING, text("a") + text("", HUGE), 2)), f"at least {HUGE:,} {MISSING}"
    ),
    "array of strings of -8 bytes": (keyed(ARRAY, array(STRING, text("", 2**64 - 8) * 9, 9)), MISSING),
    "array of strings past the end": (
        keyed(ARRAY, array(STRING, text("a" * 20) + text("b"), 3)), f"at least 8 {MISSING}"
    ),
    # Kinds of value.
    "array of arrays": (keyed(ARRAY, array(ARRAY, array(U8, b"\0", 1), 1)), "'k' holds arrays of arrays"),
    "arrays nested without end": (keyed(ARRAY, array(ARRAY, b"", 1) * 9999), "'k' holds arrays of arrays"),
    "value type 13": (keyed(13, b"\0"), "'k' is of value type 13"),
    "element type 99": (keyed(ARRAY, array(99, b"\0", 1)), "'k' is of value type 99"),
    "empty array of type 99": (keyed(ARRAY, array(99, b"\0", 0)), "'k' is of value type 99"),
    "boolean 2": (keyed(BOOL, b"\2"), "'k' holds booleans that are neither 0 nor 1"),
    "boolean 255 in an array": (keyed(ARRAY, array(BOOL, b"\1\xff", 2)), "'k' holds booleans that"),
    # Names.
    "key twice": (gguf_bytes([key("k", U8, b"\0")] * 2), "the metadata key 'k' appears twice"),
    "tensor twice": (
        holding(tensor("t", [8]), tensor("t", [8], 0, 32), data=ROW * 2), "the tensor 't' appears twice"
    ),
    "key that is no UTF-8": (keyed(U8, b"\0", b"\xff"), "metadata key 0 is not valid UTF-8"),
    "tensor name that is no UTF-8": (holding(tensor(b"\xff", [8])), "tensor 0 is not valid UTF-8"),
    "name that would forge a message": (keyed(13, b"\0", "a\n\x1b[2J" * 999), r"key 'a\\n\\x1b\[2J"),
    # Tensors.
    "a million dimensions": (holding(tensor("t", [8], n_dims=10**6)), "'t' has 1,000,000 dimensions, not"),
    "five dimensions": (holding(tensor("t", [1] * 5)), "'t' has 5 dimensions, not 1 to 4"),
    "no dimensions": (holding(tensor("t", []) + bytes(8)), "'t' has 0 dimensions, not 1 to 4"),
    "a dimension of 0": (holding(tensor("t", [8, 0])), "'t' has a dimension of 0"),
    "unknown type": (holding(tensor("t", [8], 99)), "tensor 't' is of GGML type 99, which dgguf"),
    "removed type": (holding(tensor("t", [32], 4)), "the tensor 't' is of GGML type 4, which"),
    "type 2^31": (holding(tensor("t", [8], 2**31)), "the tensor 't' is of GGML type 2147483648, which"),
    "row not of whole blocks": (
        holding(tensor("t", [704, 4], 12), data=bytes(4096)), "rows of 704 .* multiple of Q4_K's block of 256"
    ),
    "offset not aligned": (holding(tensor("t", [8], 0, 16), data=ROW * 2), "'t' is not aligned to 32 bytes"),
    "tensors overlap": (
        holding(tensor("a", [8], 0, 32), tensor("b", [9]), data=ROW * 3), "the tensors 'b' and 'a' overlap"
    ),
    "tensors in one place": (holding(tensor("a", [8]), tensor("b", [8])), "the tensors 'a' and 'b' overlap"),
}
# fmt: on


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(write, lie):
    content, message = LIES[lie]
    path = write(content)
    start = time.process_time()
    assert re.search(message, refusal(path)), refusal(path)
    assert time.process_time() - start < TOO_LONG


def test_truths_near_the_lies_open(write):
    """The lies above are told of files that are otherwise sound."""
    for content in (
        gguf_bytes(),
        keyed(U8, b"\0", "k" * 65535),
        keyed(ARRAY, array(BOOL, b"", 0)),
        keyed(ARRAY, array(STRING, b"", 0)),
    ):
        GgufFile(write(content)).close()
    for alignment in (8, 2**20):
        content = gguf_bytes(
            [key("general.alignment", U32, struct.pack("<I", alignment))], [tensor("t", [8])]
        )
        with GgufFile(write(content + bytes(-len(content) % alignment) + ROW)) as file:
            assert file.data("t").tobytes() == ROW
    apart = [tensor("a", [8], 0, 32), tensor("b", [8], 0, 0), tensor("c", [1, 1, 1, 1], 0, 64)]
    with GgufFile(write(gguf_bytes(tensors=apart, data=ROW * 2 + bytes(4)))) as file:
        assert file.data("c").shape == (1, 1, 1, 4)


# Any bytes at all.


def exercise(path: Path) -> bool:
    """Open a file and touch everything in it; False if it was refused as it should be."""
    try:
        file = GgufFile(path)
    except ModelFileError as error:
        message = str(error)
    else:
        touch(file)
        return True
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    return False


def touch(file: GgufFile) -> None:
    with file:
        for name, info in file.tensors.items():
            view = file.data(name)
            assert view.nbytes == info.n_bytes
            view.sum()
        for value in file.metadata.values():
            if isinstance(value, StringArray):
                assert len(list(value)) == len(value)


def test_a_file_cut_anywhere_says_what_is_missing(write):
    content = small_model()
    assert exercise(write(content))
    header_end = content.index(b"experts.weight") + 14 + 4 + 3 * 8 + 4 + 8
    for n in range(1, len(content)):
        message = refusal(write(content[:n]))
        if n < 4:
            continue
        found = re.search(r"at least ([\d,]+) bytes are missing; it is cut short or damaged", message)
        assert found, message
        missing = int(found[1].replace(",", ""))
        assert 1 <= missing <= len(content) - n
        assert missing == len(content) - n or n < header_end


def test_any_change_of_the_header_opens_or_is_refused(write):
    content = small_model()
    n_header = content.index(b"experts.weight") + 80
    rng = random.Random(3)
    cases = []
    values = [
        0,
        1,
        5,
        255,
        len(content),
        2**20,
        2**31,
        2**32 - 1,
        2**32,
        2**61,
        2**62,
        2**63,
        2**64 - 32,
        2**64 - 1,
    ]
    for at in range(4, n_header):
        cases += [content[:at] + struct.pack("<Q", v) + content[at + 8 :] for v in rng.sample(values, 4)]
        cases.append(content[:at] + struct.pack("<I", rng.randrange(16)) + content[at + 4 :])
    for _ in range(2000):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8))):
            changed[rng.randrange(4, n_header)] = rng.randrange(256)
        start, end = sorted((rng.randrange(4, n_header), rng.randrange(4, n_header)))
        if rng.random() < 0.2:
            del changed[start:end]
        elif rng.random() < 0.2:
            changed[start:start] = changed[start:end]
        cases.append(bytes(changed))
    assert len(cases) > 4500

    exercise(write(content))
    opened, slowest = 0, 0.0
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for case in cases:
            path = write(case)
            start = time.process_time()
            opened += exercise(path)
            slowest = max(slowest, time.process_time() - start)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert 100 < opened < len(cases) - 1000
    assert slowest < TOO_LONG
    assert peak < 1 << 20
