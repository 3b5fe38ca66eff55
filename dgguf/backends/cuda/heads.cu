// What lies between the projections and the attention: the norms and rotations of the heads, and the KV
// cache's new rows. A warp a head of a row, eight to a block.
//
// Compiled for HEAD_DIM, which is even.
#include "primitives.cuh"

constexpr int HALF = HEAD_DIM / 2;
constexpr int EACH = (HALF + 31) / 32;  // pairs (i, i + HALF) of a lane

// q: (rows, heads, HEAD_DIM), or null with heads 0. k, v: (rows, kv_heads, HEAD_DIM), and may be the
// same. cos, sin: (rows, HALF). q_out: as q. keys, values: float16 (kv_heads, capacity, HEAD_DIM); row r
// is written to first + places[r].
extern "C" __global__ void __launch_bounds__(256)
    norm_rope_store(const float *q, const float *k, const float *v, const float *q_weight, const float *k_weight,
                    const float *cos, const float *sin, float *q_out, u16 *keys, u16 *values, const int *places,
                    int rows, int heads, int kv_heads, int capacity, int first, float eps) {
    const int lane = threadIdx.x & 31, item = 8 * blockIdx.x + (threadIdx.x >> 5);
    const int row = item / (heads + 2 * kv_heads);
    if (row >= rows) return;
    const int place = item % (heads + 2 * kv_heads);
    const bool is_query = place < heads, is_value = place >= heads + kv_heads;
    const int head = is_query ? place : (place - heads) % kv_heads;

    const float *from = is_query ? q + (long long)(row * heads + head) * HEAD_DIM
                                 : (is_value ? v : k) + (long long)(row * kv_heads + head) * HEAD_DIM;
    float a[EACH], b[EACH], squares = 0;
#pragma unroll
    for (int n = 0; n < EACH; n++) {
        const int i = lane + 32 * n;
        a[n] = i < HALF ? from[i] : 0, b[n] = i < HALF ? from[HALF + i] : 0;
        squares += a[n] * a[n] + b[n] * b[n];
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) squares += from_lane_xor(squares, mask);
    const float inverse = 1.0f / sqrtf(squares / HEAD_DIM + eps);

    const float *weight = is_query ? q_weight : k_weight;
    float *rotated = q_out + (long long)(row * heads + head) * HEAD_DIM;
    u16 *stored = is_value ? values : keys;
    if (!is_query) stored += ((long long)head * capacity + first + places[row]) * HEAD_DIM;
#pragma unroll
    for (int n = 0; n < EACH; n++) {
        const int i = lane + 32 * n;
        if (i >= HALF) continue;
        float low = a[n] * inverse, high = b[n] * inverse;
        if (!is_value) {
            const float x = low * weight[i], y = high * weight[HALF + i];
            const float c = cos[row * HALF + i], s = sin[row * HALF + i];
            low = x * c - y * s, high = y * c + x * s;
        }
        if (is_query)
            rotated[i] = low, rotated[HALF + i] = high;
        else
            stored[i] = (u16)to_half2(low, 0.0f), stored[HALF + i] = (u16)to_half2(high, 0.0f);
    }
}
