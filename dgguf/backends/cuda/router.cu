// Which experts each row goes to: a small product in float32, and the largest of its softmax.
//
// `router_scores` multiplies rows by the router's matrix, tile by tile through shared memory, and cuts
// the columns into splits, so that the few rows of a canvas fill a GPU. The norm before the router is
// one factor a row: it also sums the squares, and `choose_experts` puts both together. Its last block then
// sorts the choices by expert for the experts' products: a kernel less than `experts.group_rows`, which does the same.
//
// Compiled for N_EXPERTS.
#include "primitives.cuh"

constexpr int ROWS = 32;      // of a tile
constexpr int TILE = 128;     // experts of a tile
constexpr int DEPTH = 16;     // columns that lie in shared memory at once
constexpr int SPLIT = 176;    // columns of a split, a multiple of DEPTH; as ROUTER_SPLIT in layers.py
constexpr int TILE_THREADS = 128;
constexpr int EACH = (N_EXPERTS + 31) / 32;  // experts of a lane
constexpr int CHOOSING_THREADS = 256;        // as 32 * CHOOSING_ROWS in layers.py

// Shares of the choices that threads count by expert, as many as 32 KB of shared memory have room for.
constexpr int SHARES = N_EXPERTS <= 64 ? CHOOSING_THREADS : 16384 / N_EXPERTS;
static_assert(SHARES > 0, "so many experts have no room");

// Four numbers of a row of n that begin at a multiple of 4; 0 from `end` on.
DEVICE float4 load_four(const float *row, int at, int end, int n) {
    if (n % 4 == 0 && at + 4 <= end) return *(const float4 *)(row + at);
    float4 v;
    v.x = at < end ? row[at] : 0, v.y = at + 1 < end ? row[at + 1] : 0;
    v.z = at + 2 < end ? row[at + 2] : 0, v.w = at + 3 < end ? row[at + 3] : 0;
    return v;
}

// x: (rows, columns) residual stream. norm: (columns,), what it is multiplied by. w: (columns, N_EXPERTS).
// partial: (splits, rows, N_EXPERTS) sums of x * norm * w. squares: (splits, rows) sums of x². The grid
// is (row tiles, splits * expert tiles).
extern "C" __global__ void __launch_bounds__(TILE_THREADS)
    router_scores(const float *x, const float *norm, const float *w, float *partial, float *squares, int rows,
                  int columns) {
    __shared__ __align__(16) float inputs[2][DEPTH][ROWS + 4];
    __shared__ __align__(16) float weights[2][DEPTH][TILE];

    constexpr int EXPERT_TILES = (N_EXPERTS + TILE - 1) / TILE;
    const int split = blockIdx.y / EXPERT_TILES, first_expert = blockIdx.y % EXPERT_TILES * TILE;
    const int first = blockIdx.x * ROWS, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int start = split * SPLIT, end = min(columns, start + SPLIT);
    const int chunks = (end - start + DEPTH - 1) / DEPTH;
    // What this thread stages: four columns of a row, and four experts of every fourth column.
    const int my_row = threadIdx.x >> 2, my_column = 4 * (threadIdx.x & 3);
    const bool present = first + my_row < rows;
    const float *source = x + (long long)min(first + my_row, rows - 1) * columns;

    float4 next_input, next_weights[DEPTH / 4];
    float square = 0;
    auto load = [&](int chunk) {
        const int at = start + chunk * DEPTH;
        const int stop = present ? end : 0;
        next_input = load_four(source, at + my_column, stop, columns);
        square += next_input.x * next_input.x + next_input.y * next_input.y;
        square += next_input.z * next_input.z + next_input.w * next_input.w;
        const float4 scale = load_four(norm, at + my_column, end, columns);
        next_input.x *= scale.x, next_input.y *= scale.y, next_input.z *= scale.z, next_input.w *= scale.w;
#pragma unroll
        for (int i = 0; i < DEPTH / 4; i++) {
            const int column = at + 4 * i + warp, expert = first_expert + 4 * lane;
            next_weights[i] = load_four(w + (long long)min(column, end - 1) * N_EXPERTS, expert,
                                        column < end ? N_EXPERTS : 0, N_EXPERTS);
        }
    };
    auto store = [&](int buffer) {
        inputs[buffer][my_column][my_row] = next_input.x, inputs[buffer][my_column + 1][my_row] = next_input.y;
        inputs[buffer][my_column + 2][my_row] = next_input.z, inputs[buffer][my_column + 3][my_row] = next_input.w;
#pragma unroll
        for (int i = 0; i < DEPTH / 4; i++) *(float4 *)&weights[buffer][4 * i + warp][4 * lane] = next_weights[i];
    };

    float sums[8][4] = {};  // rows 8 * warp and on, experts 4 * lane and on
    load(0);
    store(0);
    __syncthreads();
    for (int chunk = 0; chunk < chunks; chunk++) {
        if (chunk + 1 < chunks) load(chunk + 1);
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            const float *in = &inputs[chunk & 1][k][8 * warp];
            const float4 b = *(const float4 *)&weights[chunk & 1][k][4 * lane];
            const float4 low = *(const float4 *)in, high = *(const float4 *)(in + 4);
            const float a[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
            for (int i = 0; i < 8; i++) {
                sums[i][0] += a[i] * b.x, sums[i][1] += a[i] * b.y;
                sums[i][2] += a[i] * b.z, sums[i][3] += a[i] * b.w;
            }
        }
        if (chunk + 1 < chunks) store((chunk + 1) & 1);  // nobody reads it: all have passed the last barrier
        __syncthreads();
    }

    square += from_lane_xor(square, 1);
    square += from_lane_xor(square, 2);
    if (present && my_column == 0 && first_expert == 0) squares[split * rows + first + my_row] = square;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int row = first + 8 * warp + i;
        float *to = partial + ((long long)split * rows + row) * N_EXPERTS + first_expert;
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (row < rows && first_expert + 4 * lane + j < N_EXPERTS) to[4 * lane + j] = sums[i][j];
    }
}

// Softmax over the scores of a row, the n_used largest renormalised, times their expert_scale; by a warp. Equal
// probabilities go to the lower number. factor: of the scores, beside the norm.
DEVICE void choose(int row, const float *partial, const float *squares, const float *expert_scale, int *chosen,
                   float *given, int rows, int columns, int splits, int n_used, float factor, float eps) {
    const int lane = threadIdx.x & 31;
    float square = 0, p[EACH] = {}, largest = -3e38f;
    for (int split = 0; split < splits; split++) {
        square += squares[split * rows + row];
        const float *scores = partial + ((long long)split * rows + row) * N_EXPERTS;
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (lane + 32 * i < N_EXPERTS) p[i] += scores[lane + 32 * i];
    }
    factor /= sqrtf(square / columns + eps);
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (lane + 32 * i < N_EXPERTS) largest = fmaxf(largest, p[i] *= factor);
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) largest = fmaxf(largest, from_lane_xor(largest, mask));
#pragma unroll
    for (int i = 0; i < EACH; i++) p[i] = lane + 32 * i < N_EXPERTS ? expf(p[i] - largest) : -1.0f;

    float kept = 0;
    for (int a = 0; a < n_used; a++) {
        float best = -1.0f, where = N_EXPERTS;
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (p[i] > best) best = p[i], where = lane + 32 * i;
#pragma unroll
        for (int mask = 16; mask > 0; mask >>= 1) {
            const float other = from_lane_xor(best, mask), there = from_lane_xor(where, mask);
            if (other > best || (other == best && there < where)) best = other, where = there;
        }
        const int expert = min((int)where, N_EXPERTS - 1);  // beyond, if the scores are no numbers
        kept += best;
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (expert == lane + 32 * i) p[i] = -1.0f;
        if (lane == 0) chosen[row * n_used + a] = expert, given[row * n_used + a] = best;
    }
    __syncwarp();  // lane 0 has written them
    for (int a = lane; a < n_used; a += 32) {
        float &weight = given[row * n_used + a];
        weight = weight / kept * expert_scale[chosen[row * n_used + a]];
    }
}

// Sort the choices by expert, stably, and cut each expert's rows into tiles of `height` slots; by a block.
// row_of and tiles as of `experts.group_rows`; slot_of: (rows * n_used,).
DEVICE void group(const volatile int *chosen, int *row_of, int *slot_of, int *tiles, int n, int n_used, int height) {
    __shared__ u16 counts[SHARES][N_EXPERTS];  // of each share; then where its choices stand among an expert's
    __shared__ int totals[N_EXPERTS], starts[N_EXPERTS];
    const int tid = threadIdx.x, share = (n + SHARES - 1) / SHARES;
    const int first = min(n, tid * share), end = tid < SHARES ? min(n, first + share) : first;

    for (int i = tid; i < SHARES * N_EXPERTS; i += CHOOSING_THREADS) counts[i / N_EXPERTS][i % N_EXPERTS] = 0;
    __syncthreads();
    for (int i = first; i < end; i++) counts[tid][chosen[i]]++;
    __syncthreads();
    for (int expert = tid; expert < N_EXPERTS; expert += CHOOSING_THREADS) {
        int total = 0;
#pragma unroll 4
        for (int s = 0; s < SHARES; s++) {
            const int own = counts[s][expert];
            counts[s][expert] = (u16)total;
            total += own;
        }
        totals[expert] = total;
    }
    __syncthreads();
    for (int expert = tid; expert < N_EXPERTS; expert += CHOOSING_THREADS) {
        int start = 0;
#pragma unroll 4
        for (int other = 0; other < N_EXPERTS; other++) start += other < expert ? totals[other] : 0;
        starts[expert] = start;
        // Where an expert's tiles begin follows from where its slots do: one more than needed leaves room.
        const int stop = start + totals[expert], first_tile = start / height + expert;
        for (int tile = first_tile; tile <= stop / height + expert; tile++) {
            const int done = start + (tile - first_tile) * height;
            tiles[3 * tile] = expert, tiles[3 * tile + 1] = done;
            tiles[3 * tile + 2] = max(0, min(stop - done, height));
        }
    }
    __syncthreads();
    for (int i = first; i < end; i++) {
        const int expert = chosen[i], slot = starts[expert] + counts[tid][expert]++;
        row_of[slot] = i / n_used, slot_of[i] = slot;
    }
}

// Choose experts, a warp a row, eight to a block; the block that comes last groups the rows. chosen and given:
// (rows, n_used), the largest first. arrived: how many blocks have come, 0 before and after.
extern "C" __global__ void __launch_bounds__(CHOOSING_THREADS)
    choose_experts(const float *partial, const float *squares, const float *expert_scale, int *chosen, float *given,
                   int *row_of, int *slot_of, int *tiles, int *arrived, int rows, int columns, int splits, int n_used,
                   int height, float factor, float eps) {
    __shared__ int before;
    const int warps = CHOOSING_THREADS / 32, row = warps * blockIdx.x + (threadIdx.x >> 5);
    if (row < rows)
        choose(row, partial, squares, expert_scale, chosen, given, rows, columns, splits, n_used, factor, eps);
    __threadfence();  // whoever sees that this block has come sees its choices
    __syncthreads();
    if (threadIdx.x == 0) before = atomicAdd(arrived, 1);
    __syncthreads();
    if (before + 1 < (rows + warps - 1) / warps) return;
    if (threadIdx.x == 0) *arrived = 0;
    group(chosen, row_of, slot_of, tiles, rows * n_used, n_used, height);
}
