"""How many threads some work is worth.

Handing it over and waiting for its end costs some microseconds, and a worker that has had something to do
looks for more for half a millisecond, on a core that another program may want. So a small model runs on
one thread, as fast as on several; the 26B's products are worth all of them.
"""

NUMBERS_PER_THREAD = 1 << 16  # of an elementwise kernel: some 20 µs
MULTIPLY_ADDS_PER_THREAD = 1 << 23  # of a product: some 50 µs
_DECODING = 16  # multiply-adds that take as long as decoding one weight


def by_numbers(count: int) -> int:
    """Threads for a kernel over so many numbers."""
    return max(1, count // NUMBERS_PER_THREAD)


def by_products(rows: int, weights: int) -> int:
    """Threads for multiplying so many rows with so many weights, which are decoded before."""
    return max(1, (rows + _DECODING) * weights // MULTIPLY_ADDS_PER_THREAD)
