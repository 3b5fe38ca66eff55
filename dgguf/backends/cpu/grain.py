"""How many threads some work is worth: handing it over and waiting for its end costs several microseconds.

On a busy machine it costs milliseconds, so what is small stays on one thread. A small model runs on one
thread altogether, as fast as it would on several; the 26B's products are worth all of them.
"""

NUMBERS_PER_THREAD = 1 << 16  # of an elementwise kernel: some 20 µs
MULTIPLY_ADDS_PER_THREAD = 1 << 21  # of a product: some 15 µs
_DECODING = 16  # multiply-adds that take as long as decoding one weight


def by_numbers(count: int) -> int:
    """Threads for a kernel over so many numbers."""
    return max(1, count // NUMBERS_PER_THREAD)


def by_products(rows: int, weights: int) -> int:
    """Threads for multiplying so many rows with so many weights, which are decoded before."""
    return max(1, (rows + _DECODING) * weights // MULTIPLY_ADDS_PER_THREAD)
