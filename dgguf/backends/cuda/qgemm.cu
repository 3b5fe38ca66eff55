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
// layout.Layout.kind), and with GATED for gate and up whose blocks of 16 rows alternate: out is then
// gelu(x @ gate.T) * (x @ up.T). The grid of a stack is (row blocks / 4, token tiles), of one matrix (token tiles, row
// blocks / 4, times splits), of qgemm_64_wide row blocks / 8: blocks run with x first, and what they share of the
// weights then comes from DRAM once. The blocks of qgemm_32_wide stay until all is done: about as many as the GPU holds.
// 128 threads.
#include "primitives.cuh"

#ifndef GATED
#define GATED 0
#endif

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
// other, (tokens, rows of each). For one both are `rows`. dealt: how often blocks that stay have asked for more: 0
// before and after. n_tiles: of `tiles`, or of n_tokens. With GATED out is float16 (tokens, rows / 2), each row times a
// power of two which out_scales (tokens,) undo; reach: (experts,) float32, times x_scale² a bound of a row's numbers;
// rows are a multiple of 128, cap is 0, and ends are not read. Else both are null. splits: how many blocks divide the
// chunks of one matrix among them; out is then (splits, n_tokens, rows), to be added up. 1 for stacks, for blocks that
// stay, with a cap, with GATED, and for matrices behind each other.
#define PARAMETERS                                                                                        \
    const u32 *low, const u32 *high, const u32 *scales, const u32 *table, u32 base, const u16 *x,         \
        const float *x_scale, const int *gather, const int *tiles, void *out, int rows, int chunks,               \
         int n_tokens, float unscale, float cap, int end0, int end1, int *dealt, int n_tiles, \
        const float *reach, float *out_scales, int splits
#define ARGUMENTS                                                                                              \
    low, high, scales, table, base, x, x_scale, gather, tiles, out, rows, chunks, n_tokens, unscale, cap, end0, end1, \
        dealt, n_tiles, reach, out_scales, splits

// Rows of out, of one expert.
struct Tile {
    int expert, first, count;
};

DEVICE Tile tile_at(int number, const int *tiles, int tokens, int n_tokens) {
    if (!tiles) return {0, number * tokens, min(tokens, n_tokens - number * tokens)};
    return {tiles[3 * number], tiles[3 * number + 1], tiles[3 * number + 2]};
}

DEVICE Tile tile_of_block(const int *tiles, int tokens, int n_tokens) {
    return tile_at(tiles ? blockIdx.y : blockIdx.x, tiles, tokens, n_tokens);
}

// What a block that stays does before it asks for more: a strip of the matrix, by a tile. Nothing if that is empty.
struct Item {
    Tile tile;
    int strip;
};

// The item that `number` counts, or one that comes later, if that is empty; by one thread. The first number of a block
// is its own, the others come from the counter. As blocks run with x first, strips run first where tiles are listed.
// Each block asks until nothing is left, and then no more: so whoever is told last knows it by the number, and leaves
// the counter as it was.
template <int TOKENS, int STRIP>
DEVICE Item take(int number, PARAMETERS) {
    const int strips = ((rows + 15) / 16 + STRIP - 1) / STRIP, items = strips * n_tiles;
    for (; number < items; number = gridDim.x + atomicAdd(dealt, 1)) {
        const Tile tile = tile_at(tiles ? number / strips : number % n_tiles, tiles, TOKENS, n_tokens);
        if (tile.count > 0) return {tile, tiles ? number % strips : number / n_tiles};
    }
    if (number + 1 == items + gridDim.x) *dealt = 0;
    return {{0, 0, 0}, 0};
}

#include "qgemm_feed.cuh"
#include "qgemm_write.cuh"

// The sums of TOKENS rows of x at most, of FED that the feed brings, and of each warp's units. pairs: of a block.
template <int TOKENS, int FED, int UNITS>
DEVICE void add_chunks(float sums[UNITS][TOKENS / 8][4], Feed<FED, UNITS> &feed, Stage<FED, UNITS> *stages,
                       const u32 *pairs, u32 base, int chunks) {
    constexpr int TILES = TOKENS / 8, N = STAGES<FED, UNITS>;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const Offsets by = offsets(base);
    for (int turn = 0; turn < chunks; turn += N) {
#pragma unroll
        for (int at = 0; at < N; at++) {  // as many chunks as stages: their places are constants
            const int chunk = turn + at, to = (at + N - 1) % N;
            if (chunk == chunks) break;
            wait_for_copies<N - 2>();
            __syncthreads();  // the chunk is there for all, and all have done with the one before
            const bool more = chunk + N - 1 < chunks;
            if (more) begin_copies<TOKENS>(feed, stages[to], at + N - 1);
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
            if (more) end_copies<TOKENS>(feed, stages[to]);
        }
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            feed.low[u] += N * LOW_BYTES;
#pragma unroll
            for (int i = 0; i < REST_PIECES; i++)
                if (REST_ALIKE) feed.rest[u][i] += N * REST_STEP(i);
        }
#pragma unroll
        for (int i = 0; i < X_PIECES<TOKENS>; i++) feed.x[i] += N * 2 * CHUNK;
    }
}

DEVICE void copy_pairs(u32 *pairs, const u32 *table) {
    if constexpr (TABLE)
        for (int i = threadIdx.x; i < 256; i += THREADS) pairs[i] = table[i];
}

// The rows of a tile, TOKENS at most, and a strip of the matrix: UNITS blocks of 16 rows for each warp; of the chunks
// this block's share. stages and pairs are the block's.
template <int TOKENS, int UNITS>
DEVICE void multiply(Tile tile, Stage<TOKENS, UNITS> *stages, u32 *pairs, PARAMETERS) {
    const int strips = gridDim.y / splits, split = tiles ? 0 : blockIdx.y / strips;
    const int block = (tiles ? blockIdx.x : blockIdx.y % strips) * WARPS * UNITS + (threadIdx.x >> 5) * UNITS;
    const int share = (chunks + splits - 1) / splits, first = split * share, n = max(0, min(share, chunks - first));
    copy_pairs(pairs, table);
    Feed<TOKENS, UNITS> feed;
    start_strip(feed, stages, tile, block, first, n, ARGUMENTS);
    float sums[UNITS][TOKENS / 8][4] = {};
    add_chunks<TOKENS, TOKENS, UNITS>(sums, feed, stages, pairs, base, n);
    if (!GATED) out = (float *)out + (long long)split * n_tokens * rows;
    write<TOKENS / 8, UNITS>(sums, tile, block, stages, ARGUMENTS);
}

// The sums of coming[at], whose first chunks are on their way; those of the item after it are begun, and the one behind
// that is asked for.
template <int TOKENS, int FED, int UNITS>
DEVICE void finish(Item *coming, int at, Feed<FED, UNITS> &feed, Stage<FED, UNITS> *stages, const u32 *pairs,
                   PARAMETERS) {
    constexpr int STRIP = WARPS * UNITS;
    float sums[UNITS][TOKENS / 8][4] = {};
    add_chunks<TOKENS, FED, UNITS>(sums, feed, stages, pairs, base, chunks);
    __syncthreads();  // all have done with the stages
    const int warp = thread_anew() >> 5;
    const Item next = coming[at < 2 ? at + 1 : 0];
    if (next.tile.count > 0)
        start_strip(feed, stages, next.tile, next.strip * STRIP + warp * UNITS, 0, chunks, ARGUMENTS);
    int number = 0;
    const bool ask = threadIdx.x == 0 && next.tile.count > 0;
    if (ask) number = gridDim.x + atomicAdd(dealt, 1);
    write<TOKENS / 8, UNITS>(sums, coming[at].tile, coming[at].strip * STRIP + warp * UNITS, nullptr, ARGUMENTS);
    if (ask) coming[at > 0 ? at - 1 : 2] = take<FED, STRIP>(number, ARGUMENTS);
}

// A block that stays: one item after the other, the first chunks of each on their way while the sums of the one before
// are written. Of a tile with few rows a half of FED is multiplied. coming: three places, in turn; what stands in one is
// read behind a barrier, and overwritten two barriers later.
template <int FED, int UNITS>
DEVICE void multiply_all(Stage<FED, UNITS> *stages, u32 *pairs, Item *coming, PARAMETERS) {
    constexpr int STRIP = WARPS * UNITS;
    copy_pairs(pairs, table);
    if (threadIdx.x == 0) coming[0] = take<FED, STRIP>(blockIdx.x, ARGUMENTS);
    __syncthreads();
    if (coming[0].tile.count == 0) return;
    Feed<FED, UNITS> feed;
    const int block = coming[0].strip * STRIP + (threadIdx.x >> 5) * UNITS;
    start_strip(feed, stages, coming[0].tile, block, 0, chunks, ARGUMENTS);
    if (threadIdx.x == 0) coming[1] = take<FED, STRIP>(gridDim.x + atomicAdd(dealt, 1), ARGUMENTS);
    for (int at = 0; coming[at].tile.count > 0; at = at < 2 ? at + 1 : 0) {
        if (coming[at].tile.count > FED / 2)
            finish<FED, FED, UNITS>(coming, at, feed, stages, pairs, ARGUMENTS);
        else
            finish<FED / 2, FED, UNITS>(coming, at, feed, stages, pairs, ARGUMENTS);
    }
}

// Blocks of a multiprocessor. Where copies wait in registers, shared memory holds no more anyway; nor do the 100 KB of
// compute capability 8.6, 8.9 and 12.0 hold four of a wide kernel.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 800 && __CUDA_ARCH__ != 900
constexpr bool LITTLE_SHARED = true;
#else
constexpr bool LITTLE_SHARED = false;
#endif
constexpr int FEW_TOKENS_BLOCKS = !ASYNC_COPIES ? 4 : HALVES ? 5 : 6;
constexpr int FEW_TOKENS_WIDE_BLOCKS = !ASYNC_COPIES ? 2 : LITTLE_SHARED ? 3 : 4;
constexpr int MANY_TOKENS_BLOCKS = !ASYNC_COPIES ? 2 : HALVES ? 3 : 4;

#define SHARED(tokens, units)                                              \
    __shared__ Stage<tokens, units> stages[STAGES<tokens, units>]; \
    __shared__ u32 pairs[TABLE ? 256 : 1]

// Few tokens (an expert's share of a canvas), of which a half may be enough.
extern "C" __global__ void __launch_bounds__(THREADS, FEW_TOKENS_BLOCKS) qgemm_32(PARAMETERS) {
    SHARED(32, 1);
    const Tile tile = tile_of_block(tiles, 32, n_tokens);
    if (tile.count > 16)
        multiply<32, 1>(tile, stages, pairs, ARGUMENTS);
    else if (tile.count > 0)
        multiply<16, 1>(tile, (Stage<16, 1> *)stages, pairs, ARGUMENTS);
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
    __shared__ Item coming[3];
    multiply_all<32, 2>(stages, pairs, coming, ARGUMENTS);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) qgemm_64_wide(PARAMETERS) {
    SHARED(64, 2);
    const Tile tile = tile_of_block(tiles, 64, n_tokens);
    if (tile.count > 0) multiply<64, 2>(tile, stages, pairs, ARGUMENTS);
}
#endif
