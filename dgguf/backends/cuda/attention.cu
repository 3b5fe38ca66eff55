// Attention over a float16 KV cache, without the scores ever reaching memory.
//
// A block takes 16 queries that share a KV head and runs over their keys, 32 at a time. The head is
// cut into slices, one a warp: a warp adds its slice's share of the scores, all warps read the sums
// and take the same softmax in its online form, and each weighs its own slice of the values.
//
// Compiled for one head size: HEAD_DIM and WARPS, HEAD_DIM a multiple of 16 * WARPS. The grid is
// (tiles, KV heads); 32 * WARPS threads.
#include "primitives.cuh"

constexpr int SLICE = HEAD_DIM / WARPS;
constexpr int KEYS = 32;
constexpr int QUERIES = 16;  // of a tile, at most

// q: float32 (tokens, heads, HEAD_DIM). keys, values: float16 (KV heads, capacity, HEAD_DIM). runs: int32
// (n_runs, tokens, 2), a token sees the rows runs[i][token][0]..runs[i][token][1] of the cache for each i.
// tiles: int32 (tiles, 2), first query and end of each, 16 at most and all of one piece (see `Visible`), where
// a query is token * group + head. out: float16, as q: a mean of float16 values, so it neither overflows nor
// needs a scale.
extern "C" __global__ void __launch_bounds__(32 * WARPS, 2)
    attention(const float *q, const u16 *keys, const u16 *values, u16 *out, const int *runs, const int *tiles,
              int n_runs, int tokens, int heads, int group, int capacity) {
    __shared__ float shares[WARPS][QUERIES][KEYS + 4];
    __shared__ __align__(16) u16 staged[WARPS][KEYS][SLICE + 8];

    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    const int first_query = tiles[2 * blockIdx.x], last = tiles[2 * blockIdx.x + 1] - 1;
    const long long head_start = (long long)blockIdx.y * capacity * HEAD_DIM;
    const u16 *my_keys = keys + head_start + warp * SLICE, *my_values = values + head_start + warp * SLICE;

    // This lane's two queries, g and g + 8; beyond the last they repeat it and are not written.
    long long place[2];
    int seen_by[2];
    for (int i = 0; i < 2; i++) {
        int query = min(first_query + g + 8 * i, last), token = query / group;
        place[i] = ((long long)token * heads + blockIdx.y * group + query % group) * HEAD_DIM + warp * SLICE;
        seen_by[i] = 2 * token;
    }
    u32 a[SLICE / 16][4];
#pragma unroll
    for (int k = 0; k < SLICE / 16; k++)
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const float *source = q + place[r & 1] + 16 * k + 8 * (r >> 1) + 2 * t;
            a[k][r] = to_half2(source[0], source[1]);
        }

    float sums[SLICE / 8][4] = {};
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    for (int run = 0; run < n_runs; run++, runs += 2 * tokens) {
        const int first[2] = {runs[seen_by[0]], runs[seen_by[1]]};
        const int end[2] = {runs[seen_by[0] + 1], runs[seen_by[1] + 1]};
        const int stop = runs[2 * (last / group) + 1];
        for (int start = runs[2 * (first_query / group)]; start < stop; start += KEYS) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
                const u16 *key = my_keys + (long long)min(start + 8 * n + g, stop - 1) * HEAD_DIM + 2 * t;
                float c[4] = {};
#pragma unroll
                for (int k = 0; k < SLICE / 16; k++)
                    mma(c, a[k], *(const u32 *)(key + 16 * k), *(const u32 *)(key + 16 * k + 8));
#pragma unroll
                for (int i = 0; i < 4; i++) shares[warp][g + 8 * (i >> 1)][8 * n + 2 * t + (i & 1)] = c[i];
            }
            for (int i = lane; i < KEYS * SLICE / 8; i += 32) {
                int key = i / (SLICE / 8), column = 8 * (i % (SLICE / 8));
                // Beyond the call's rows memory is undefined, and 0 times undefined may be NaN.
                *(uint4 *)&staged[warp][key][column] =
                    start + key < stop ? *(const uint4 *)(my_values + (long long)(start + key) * HEAD_DIM + column)
                                       : make_uint4(0, 0, 0, 0);
            }
            __syncthreads();

            float p[KEYS / 8][4], tile_largest[2] = {-INFINITY, -INFINITY};
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int column = 8 * n + 2 * t + (i & 1), row = i >> 1;
                    float score = 0;
#pragma unroll
                    for (int w = 0; w < WARPS; w++) score += shares[w][g + 8 * row][column];
                    bool seen = start + column >= first[row] && start + column < end[row];
                    p[n][i] = seen ? score : -INFINITY;
                    tile_largest[row] = fmaxf(tile_largest[row], p[n][i]);
                }
#pragma unroll
            for (int row = 0; row < 2; row++) {
                float m = tile_largest[row];
                m = fmaxf(m, from_lane_xor(m, 1));
                m = fmaxf(largest[row], fmaxf(m, from_lane_xor(m, 2)));
                // A query that has seen nothing yet has no maximum; any number serves.
                float shift = m == -INFINITY ? 0.0f : m, factor = expf(largest[row] - shift), sum = 0;
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                    for (int i = 2 * row; i < 2 * row + 2; i++) sum += p[n][i] = expf(p[n][i] - shift);
                sum += from_lane_xor(sum, 1);
                sum += from_lane_xor(sum, 2);
                largest[row] = m;
                total[row] = total[row] * factor + sum;
#pragma unroll
                for (int n = 0; n < SLICE / 8; n++) sums[n][2 * row] *= factor, sums[n][2 * row + 1] *= factor;
            }
#pragma unroll
            for (int k = 0; k < KEYS / 16; k++) {
                const u32 weights[4] = {to_half2(p[2 * k][0], p[2 * k][1]), to_half2(p[2 * k][2], p[2 * k][3]),
                                        to_half2(p[2 * k + 1][0], p[2 * k + 1][1]),
                                        to_half2(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
                for (int n = 0; n < SLICE / 8; n += 2) {
                    // Lane 8i+j points to key 8 * (i % 2) + j, columns 8 * (i / 2) and on.
                    u32 v[4];
                    load_matrices_transposed(v, &staged[warp][16 * k + (lane & 15)][8 * (n + (lane >> 4))]);
                    mma(sums[n], weights, v[0], v[1]);
                    mma(sums[n + 1], weights, v[2], v[3]);
                }
            }
            __syncthreads();
        }
    }

#pragma unroll
    for (int n = 0; n < SLICE / 8; n++)
#pragma unroll
        for (int row = 0; row < 2; row++) {
            const float a = sums[n][2 * row] / total[row], b = sums[n][2 * row + 1] / total[row];
            if (first_query + g + 8 * row <= last) *(u32 *)(out + place[row] + 8 * n + 2 * t) = to_half2(a, b);
        }
}
