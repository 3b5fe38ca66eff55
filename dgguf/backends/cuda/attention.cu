// Attention over a float16 KV cache, without the scores ever reaching memory.
//
// A block takes 64 queries that share a KV head, or 32, 16 for each SHARERS warps, which divide the head between
// them. It runs over their keys, KEYS at a time: a warp adds up the scores of its own queries, takes their softmax in its
// online form, and weighs the values with it. Keys, then values come to shared memory, KEYS rows of either into one of
// SLOTS places, with SLOTS - 1 of them on their way.
//
// Where there are few blocks, `splits` of them divide the keys of the same queries: each leaves what it found in
// memory, and the last that is done adds it all up, in the order of the keys.
//
// Compiled for HEAD_DIM, a multiple of 16, SHARERS, 1, 2 or 4, KEYS, a multiple of 16, and SLOTS, 2 or more. The grid
// is (tiles, KV heads * splits).
#include "primitives.cuh"

constexpr int ROWS = 16;  // queries of a warp
constexpr int ROW_GROUPS = SHARERS > 2 ? 2 : 4;
constexpr int QUERIES = ROWS * ROW_GROUPS;
constexpr int WARPS = ROW_GROUPS * SHARERS;
constexpr int THREADS = 32 * WARPS;
constexpr int STEPS = (HEAD_DIM / 16 + SHARERS - 1) / SHARERS;  // of 16 columns, of a warp
constexpr int STRIDE = HEAD_DIM + 8;                            // 16-byte rows, no bank conflicts
constexpr int FOUND = 2 * STEPS + 1;  // of four numbers, that a thread leaves for another block
constexpr float LOG2_E = 1.44269504f;

// Whether a head has this step of a warp's; the last of two warps may have one less, of four up to three.
DEVICE bool has_step(int first_column, int step) {
    return HEAD_DIM % (16 * SHARERS) == 0 || first_column + 16 * step < HEAD_DIM;
}

DEVICE void add(float to[4], float4 v) { to[0] += v.x, to[1] += v.y, to[2] += v.z, to[3] += v.w; }

// Begins to copy KEYS rows of keys or values, a row to a warp. Beyond `stop` memory is undefined: the last row comes
// again. All count from row `first` of all heads.
DEVICE void begin_rows(u16 (*slot)[STRIDE], const u16 *rows, int first, int start, int stop) {
    constexpr int PIECES = HEAD_DIM / 8;  // of 16 bytes, of a row
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int row = 0; row < KEYS; row += WARPS) {
        const u16 *from = rows + (first + (long long)min(start + row + warp, stop - 1)) * HEAD_DIM + 8 * lane;
#pragma unroll
        for (int piece = 0; piece < PIECES; piece += 32) {
            if (PIECES % 32 && piece + lane >= PIECES) break;
            Copy copy;
            begin_copy(copy, &slot[row + warp][8 * (piece + lane)], from + 8 * piece);
            end_copy(copy, &slot[row + warp][8 * (piece + lane)]);
        }
    }
}

// q: float32 (tokens, heads, HEAD_DIM). keys, values: float16 (KV heads, capacity, HEAD_DIM). runs: int32
// (n_runs, tokens, 2), one or two: a token sees the rows runs[i][token][0]..runs[i][token][1] of the cache for each
// i. tiles: int32 (tiles, 2), first query and end of each, QUERIES at most and all of one piece (see `Visible`), where a
// query is token * group + head. out: float16, as q: a mean of float16 values, so it neither overflows nor needs a
// scale. For more than one split, of each split, KV head and tile: found, float32 (FOUND, THREADS, 4), as the lanes
// have it: values weighed by exp(score - largest), and last both largest scores and both sums of the weights; and of
// each KV head and tile: done, int32, zero before and after.
extern "C" __global__ void __launch_bounds__(THREADS, SHARERS > 1 ? 1 : 2)
    attention(const float *q, const u16 *keys, const u16 *values, u16 *out, const int *runs, const int *tiles,
              float4 *found, int *done, int n_runs, int tokens, int heads, int group, int capacity, int splits) {
    typedef u16 Slot[KEYS][STRIDE];
    DYNAMIC_SHARED(Slot, slots);                                                     // SLOTS of them
    __shared__ float4 shares[SHARERS > 1 ? WARPS : 1][KEYS / 8][SHARERS > 1 ? 32 : 1];  // of scores, of each lane
    __shared__ int2 queries[QUERIES];  // the token of each, and its row of q; -1 - row of none
    __shared__ int4 seen[2][ROW_GROUPS];
    __shared__ int kv_head, split, done_before;

    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    const int row_group = warp / SHARERS, first_column = warp % SHARERS * 16 * STEPS;

    // Registers are short: what is not needed all the time waits in shared memory.
    if (threadIdx.x < QUERIES) {
        const int first = tiles[2 * blockIdx.x], end = tiles[2 * blockIdx.x + 1], head = blockIdx.y / splits;
        const int query = min(first + (int)threadIdx.x, end - 1), token = query / group;  // beyond the last it again
        const int row = token * heads + head * group + query % group;
        queries[threadIdx.x] = {token, first + threadIdx.x < end ? row : -1 - row};
        if (threadIdx.x == 0) kv_head = head, split = blockIdx.y % splits;
    }
    __syncthreads();
    // What the first and the last of each 16 queries see, of each run; of those between neither bound is beyond theirs.
    if (threadIdx.x < 2 * ROW_GROUPS) {
        const int run = threadIdx.x / ROW_GROUPS, row = ROWS * (threadIdx.x % ROW_GROUPS);
        const int *of_run = runs + 2 * (run < n_runs ? run : 0) * tokens;
        const int *of_first = of_run + 2 * queries[row].x, *of_last = of_run + 2 * queries[row + ROWS - 1].x;
        seen[run][threadIdx.x % ROW_GROUPS] = {of_first[0], of_first[1], of_last[0], of_last[1]};
    }
    const bool has_queries = queries[ROWS * row_group].y >= 0;
    u32 a[STEPS][4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const int row = queries[ROWS * row_group + g + 8 * (r & 1)].y;
        const float *source = q + (long long)max(row, -1 - row) * HEAD_DIM + first_column + 8 * (r >> 1) + 2 * t;
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            const float2 pair = has_step(first_column, k) ? *(const float2 *)(source + 16 * k) : float2{0, 0};
            a[k][r] = to_half2(pair.x, pair.y);
        }
    }
    __syncthreads();
    // The keys that any query sees, of each run, in turns of KEYS; and the share of this split.
    auto start_of = [&](int run) { return seen[run][0].x; };
    auto stop_of = [&](int run) { return seen[run][ROW_GROUPS - 1].w; };
    auto turns_of = [&](int run) { return max(0, (stop_of(run) - start_of(run) + KEYS - 1) / KEYS); };
    const int turns_before = turns_of(0), turns = turns_before + (n_runs > 1 ? turns_of(1) : 0);
    const int begin = (int)((long long)turns * split / splits), end = (int)((long long)turns * (split + 1) / splits);

    // The keys, then the values of a turn, come to the places one after the other. A step is either of them.
    auto begin_step = [&](int turn, bool of_values, int place) {
        const int run = turn >= turns_before;
        if (turn < end) {
            const int start = start_of(run) + KEYS * (turn - (run ? turns_before : 0));
            begin_rows(slots[place], of_values ? values : keys, kv_head * capacity, start, stop_of(run));
        }
        commit_copies();
    };
#pragma unroll
    for (int step = 0; step < SLOTS - 1; step++) begin_step(begin + step / 2, step & 1, step);
    int place = SLOTS - 1;
    // Waits for a step; the place of the one before is free then.
    auto next = [&](int turn, bool of_values) {
        wait_for_copies<SLOTS - 2>();
        __syncthreads();  // the rows are there for all, and all have done with those before
        begin_step(turn + (SLOTS - 1 + of_values) / 2, (SLOTS - 1 + of_values) & 1, place);
        place = place + 1 < SLOTS ? place + 1 : 0;
        return slots[place];
    };

    float sums[2 * STEPS][4] = {};
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};  // the total is of this lane's scores alone
    for (int turn = begin; turn < end; turn++) {
        const int run = turn >= turns_before, start = start_of(run) + KEYS * (turn - (run ? turns_before : 0));
        const int4 mine = seen[run][row_group];
        const bool any = has_queries && start < mine.w && start + KEYS > mine.x;
        const bool all = start >= mine.z && start + KEYS <= mine.y;

        u32 weights[KEYS / 16][4];
        const u16(*slot)[STRIDE] = next(turn, false);
        if (any) {
            // Lane 8i+j points to key 8 * (i / 2) + j, columns 8 * (i % 2) and on.
            const u16 *key = &slot[(lane >> 4) * 8 + (lane & 7)][first_column + (lane & 8)];
            float scores[KEYS / 8][4] = {};
#pragma unroll
            for (int k = 0; k < STEPS; k++)
                if (has_step(first_column, k))
#pragma unroll
                    for (int n = 0; n < KEYS / 8; n += 2) {
                        u32 b[4];
                        load_matrices(b, key + 8 * n * STRIDE + 16 * k);
                        mma(scores[n], a[k], b[0], b[1]);
                        mma(scores[n + 1], a[k], b[2], b[3]);
                    }
            if constexpr (SHARERS > 1) {
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
                    shares[warp][n][lane] = {scores[n][0], scores[n][1], scores[n][2], scores[n][3]};
                sync_threads(1 + row_group, 32 * SHARERS);
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
                    add(scores[n], shares[warp ^ 1][n][lane]);
                    if constexpr (SHARERS > 2) {  // pair by pair: all get the same sums
                        float others[4] = {};
                        add(others, shares[warp ^ 2][n][lane]), add(others, shares[warp ^ 3][n][lane]);
                        add(scores[n], {others[0], others[1], others[2], others[3]});
                    }
                }
            }
            if (!all) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int *its = runs + 2 * (run * tokens + queries[ROWS * row_group + g + 8 * (i >> 1)].x);
                    const int from = its[0] - start - 2 * t - (i & 1), to = its[1] - start - 2 * t - (i & 1);
#pragma unroll
                    for (int n = 0; n < KEYS / 8; n++)
                        if (8 * n < from || 8 * n >= to) scores[n][i] = -INFINITY;
                }
            }
            bool grows = false;
            float now[2];
#pragma unroll
            for (int row = 0; row < 2; row++) {
                float m = -INFINITY;
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
                    m = fmaxf(m, fmaxf(scores[n][2 * row], scores[n][2 * row + 1]));
                m = fmaxf(m, from_lane_xor(m, 1));
                now[row] = fmaxf(largest[row], fmaxf(m, from_lane_xor(m, 2)));
                grows = grows || now[row] > largest[row];
            }
            if (ballot(grows)) {
#pragma unroll
                for (int row = 0; row < 2; row++) {
                    const float factor = now[row] > largest[row] ? exp2_fast(LOG2_E * (largest[row] - now[row])) : 1;
                    largest[row] = now[row], total[row] *= factor;
#pragma unroll
                    for (int n = 0; n < 2 * STEPS; n++) sums[n][2 * row] *= factor, sums[n][2 * row + 1] *= factor;
                }
            }
#pragma unroll
            for (int row = 0; row < 2; row++) {
                // A query that has seen nothing yet has no maximum; any number serves.
                const float shift = largest[row] == -INFINITY ? 0.0f : largest[row];
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
                    const float e = exp2_fast(LOG2_E * (scores[n][2 * row] - shift));
                    const float f = exp2_fast(LOG2_E * (scores[n][2 * row + 1] - shift));
                    total[row] += e + f;
                    weights[n >> 1][2 * (n & 1) + row] = to_half2(e, f);
                }
            }
        }
        slot = next(turn, true);
        if (any) {
            // Lane 8i+j points to key 8 * (i % 2) + j, columns 8 * (i / 2) and on.
            const u16 *value = &slot[lane & 15][first_column + 8 * (lane >> 4)];
#pragma unroll
            for (int k = 0; k < KEYS / 16; k++)
#pragma unroll
                for (int n = 0; n < 2 * STEPS; n += 2)
                    if (has_step(first_column, n / 2)) {
                        u32 v[4];
                        load_matrices_transposed(v, value + 16 * k * STRIDE + 8 * n);
                        mma(sums[n], weights[k], v[0], v[1]);
                        mma(sums[n + 1], weights[k], v[2], v[3]);
                    }
        }
    }
#pragma unroll
    for (int row = 0; row < 2; row++) {
        total[row] += from_lane_xor(total[row], 1);
        total[row] += from_lane_xor(total[row], 2);
    }

    if (splits > 1) {
        const int tile = kv_head * gridDim.x + blockIdx.x;
        const long long next = (long long)gridDim.x * gridDim.y / splits * FOUND * THREADS;  // of the next split
        float4 *all = found + (long long)tile * FOUND * THREADS + thread_anew(), *mine = all + split * next;
#pragma unroll
        for (int n = 0; n < 2 * STEPS; n++) mine[n * THREADS] = {sums[n][0], sums[n][1], sums[n][2], sums[n][3]};
        mine[2 * STEPS * THREADS] = {largest[0], largest[1], total[0], total[1]};
        memory_fence();
        __syncthreads();
        if (threadIdx.x == 0) done_before = atomicAdd(&done[tile], 1);
        __syncthreads();
        if (done_before < splits - 1) return;
        memory_fence();
        if (threadIdx.x == 0) done[tile] = 0;
#pragma unroll 1
        for (int s = 0; s < splits; s++) {
            const float4 its = __ldcg(&all[s * next + 2 * STEPS * THREADS]);
            largest[0] = fmaxf(largest[0], its.x), largest[1] = fmaxf(largest[1], its.y);
        }
        total[0] = total[1] = 0;
#pragma unroll
        for (int n = 0; n < 2 * STEPS; n++) sums[n][0] = sums[n][1] = sums[n][2] = sums[n][3] = 0;
#pragma unroll 1
        for (int s = 0; s < splits; s++, all += next) {
            const float4 its = __ldcg(&all[2 * STEPS * THREADS]);
            const float a = exp2_fast(LOG2_E * (its.x - largest[0])), b = exp2_fast(LOG2_E * (its.y - largest[1]));
            total[0] += a * its.z, total[1] += b * its.w;
#pragma unroll
            for (int n = 0; n < 2 * STEPS; n++) {
                const float4 v = __ldcg(&all[n * THREADS]);
                sums[n][0] += a * v.x, sums[n][1] += a * v.y, sums[n][2] += b * v.z, sums[n][3] += b * v.w;
            }
        }
    }
    const int thread = thread_anew();
#pragma unroll
    for (int row = 0; row < 2; row++) {
        const int2 mine = queries[thread / 32 / SHARERS * ROWS + thread % 32 / 4 + 8 * row];
        if (mine.y < 0) continue;
        u16 *to = out + (long long)mine.y * HEAD_DIM + thread / 32 % SHARERS * 16 * STEPS + 2 * (thread % 4);
        const float factor = 1 / total[row];
#pragma unroll
        for (int n = 0; n < 2 * STEPS; n++)
            if (has_step(first_column, n / 2))
                *(u32 *)(to + 8 * n) = to_half2(sums[n][2 * row] * factor, sums[n][2 * row + 1] * factor);
    }
}
