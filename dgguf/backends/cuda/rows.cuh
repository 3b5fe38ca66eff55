// A row of a matrix in the registers of a block, and what its threads find out about it together.
//
// Compiled for COLUMNS; a thread holds WIDTH neighbours, and every WIDTH * THREADS columns the next ones.
#pragma once
#include "primitives.cuh"

constexpr int THREADS = COLUMNS <= 1024 ? 128 : 256;  // as `threads` in rows.py
constexpr int WARPS = THREADS / 32;
constexpr int WIDTH = COLUMNS % 4 == 0 ? 4 : 1;
constexpr int PARTS = (COLUMNS + WIDTH * THREADS - 1) / (WIDTH * THREADS);
constexpr int PADDED = (COLUMNS + 63) / 64 * 64;  // columns of a float16 row, which products read by 64

struct Row {
    float v[PARTS][WIDTH];
};

// For each number of this thread: its place p, i in a Row and its column.
#define FOR_EACH_PART _Pragma("unroll") for (int p = 0; p < PARTS; p++)
#define FOR_EACH_NUMBER                                                                                    \
    FOR_EACH_PART _Pragma("unroll") for (int i = 0; i < WIDTH; i++)

DEVICE int column(int p) { return WIDTH * (p * THREADS + threadIdx.x); }

// Columns beyond the last are 0.
DEVICE void load_row(Row &row, const float *from) {
    FOR_EACH_PART {
        const bool inside = column(p) < COLUMNS;
        if constexpr (WIDTH == 4) {
            float4 v = {0, 0, 0, 0};
            if (inside) v = *(const float4 *)(from + column(p));
            row.v[p][0] = v.x, row.v[p][1] = v.y, row.v[p][2] = v.z, row.v[p][3] = v.w;
        } else {
            row.v[p][0] = inside ? from[column(p)] : 0.0f;
        }
    }
}

DEVICE void store_row(float *to, const Row &row) {
    FOR_EACH_PART {
        if (column(p) >= COLUMNS) continue;
        if constexpr (WIDTH == 4)
            *(float4 *)(to + column(p)) = {row.v[p][0], row.v[p][1], row.v[p][2], row.v[p][3]};
        else
            to[column(p)] = row.v[p][0];
    }
}

DEVICE float sum_of_squares(const Row &row) {
    float sum = 0;
    FOR_EACH_NUMBER sum += row.v[p][i] * row.v[p][i];
    return sum;
}

DEVICE float largest_of(const Row &row) {
    float largest = 0;
    FOR_EACH_NUMBER largest = fmaxf(largest, fabsf(row.v[p][i]));
    return largest;
}

// The sums of the first SUMS numbers and the maxima of the others over all threads, for all of them; in
// the same order each time. `shared` is room for WARPS * N and is used once.
template <int SUMS, int N>
DEVICE void over_block(float (&v)[N], float *shared) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int mask = 16; mask > 0; mask >>= 1) {
            const float other = from_lane_xor(v[n], mask);
            v[n] = n < SUMS ? v[n] + other : fmaxf(v[n], other);
        }
    if (threadIdx.x % 32 == 0)
#pragma unroll
        for (int n = 0; n < N; n++) shared[threadIdx.x / 32 * N + n] = v[n];
    __syncthreads();
#pragma unroll
    for (int n = 0; n < N; n++) {
        v[n] = shared[n];
#pragma unroll
        for (int warp = 1; warp < WARPS; warp++) {
            const float other = shared[warp * N + n];
            v[n] = n < SUMS ? v[n] + other : fmaxf(v[n], other);
        }
    }
}

// 1 / sqrt(mean(x²) + eps)
DEVICE float inverse_rms(float squares, float eps) { return 1.0f / sqrtf(squares / COLUMNS + eps); }

// The power of two that brings the largest magnitude of a row to 512 to 1024, so that float16 neither
// overflows nor loses the small ones; 1 for what is nearly 0 or infinite, or is no number.
DEVICE float half_factor(float largest) {
    if (!(largest > 1e-30f && largest < 1e30f)) return 1.0f;
    return __uint_as_float((2 * 127 + 9 - (__float_as_uint(largest) >> 23)) << 23);
}

// A row times `factor` as float16, with zeros behind it.
DEVICE void store_halves(u16 *to, const Row &row, float factor) {
    FOR_EACH_PART {
        if (column(p) >= COLUMNS) continue;
        if constexpr (WIDTH == 4) {
            uint2 words;
            words.x = to_half2(row.v[p][0] * factor, row.v[p][1] * factor);
            words.y = to_half2(row.v[p][2] * factor, row.v[p][3] * factor);
            *(uint2 *)(to + column(p)) = words;
        } else {
            to[column(p)] = (u16)to_half2(row.v[p][0] * factor, 0.0f);
        }
    }
    for (int i = COLUMNS + threadIdx.x; i < PADDED; i += THREADS) to[i] = 0;
}
