// Products with quantized matrices: out = x @ w.T, for one matrix or for each expert of a stack.
//
// The weights lie as layout.py draws them, so that a lane's share of a unit of 16 rows x 64 columns is
// what it feeds the tensor cores with (fragment A). They are decoded in registers: setting bits makes the
// float16 1024 + code, or 1024 + 16 * code where a nibble stands four bits higher; what leads from there to
// the value is exact, then comes the scale. Sums are float32.
//
// Units and rows of x (fragment B) are copied to shared memory while the chunks before them are multiplied,
// with STAGES - 1 chunks on their way.
//
// Compiled for one kind of layout at a time: HIGH_BITS, GROUP, MINIMUM, TABLE, HALVES (see
// layout.Layout.kind). The grid of a stack is (row blocks / 4, token tiles), of one matrix (token tiles, row
// blocks / 4), of the wide kernels row blocks / 8, for a stack a divisor of that: blocks run with x first, and what
// they share of the weights then comes from DRAM once. 128 threads.
#include "primitives.cuh"

constexpr int WARPS = 4;
constexpr int THREADS = 32 * WARPS;
constexpr int CHUNK = 64;
constexpr int STRIDE = CHUNK + 8;  // of a token in shared memory: 16-byte rows, no bank conflicts
constexpr int GROUPS = CHUNK / GROUP;

// Bytes of a unit in the three planes, and of its image in shared memory, which is one behind the other.
constexpr int LOW_BYTES = HALVES ? 2048 : 512;
constexpr int HIGH_BYTES = 128 * HIGH_BITS;
constexpr int SCALE_WORDS = HALVES ? 0 : GROUPS * (1 + MINIMUM);  // of a lane: rows g and g + 8
constexpr int SCALE_BYTES = 32 * SCALE_WORDS;
constexpr int UNIT_BYTES = LOW_BYTES + HIGH_BYTES + SCALE_BYTES;

// A lane's share of a unit.
struct Unit {
    u32 codes[HALVES ? 16 : 4];
    u32 high[HIGH_BITS ? HIGH_BITS : 1];
    u32 scales[SCALE_WORDS ? SCALE_WORDS : 1];
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

DEVICE void read_unit(Unit &unit, const char *image, int lane) {
    if constexpr (HALVES) {
#pragma unroll
        for (int step = 0; step < 4; step++)
            load_words<4>(unit.codes + 4 * step, (const u32 *)image + (step * 32 + lane) * 4);
    } else {
        load_words<4>(unit.codes, (const u32 *)image + 4 * lane);
        if constexpr (HIGH_BITS > 0)
            load_words<HIGH_BITS>(unit.high, (const u32 *)(image + LOW_BYTES) + HIGH_BITS * lane);
        load_words<SCALE_WORDS>(unit.scales,
                                (const u32 *)(image + LOW_BYTES + HIGH_BYTES) + SCALE_WORDS * (lane >> 2));
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

// What a block has of a chunk in shared memory: the rows of x, and the images of each warp's units, one below the
// other.
template <int TOKENS, int UNITS>
struct Stage {
    __align__(16) u16 x[TOKENS][STRIDE];
    __align__(16) char units[WARPS][UNITS][UNIT_BYTES];
};

// Chunks in shared memory, which may have 48 KB, with a table of 1 KB.
template <int TOKENS, int UNITS>
constexpr int STAGES = ASYNC_COPIES && 3 * sizeof(Stage<TOKENS, UNITS>) <= 48 * 1024 - 1024 * TABLE ? 3 : 2;

constexpr int LOW_PIECES = LOW_BYTES / 512;  // of 16 bytes for each lane
constexpr int REST_BYTES = HIGH_BYTES + SCALE_BYTES, REST_PIECES = (REST_BYTES + 511) / 512;
template <int TOKENS>
constexpr int X_PIECES = TOKENS * CHUNK / 8 / THREADS;  // of 16 bytes for each thread

// What a thread copies of each chunk, of its warp's units and of the block's rows of x. Rows that a tile does not
// have are left as they are: the sums of others do not depend on them.
template <int TOKENS, int UNITS>
struct Feed {
    const char *low[UNITS], *rest[UNITS][REST_PIECES ? REST_PIECES : 1], *x[X_PIECES<TOKENS>];
    int rest_step[REST_PIECES ? REST_PIECES : 1];  // in either of the two other planes, from chunk to chunk
    bool present[X_PIECES<TOKENS>];
    Copy low_copies[UNITS][LOW_PIECES], rest_copies[UNITS][REST_PIECES ? REST_PIECES : 1], x_copies[X_PIECES<TOKENS>];
};

// The copies begin with the warp's block `first_block` of 16 rows. Beyond the last block they take that one again;
// nothing of it is kept.
template <int TOKENS, int UNITS>
DEVICE void start_feed(Feed<TOKENS, UNITS> &feed, Tile tile, int first_block, PARAMETERS) {
    const int lane = threadIdx.x & 31, n_blocks = (rows + 15) / 16;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        const int block = min(first_block + u, n_blocks - 1);
        const long long unit = ((long long)tile.expert * n_blocks + block) * chunks;
        feed.low[u] = (const char *)low + unit * LOW_BYTES + 16 * lane;
#pragma unroll
        for (int i = 0; i < REST_PIECES; i++) {
            const int at = 16 * (32 * i + lane);
            const char *plane = at < HIGH_BYTES ? (const char *)high + at : (const char *)scales + at - HIGH_BYTES;
            feed.rest_step[i] = at < HIGH_BYTES ? HIGH_BYTES : SCALE_BYTES;
            feed.rest[u][i] = plane + unit * feed.rest_step[i];
        }
    }
#pragma unroll
    for (int i = 0; i < X_PIECES<TOKENS>; i++) {
        const int token = i * (THREADS / 8) + (threadIdx.x >> 3);
        feed.present[i] = token < tile.count;
        const long long row = !feed.present[i] ? 0 : gather ? gather[tile.first + token] : tile.first + token;
        feed.x[i] = (const char *)(x + row * chunks * CHUNK) + 16 * (threadIdx.x & 7);
    }
}

// Begins the copies of the chunk that is `ahead` of the one where the feed stands; one chunk after the other.
template <int TOKENS, int UNITS>
DEVICE void begin_copies(Feed<TOKENS, UNITS> &feed, Stage<TOKENS, UNITS> &stage, int ahead) {
    const int lane = threadIdx.x & 31;
    u16 *x = &stage.x[threadIdx.x >> 3][8 * (threadIdx.x & 7)];
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        char *image = stage.units[threadIdx.x >> 5][u] + 16 * lane;
#pragma unroll
        for (int i = 0; i < LOW_PIECES; i++)
            begin_copy(feed.low_copies[u][i], image + 512 * i, feed.low[u] + ahead * LOW_BYTES + 512 * i);
#pragma unroll
        for (int i = 0; i < REST_PIECES; i++) {
            if (16 * (32 * i + lane) < REST_BYTES)
                begin_copy(feed.rest_copies[u][i], image + LOW_BYTES + 512 * i, feed.rest[u][i]);
            feed.rest[u][i] += feed.rest_step[i];
        }
    }
#pragma unroll
    for (int i = 0; i < X_PIECES<TOKENS>; i++)
        if (feed.present[i])
            begin_copy(feed.x_copies[i], x + i * (THREADS / 8) * STRIDE, feed.x[i] + ahead * 2 * CHUNK);
}

template <int TOKENS, int UNITS>
DEVICE void end_copies(const Feed<TOKENS, UNITS> &feed, Stage<TOKENS, UNITS> &stage) {
    const int lane = threadIdx.x & 31;
    u16 *x = &stage.x[threadIdx.x >> 3][8 * (threadIdx.x & 7)];
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        char *image = stage.units[threadIdx.x >> 5][u] + 16 * lane;
#pragma unroll
        for (int i = 0; i < LOW_PIECES; i++) end_copy(feed.low_copies[u][i], image + 512 * i);
#pragma unroll
        for (int i = 0; i < REST_PIECES; i++)
            if (16 * (32 * i + lane) < REST_BYTES) end_copy(feed.rest_copies[u][i], image + LOW_BYTES + 512 * i);
    }
#pragma unroll
    for (int i = 0; i < X_PIECES<TOKENS>; i++)
        if (feed.present[i]) end_copy(feed.x_copies[i], x + i * (THREADS / 8) * STRIDE);
}

// Starts the feed and begins the copies of its first chunks.
template <int TOKENS, int UNITS>
DEVICE void start_strip(Feed<TOKENS, UNITS> &feed, Stage<TOKENS, UNITS> *stages, Tile tile, int first_block,
                        PARAMETERS) {
    start_feed(feed, tile, first_block, ARGUMENTS);
#pragma unroll
    for (int i = 0; i < STAGES<TOKENS, UNITS> - 1; i++) {
        if (i < chunks) begin_copies(feed, stages[i], i), end_copies(feed, stages[i]);
        commit_copies();
    }
}

// The sums of a block of 16 rows.
template <int TILES>
DEVICE void write_sums(const float sums[TILES][4], Tile tile, int block, PARAMETERS) {
    const int lane = thread_anew() & 31;  // else addresses would be in registers all along
    // The matrix that the rows are of.
    const int start = 16 * block < end0 ? 0 : 16 * block < end1 ? end0 : end1;
    const int width = (start < end0 ? end0 : start < end1 ? end1 : rows) - start;
    out += (long long)n_tokens * start - start;
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int token = 8 * n + 2 * (lane & 3) + i;
            if (token >= tile.count) continue;
            long long slot = tile.first + token;
            float factor = unscale * x_scale[gather ? gather[slot] : slot];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = 16 * block + 8 * half + (lane >> 2);
                float value = sums[n][2 * half + i] * factor;
                if (row < rows) out[slot * width + row] = cap > 0 ? cap * tanhf(value / cap) : value;
            }
        }
}

// The rows of a tile, TOKENS at most, and a strip of the matrix, UNITS blocks of 16 rows for each warp. Of an expert a
// block may take several strips, as its grid says: the first chunks of the next are on their way while the sums of the
// last are written. stages and pairs are the block's.
template <int TOKENS, int UNITS>
DEVICE void multiply(Tile tile, Stage<TOKENS, UNITS> *stages, u32 *pairs, PARAMETERS) {
    constexpr int TILES = TOKENS / 8, N = STAGES<TOKENS, UNITS>, STRIP = WARPS * UNITS;
    constexpr bool SEVERAL = TOKENS <= 32 && UNITS > 1;  // the others have no registers for it
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int strips = SEVERAL && tiles ? ((rows + 15) / 16 + STRIP * gridDim.x - 1) / (STRIP * gridDim.x) : 1;
    int strip = strips * (tiles ? blockIdx.x : blockIdx.y);

    if constexpr (TABLE)
        for (int i = threadIdx.x; i < 256; i += THREADS) pairs[i] = table[i];

    Feed<TOKENS, UNITS> feed;
    const Offsets by = offsets(base);
    start_strip(feed, stages, tile, strip * STRIP + warp * UNITS, ARGUMENTS);
    do {
        float sums[UNITS][TILES][4] = {};
        for (int turn = 0; turn < chunks; turn += N) {
#pragma unroll
            for (int at = 0; at < N; at++) {  // as many chunks as stages: their places are constants
                const int chunk = turn + at, to = (at + N - 1) % N;
                if (chunk == chunks) break;
                wait_for_copies<N - 2>();
                __syncthreads();  // the chunk is there for all, and all have done with the one before
                const bool more = chunk + N - 1 < chunks;
                if (more) begin_copies(feed, stages[to], at + N - 1);
                commit_copies();
                Unit units[UNITS];
#pragma unroll
                for (int u = 0; u < UNITS; u++) read_unit(units[u], stages[at].units[warp][u], lane);
#pragma unroll
                for (int step = 0; step < 4; step++) {
                    u32 a[UNITS][4];
#pragma unroll
                    for (int u = 0; u < UNITS; u++) decode(a[u], units[u], step, by, pairs);
#pragma unroll
                    for (int n = 0; n < TILES; n += 2) {
                        // Lane 8i+j points to token 8 * (i / 2) + j, columns 8 * (i % 2) and on.
                        u32 t[4];
                        load_matrices(t, &stages[at].x[8 * (n + (lane >> 4)) + (lane & 7)][16 * step + (lane & 8)]);
#pragma unroll
                        for (int u = 0; u < UNITS; u++) {
                            mma(sums[u][n], a[u], t[0], t[1]);
                            mma(sums[u][n + 1], a[u], t[2], t[3]);
                        }
                    }
                }
                if (more) end_copies(feed, stages[to]);
            }
#pragma unroll
            for (int u = 0; u < UNITS; u++) feed.low[u] += N * LOW_BYTES;
#pragma unroll
            for (int i = 0; i < X_PIECES<TOKENS>; i++) feed.x[i] += N * 2 * CHUNK;
        }
        const int block = strip * STRIP + warp * UNITS;
        if constexpr (SEVERAL)
            if (++strip % strips) {
                __syncthreads();  // all have done with this strip
                start_strip(feed, stages, tile, block + STRIP, ARGUMENTS);
            }
#pragma unroll
        for (int u = 0; u < UNITS; u++) write_sums<TILES>(sums[u], tile, block + u, ARGUMENTS);
    } while (SEVERAL && strip % strips);
}

// Blocks of a multiprocessor. Where copies wait in registers, shared memory holds no more anyway.
constexpr int FEW_TOKENS_BLOCKS = !ASYNC_COPIES ? 4 : HALVES ? 5 : 6;
constexpr int FEW_TOKENS_WIDE_BLOCKS = !ASYNC_COPIES ? 2 : 4;
constexpr int MANY_TOKENS_BLOCKS = !ASYNC_COPIES ? 2 : HALVES ? 3 : 4;

#define SHARED(tokens, units)                                              \
    __shared__ Stage<tokens, units> stages[STAGES<tokens, units>]; \
    __shared__ u32 pairs[TABLE ? 256 : 1]

// Few tokens (an expert's share of a canvas), of which a half may be enough.
template <int UNITS>
DEVICE void multiply_few(Stage<32, UNITS> *stages, u32 *pairs, PARAMETERS) {
    const Tile tile = tile_of_block(tiles, 32, n_tokens);
    if (tile.count > 16)
        multiply<32, UNITS>(tile, stages, pairs, ARGUMENTS);
    else if (tile.count > 0)
        multiply<16, UNITS>(tile, (Stage<16, UNITS> *)stages, pairs, ARGUMENTS);
}

extern "C" __global__ void __launch_bounds__(THREADS, FEW_TOKENS_BLOCKS) qgemm_32(PARAMETERS) {
    SHARED(32, 1);
    multiply_few<1>(stages, pairs, ARGUMENTS);
}

// Many tokens.
extern "C" __global__ void __launch_bounds__(THREADS, MANY_TOKENS_BLOCKS) qgemm_64(PARAMETERS) {
    SHARED(64, 1);
    const Tile tile = tile_of_block(tiles, 64, n_tokens);
    if (tile.count > 0) multiply<64, 1>(tile, stages, pairs, ARGUMENTS);
}

#if !HALVES  // for which shared memory has no room
// Many rows: each warp takes 32, a block 128. x comes half as often through the second cache, and from shared memory.
extern "C" __global__ void __launch_bounds__(THREADS, FEW_TOKENS_WIDE_BLOCKS) qgemm_32_wide(PARAMETERS) {
    SHARED(32, 2);
    multiply_few<2>(stages, pairs, ARGUMENTS);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) qgemm_64_wide(PARAMETERS) {
    SHARED(64, 2);
    const Tile tile = tile_of_block(tiles, 64, n_tokens);
    if (tile.count > 0) multiply<64, 2>(tile, stages, pairs, ARGUMENTS);
}
#endif
