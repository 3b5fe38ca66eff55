// The mean row of the embedding under each of C distributions, of the tokens that are kept of it.
//
// A thread has one word of a unit's codes (see layout.py) and with it four columns, 2 t and 2 t + 8 of a
// step and the next ones, for all tokens: what depends on the column alone is found out once. A token's
// probability is multiplied with its row's scale. Places are 32-bit: a matrix has less than 2^32 weights.
//
// Compiled for one kind of layout, as qgemm.cu. The grid is (C, column blocks); 256 threads.
#include "primitives.cuh"

constexpr int THREADS = 256;
constexpr int MOST = 512;  // tokens that are kept at most; as MOST_TOKENS in limits.py
constexpr int GROUPS = 64 / GROUP;
constexpr int NUMBERS = 1 + MINIMUM;  // of a group
constexpr float TWO_23 = 8388608.0f;  // the float 2^23 + code is made by setting bits

struct Place {
    u32 chunk, step, t, group;
};

// The weights of a matrix row in a thread's four columns are share * value[i] + rest.
DEVICE void decode(float value[4], float &share, float &rest, const Place &at, u32 row, u32 chunks, const u32 *low,
                   const u32 *high, const u16 *scales, const float *table, float base) {
    const u32 unit = (row >> 4) * chunks + at.chunk, g = row & 7, half = row >> 3 & 1, lane = 4 * g + at.t;
    if constexpr (HALVES) {
        const u32 *words = low + ((unit * 4 + at.step) * 32 + lane) * 4 + half;
        const u32 first = words[0], second = words[2];
        value[0] = to_float(first), value[1] = to_float(first >> 16);
        value[2] = to_float(second), value[3] = to_float(second >> 16);
        rest = 0;
        return;
    }
    const u32 place = (unit * 32 + lane) * 4 + at.step;
    u32 codes[4];
    if constexpr (HIGH_BITS == 4) {
        const u32 first = low[place] >> 16 * half, second = high[place] >> 16 * half;
        codes[0] = first & 255, codes[1] = first >> 8 & 255, codes[2] = second & 255, codes[3] = second >> 8 & 255;
    } else {
        const u32 nibbles = low[place] >> 4 * half;
        codes[0] = nibbles & 15, codes[1] = nibbles >> 16 & 15;
        codes[2] = nibbles >> 8 & 15, codes[3] = nibbles >> 24 & 15;
        if constexpr (HIGH_BITS > 0) {
            constexpr u32 mask = ((1 << HIGH_BITS) - 1) << 4;
            const u32 turn = HIGH_BITS * 2 * at.step, word = high[(unit * 32 + lane) * HIGH_BITS + (turn >> 3)];
#pragma unroll
            for (int n = 0; n < 2; n++) {  // registers half and half + 2
                const u32 before = turn + HIGH_BITS * n, right = (before & 3) + 2 * (before & 4) + 4 * half;
                const u32 turned = word >> right | word << ((32 - right) & 31);
                codes[2 * n] |= turned & mask, codes[2 * n + 1] |= turned >> 16 & mask;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        value[i] = TABLE ? table[codes[i]] : __uint_as_float(0x4B000000u | codes[i]) - base;
    const u16 *entry = scales + (((unit * 8 + g) * 2 + half) * GROUPS + at.group) * NUMBERS;
    rest = MINIMUM ? share * to_float(entry[MINIMUM]) : 0;
    share *= to_float(entry[0]);
}

// low (or halves), high, scales: planes of the matrix. values: (256,) of the codes. tokens, weights: (C,
// most) kept tokens and their weights, of which the first counts[c] mean something. out: (C, columns), the
// mean of their rows times factor.
extern "C" __global__ void __launch_bounds__(THREADS)
    soft_embed(const u32 *low, const u32 *high, const u16 *scales, const float *values, const int *tokens,
               const float *weights, const int *counts, float *out, int columns, int chunks, int most, float factor) {
    __shared__ int kept[MOST];
    __shared__ float shares[MOST], sums[THREADS / 32], table[16];
    const int count = counts[blockIdx.x], item = blockIdx.y * THREADS + threadIdx.x;
    float total = 0;
    for (int k = threadIdx.x; k < count; k += THREADS) {
        kept[k] = tokens[(long long)blockIdx.x * most + k];
        total += shares[k] = weights[(long long)blockIdx.x * most + k];
    }
    if (TABLE && threadIdx.x < 16) table[threadIdx.x] = values[threadIdx.x];
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) total += from_lane_xor(total, mask);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = total;
    __syncthreads();
    if (item >= 16 * chunks) return;
    total = 0;
    for (int warp = 0; warp < THREADS / 32; warp++) total += sums[warp];

    const u32 step = item & 3;
    const Place at = {(u32)item >> 4, step, (u32)item >> 2 & 3, step * GROUPS / 4};
    const float base = TWO_23 - values[0];
    float means[2][4] = {};  // of even and of odd tokens
#pragma unroll 4
    for (int k = 0; k < count; k++) {
        float value[4], share = shares[k], rest;
        decode(value, share, rest, at, kept[k], chunks, low, high, scales, table, base);
#pragma unroll
        for (int i = 0; i < 4; i++) means[k & 1][i] += share * value[i] + rest;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int column = 64 * at.chunk + 16 * at.step + 2 * at.t + 8 * (i >> 1) + (i & 1);
        if (column < columns)
            out[(long long)blockIdx.x * columns + column] = (means[0][i] + means[1][i]) * (factor / total);
    }
}
