"""Images in a prompt: the rows that stand in place of tokens, and where a prompt may be cut.

The rows of one image are a *span*: they see each other (docs/attention.md), so a span is encoded in one call.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class Span:
    """Rows of one image among some tokens.

    Attributes:
        first: the token in whose place the first row stands.
        n_rows: of the image.
        key: negative; equal for equal rows. It stands in the KV cache in place of the tokens' ids, which
            are the same for every image.
        rows: gives the (n_rows, D) float32 rows; called when they are to be encoded.
    """

    first: int
    n_rows: int
    key: int
    rows: Callable[[], np.ndarray]

    @property
    def end(self) -> int:
        return self.first + self.n_rows


def cached_ids(tokens: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """The ids under which a KV cache knows (T,) tokens: those of a span's rows are its key."""
    if not spans:
        return tokens
    ids = tokens.astype(np.int64)
    for span in spans:
        ids[span.first : span.end] = span.key
    return ids


def calls(n_tokens: int, spans: Sequence[Span], first: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut the tokens from `first` on into calls: begin and end of each.

    A call has `most` rows at most, unless it is one span that is longer; none ends within a span.
    """
    while first < n_tokens:
        end = min(first + most, n_tokens)
        for span in spans:
            if span.first < end < span.end:
                end = span.first if span.first > first else span.end
        yield first, end
        first = end


def within(spans: Sequence[Span], first: int, end: int) -> tuple[Span, ...]:
    """The spans of the tokens first … end, counted from `first`."""
    return tuple(
        replace(span, first=span.first - first) for span in spans if first <= span.first and span.end <= end
    )
