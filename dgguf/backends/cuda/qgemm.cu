// Products with quantized matrices: out = x @ w.T, for one matrix or for each expert of a stack.
//
// The weights lie as layout.py draws them, so that a lane's share of a unit of 16 rows x 64 columns is
// what it feeds the tensor cores with (fragment A). They are decoded in registers: setting bits makes the
// float16 1024 + code, or 1024 + 16 * code where a nibble stands four bits higher; what leads from there to
// the value is exact, then comes the scale. The rows of x (fragment B) go through shared memory, in two
// buffers. Sums are float32.
//
// Compiled for one kind of layout at a time: HIGH_BITS, GROUP, MINIMUM, TABLE, HALVES (see
// layout.Layout.kind). The grid of a stack is (row blocks / 4, token tiles), of one matrix (token tiles, row
// blocks / 4): blocks run with x first, and what they share of the weights then comes from DRAM once. 128 threads.
#include "primitives.cuh"

constexpr int WARPS = 4;
constexpr int THREADS = 32 * WARPS;
constexpr int CHUNK = 64;
constexpr int STRIDE = CHUNK + 8;  // of a token in shared memory: 16-byte rows, no bank conflicts
constexpr int GROUPS = CHUNK / GROUP;
constexpr int SCALE_WORDS = GROUPS * (1 + MINIMUM);  // of a lane: rows g and g + 8
constexpr int HIGH_WORDS = HIGH_BITS ? HIGH_BITS : 1;

// A lane's share of a unit.
struct Unit {
    u32 codes[HALVES ? 16 : 4];
    u32 high[HIGH_WORDS];
    u32 scales[SCALE_WORDS];
};

template <int WORDS>
DEVICE void load_words(u32 *to, const u32 *from) {
    if constexpr (WORDS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS; i += 4) {
            uint4 v = *(const uint4 *)(from + i);
            to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
        }
    } else if constexpr (WORDS == 2) {
        uint2 v = *(const uint2 *)from;
        to[0] = v.x, to[1] = v.y;
    } else {
        to[0] = *from;
    }
}

DEVICE void fetch(Unit &unit, const u32 *low, const u32 *high, const u32 *scales, long long number, int lane) {
    if constexpr (HALVES) {
#pragma unroll
        for (int step = 0; step < 4; step++)
            load_words<4>(unit.codes + 4 * step, low + ((number * 4 + step) * 32 + lane) * 4);
    } else {
        load_words<4>(unit.codes, low + (number * 32 + lane) * 4);
        if constexpr (HIGH_BITS > 0)
            load_words<HIGH_WORDS>(unit.high, high + (number * 32 + lane) * HIGH_BITS);
        load_words<SCALE_WORDS>(unit.scales, scales + (number * 8 + (lane >> 2)) * SCALE_WORDS);
    }
}

// What turns codes into values, in float16 pairs.
struct Offsets {
    u32 exponent;    // 1024, whose last ten bits take a code
    u32 base;        // 1024 + offset
    u32 minus_base;  // -(64 + offset)
};

DEVICE Offsets offsets(u32 base) {
    // A sum, with 0, as the compiler would build a constant anew before each use.
    const u32 exponent = 0x64006400u + (base >> 31);
    return {exponent, base, 0xD400D400u + ((base - exponent) << 4)};
}

DEVICE u32 rotate(u32 word, int count) { return count ? word >> count | word << (32 - count) : word; }

// The values of register r of a step, a float16 pair.
DEVICE u32 values(const Unit &unit, int step, int r, Offsets by) {
    if constexpr (HIGH_BITS == 4) {
        u32 bytes = r < 2 ? unit.codes[step] : unit.high[step];
        return half2_sub(select_bytes(bytes, by.exponent, r & 1 ? 0x5352 : 0x5150), by.base);
    }
    u32 pair = and_or(unit.codes[step] >> 8 * (r >> 1), 0x000F000Fu << 4 * (r & 1), by.exponent);
    if constexpr (HIGH_BITS > 0) {
        constexpr u32 mask = ((1u << HIGH_BITS) - 1) * 0x00100010u;
        const int bit = HIGH_BITS * (2 * step + (r >> 1));
        pair = and_or(rotate(unit.high[bit >> 3], (bit & 3) + 8 * (bit >> 2 & 1)), mask << 4 * (r & 1), pair);
    }
    return r & 1 ? half2_fma(pair, 0x2C002C00u /* 1/16 */, by.minus_base) : half2_sub(pair, by.base);
}

// Fragment A of a step of 16 columns.
DEVICE void decode(u32 a[4], const Unit &unit, int step, Offsets by, const u32 *pairs) {
#pragma unroll
    for (int r = 0; r < 4; r++) {
        if constexpr (HALVES) {
            a[r] = unit.codes[4 * step + r];
        } else {
            const int entry = (r & 1) * GROUPS + step * GROUPS / 4;
            const u32 word = unit.scales[MINIMUM ? entry : entry >> 1];
            const u32 scale = !MINIMUM && entry & 1 ? high_half(word) : low_half(word);
            if constexpr (TABLE) {
                u32 codes = unit.codes[step] >> 4 * r & 0x000F000Fu;
                a[r] = half2_mul(pairs[(codes | codes >> 12) & 255], scale);
            } else if constexpr (MINIMUM) {
                a[r] = half2_fma(values(unit, step, r, by), scale, high_half(word));
            } else {
                a[r] = half2_mul(values(unit, step, r, by), scale);
            }
        }
    }
}

// Arguments: low (or halves), high, scales: planes of the stack. table: 256 float16 pairs, the values
// of a byte's two codes. base: the float16 pair 1024 + offset. x: float16 (rows of x, 64 * chunks).
// x_scale: what each row of x is to be multiplied by. gather: row of x for each row of out, or null.
// tiles: (expert, first row of out, count) for each token tile, or null for one matrix and n_tokens
// rows. out: float32 (tokens, rows). unscale: for all. cap: 0 or the softcap. Up to three matrices may lie behind
// each other, rows [0, end0), [end0, end1) and [end1, rows), multiples of 16; out then is theirs one after the
// other, (tokens, rows of each). For one both are `rows`.
#define PARAMETERS                                                                                        \
    const u32 *low, const u32 *high, const u32 *scales, const u32 *table, u32 base, const u16 *x,         \
        const float *x_scale, const int *gather, const int *tiles, float *out, int rows, int chunks,              \
         int n_tokens, float unscale, float cap, int end0, int end1
#define ARGUMENTS \
    low, high, scales, table, base, x, x_scale, gather, tiles, out, rows, chunks, n_tokens, unscale, cap, end0, end1

// A block's rows of out.
struct Tile {
    int expert, first, count;
};

DEVICE Tile tile_of_block(const int *tiles, int tokens, int n_tokens) {
    const int number = blockIdx.y, first = blockIdx.x * tokens;
    if (!tiles) return {0, first, min(tokens, n_tokens - first)};
    return {tiles[3 * number], tiles[3 * number + 1], tiles[3 * number + 2]};
}

// The rows of a tile, TOKENS at most. staged, of two buffers, and pairs are the block's.
template <int TOKENS>
DEVICE void multiply(Tile tile, u16 (*staged)[STRIDE], u32 *pairs, PARAMETERS) {
    constexpr int TOKEN_TILES = TOKENS / 8, COPIES = TOKENS * (CHUNK / 8) / THREADS;
    const auto [expert, first, count] = tile;
    const int row_blocks = tiles ? blockIdx.x : blockIdx.y;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int n_blocks = (rows + 15) / 16, block = row_blocks * WARPS + warp;

    if constexpr (TABLE)
        for (int i = threadIdx.x; i < 256; i += THREADS) pairs[i] = table[i];

    const uint4 *source[COPIES];
    bool present[COPIES];
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
        int part = i * THREADS + threadIdx.x, token = part >> 3;
        present[i] = token < count;
        long long row = !present[i] ? 0 : gather ? gather[first + token] : first + token;
        source[i] = (const uint4 *)(x + row * chunks * CHUNK) + (part & 7);
    }
    uint4 next[COPIES];
    auto load = [&](int chunk) {
#pragma unroll
        for (int i = 0; i < COPIES; i++)
            next[i] = present[i] ? source[i][chunk * (CHUNK / 8)] : make_uint4(0, 0, 0, 0);
    };
    auto store = [&](int buffer) {
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            int part = i * THREADS + threadIdx.x;
            *(uint4 *)&staged[TOKENS * buffer + (part >> 3)][8 * (part & 7)] = next[i];
        }
    };
    // A warp beyond the last block works on that one and keeps nothing of it.
    const long long number = ((long long)expert * n_blocks + min(block, n_blocks - 1)) * chunks;
    const Offsets by = offsets(base);
    Unit units[2];
    fetch(units[0], low, high, scales, number, lane);
    float sums[TOKEN_TILES][4] = {};
    load(0);
    store(0);
    __syncthreads();

    for (int first_chunk = 0; first_chunk < chunks; first_chunk += 2)
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {  // two at a time, so that no register is copied
            const int chunk = first_chunk + odd;
            if (chunk == chunks) break;
            const bool more = chunk + 1 < chunks;
            if (more) {
                load(chunk + 1);
                fetch(units[1 - odd], low, high, scales, number + chunk + 1, lane);
            }
#pragma unroll
            for (int step = 0; step < 4; step++) {
                u32 a[4];
                decode(a, units[odd], step, by, pairs);
#pragma unroll
                for (int n = 0; n < TOKEN_TILES; n += 2) {
                    // Lane 8i+j points to token 8 * (i / 2) + j, columns 8 * (i % 2) and on.
                    u32 t[4];
                    const u16 *token = staged[TOKENS * odd + 8 * (n + (lane >> 4)) + (lane & 7)];
                    load_matrices(t, token + 16 * step + (lane & 8));
                    mma(sums[n], a, t[0], t[1]);
                    mma(sums[n + 1], a, t[2], t[3]);
                }
            }
            if (more) store(1 - odd);  // nobody reads it: all have passed the barrier after its last use
            __syncthreads();
        }

    // The matrix that this warp's rows are of.
    const int start = 16 * block < end0 ? 0 : 16 * block < end1 ? end0 : end1;
    const int width = (start < end0 ? end0 : start < end1 ? end1 : rows) - start;
    out += (long long)n_tokens * start - start;
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int token = 8 * n + 2 * (lane & 3) + i;
            if (token >= count) continue;
            long long slot = first + token;
            float factor = unscale * x_scale[gather ? gather[slot] : slot];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = 16 * block + 8 * half + (lane >> 2);
                float value = sums[n][2 * half + i] * factor;
                if (row < rows) out[slot * width + row] = cap > 0 ? cap * tanhf(value / cap) : value;
            }
        }
}

#define SHARED(tokens)                                        \
    __shared__ __align__(16) u16 staged[2 * tokens][STRIDE]; \
    __shared__ u32 pairs[TABLE ? 256 : 1]

// Few tokens (an expert's share of a canvas), of which a half may be enough, and many. Two units with so many
// words need more registers.
constexpr int FEW_TOKENS_BLOCKS = HALVES || SCALE_WORDS > 4 ? 5 : 6;
extern "C" __global__ void __launch_bounds__(THREADS, FEW_TOKENS_BLOCKS) qgemm_32(PARAMETERS) {
    SHARED(32);
    const Tile tile = tile_of_block(tiles, 32, n_tokens);
    if (tile.count > 16)
        multiply<32>(tile, staged, pairs, ARGUMENTS);
    else if (tile.count > 0)
        multiply<16>(tile, staged, pairs, ARGUMENTS);
}

extern "C" __global__ void __launch_bounds__(THREADS, HALVES ? 3 : 4) qgemm_64(PARAMETERS) {
    SHARED(64);
    const Tile tile = tile_of_block(tiles, 64, n_tokens);
    if (tile.count > 0) multiply<64>(tile, staged, pairs, ARGUMENTS);
}
