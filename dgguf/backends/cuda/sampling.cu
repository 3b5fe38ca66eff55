// Reading the logits: what logits.py's kernels of the same names do, a slice of a row to a block. A
// thread keeps its logits in registers, so that memory is read once a kernel, 16 bytes at a time.
//
// Compiled for GROUPS, how often the threads of a block have to take four logits each; as in vocabulary.py.
// The grid is (rows, slices).
#include "primitives.cuh"

typedef unsigned long long u64;

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int BINS = 256;
constexpr float BINS_PER_NAT = 12.0f;
constexpr float LOWEST = -3e38f;
constexpr int STATISTICS = 5;  // columns of a slice
constexpr int ROW_COLUMNS = 4, ROW_LARGEST = 3;  // of a row

// The part of a row that a block has; `z` is logits / temperature.
struct Slice {
    int start, end;
    float z[GROUPS][4];
};

DEVICE int place_of(const Slice &slice, int group, int i) {
    return slice.start + 4 * (group * THREADS + threadIdx.x) + i;
}

DEVICE void load_slice(Slice &slice, const float *logits, const float *temperature, int n, int slices) {
    const int length = (n + slices - 1) / slices;
    slice.start = min(n, (int)blockIdx.y * length), slice.end = min(n, slice.start + length);
    const float *row = logits + (long long)blockIdx.x * n, t = *temperature;
    const bool aligned = n % 4 == 0 && length % 4 == 0;
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        const int at = place_of(slice, group, 0);
        float4 v = {0, 0, 0, 0};
        if (aligned) {
            if (at < slice.end) v = *(const float4 *)(row + at);
        } else {
            if (at < slice.end) v.x = row[at];
            if (at + 1 < slice.end) v.y = row[at + 1];
            if (at + 2 < slice.end) v.z = row[at + 2];
            if (at + 3 < slice.end) v.w = row[at + 3];
        }
        slice.z[group][0] = v.x / t, slice.z[group][1] = v.y / t;
        slice.z[group][2] = v.z / t, slice.z[group][3] = v.w / t;
    }
}

// For each logit of this thread that there is: its place in the row, and z.
#define FOR_EACH_LOGIT(place, z_)                                                                       \
    _Pragma("unroll") for (int g_ = 0; g_ < GROUPS; g_++) _Pragma("unroll") for (int i_ = 0; i_ < 4; i_++) \
        if (const int place = place_of(slice, g_, i_); place < slice.end)                               \
            if (const float z_ = slice.z[g_][i_]; true)

// out: (rows, slices, STATISTICS): the largest z and its first place, the sums of e = exp(z - largest) and
// of e * (z - largest), and whether a logit is not finite.
extern "C" __global__ void __launch_bounds__(THREADS)
    slice_statistics(const float *logits, const float *temperature, double *out, int n, int slices) {
    __shared__ float largest_of[WARPS], first_of[WARPS], bad_of[WARPS];
    __shared__ double total_of[WARPS], weighted_of[WARPS];
    Slice slice;
    load_slice(slice, logits, temperature, n, slices);
    float largest = LOWEST, first = slice.end, bad = 0;
    FOR_EACH_LOGIT(place, z) {
        if (!(fabsf(z) < INFINITY))
            bad = 1;
        else if (z > largest)
            largest = z, first = place;
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) {
        const float other = from_lane_xor(largest, mask), there = from_lane_xor(first, mask);
        if (other > largest || (other == largest && there < first)) largest = other, first = there;
        bad = fmaxf(bad, from_lane_xor(bad, mask));
    }
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) largest_of[warp] = largest, first_of[warp] = first, bad_of[warp] = bad;
    __syncthreads();
    largest = largest_of[0], first = first_of[0], bad = bad_of[0];
#pragma unroll
    for (int w = 1; w < WARPS; w++) {
        if (largest_of[w] > largest || (largest_of[w] == largest && first_of[w] < first))
            largest = largest_of[w], first = first_of[w];
        bad = fmaxf(bad, bad_of[w]);
    }
    double total = 0, weighted = 0;
    FOR_EACH_LOGIT(place, z) {
        const float shifted = z - largest, e = expf(shifted);
        total += e, weighted += (double)e * shifted;
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) {
        total += from_lane_xor(total, mask);
        weighted += from_lane_xor(weighted, mask);
    }
    if (lane == 0) total_of[warp] = total, weighted_of[warp] = weighted;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < WARPS; w++) total += total_of[w], weighted += weighted_of[w];
    double *to = out + ((long long)blockIdx.x * slices + blockIdx.y) * STATISTICS;
    to[0] = largest, to[1] = first, to[2] = total, to[3] = weighted, to[4] = bad;
}

// The bin of z - largest; BINS for what is never kept.
DEVICE int bin_of(float shifted) {
    return shifted <= 0 && shifted > -BINS / BINS_PER_NAT ? (int)(-shifted * BINS_PER_NAT) : BINS;
}

DEVICE float row_largest(const double *rows) { return (float)rows[blockIdx.x * ROW_COLUMNS + ROW_LARGEST]; }

// counts, masses: (rows, slices, BINS), how many logits are in each bin, and their exp(z - largest) in
// units of 2^-40.
extern "C" __global__ void __launch_bounds__(THREADS)
    count_bins(const float *logits, const float *temperature, const double *rows, int *counts, u64 *masses, int n,
               int slices) {
    __shared__ int n_in[BINS];
    __shared__ u64 mass_in[BINS];
    for (int b = threadIdx.x; b < BINS; b += THREADS) n_in[b] = 0, mass_in[b] = 0;
    Slice slice;
    load_slice(slice, logits, temperature, n, slices);
    const float largest = row_largest(rows);
    __syncthreads();
    FOR_EACH_LOGIT(place, z) {
        const float shifted = z - largest;
        const int b = bin_of(shifted);
        if (b < BINS) {
            atomicAdd(&n_in[b], 1);
            atomicAdd(&mass_in[b], (u64)(expf(shifted) * 1099511627776.0f));
        }
    }
    __syncthreads();
    const long long to = ((long long)blockIdx.x * slices + blockIdx.y) * BINS;
    for (int b = threadIdx.x; b < BINS; b += THREADS) counts[to + b] = n_in[b], masses[to + b] = mass_in[b];
}

// edges, kept: (rows,), places: (rows, slices, 2), of choose_edge. tokens, weights: (rows, most).
extern "C" __global__ void __launch_bounds__(THREADS)
    keep_likeliest(const float *logits, const float *temperature, const double *rows, const int *edges,
                   const int *places, const int *kept, int *tokens, float *weights, int n, int slices, int most) {
    __shared__ int above_of[GROUPS][WARPS], equal_of[GROUPS][WARPS];
    const int *mine = places + 2 * (blockIdx.x * slices + blockIdx.y);
    const int edge = edges[blockIdx.x], room = mine[1];
    if (mine[0] == ((int)blockIdx.y + 1 < slices ? mine[2] : kept[blockIdx.x])) return;
    Slice slice;
    load_slice(slice, logits, temperature, n, slices);
    const float largest = row_largest(rows);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 lower = (1u << lane) - 1;
    // How many of this group come before this thread's four: of lower bins than the edge, and of it.
    int above[GROUPS], equal[GROUPS];
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        int all_above = 0, all_equal = 0;
        above[group] = equal[group] = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const bool inside = place_of(slice, group, i) < slice.end;
            const int b = inside ? bin_of(slice.z[group][i] - largest) : BINS;
            const u32 are_above = ballot(b < edge), are_equal = ballot(b == edge);
            above[group] += __popc(are_above & lower), equal[group] += __popc(are_equal & lower);
            all_above += __popc(are_above), all_equal += __popc(are_equal);
        }
        if (lane == 0) above_of[group][warp] = all_above, equal_of[group][warp] = all_equal;
    }
    __syncthreads();
    int above_before = 0, equal_before = 0;  // of the groups and warps before
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        for (int w = 0; w < warp; w++) above[group] += above_of[group][w], equal[group] += equal_of[group][w];
        above[group] += above_before, equal[group] += equal_before;
        for (int w = 0; w < WARPS; w++) above_before += above_of[group][w], equal_before += equal_of[group][w];
    }
    FOR_EACH_LOGIT(place, z) {
        const float shifted = z - largest;
        const int b = bin_of(shifted);
        int &n_above = above[g_], &n_equal = equal[g_];
        if (b < edge || (b == edge && n_equal < room)) {
            const long long to = (long long)blockIdx.x * most + mine[0] + n_above + min(n_equal, room);
            tokens[to] = place, weights[to] = expf(shifted);
        }
        n_above += b < edge, n_equal += b == edge;
    }
}
