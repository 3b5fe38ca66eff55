// The small kernels between products, a block a row: norms, residuals and the gated GELU. What a product
// is to read leaves them as float16 with a scale for each row.
//
// A norm of a row is x * weight / sqrt(mean(x²) + eps). Its float16 numbers are x * weight times a power
// of two, and all the rest is in the scale: so the squares and the largest magnitude are found in one go.
//
// Compiled for COLUMNS; the grid is the rows.
#include "rows.cuh"

// A row that a product is to read: numbers (rows, PADDED) float16, scales (rows,); null for none.
#define HALVES(n) const float *weight##n, u16 *numbers##n, float *scales##n

DEVICE long long row_start() { return (long long)blockIdx.x * COLUMNS; }
DEVICE long long halves_start() { return (long long)blockIdx.x * PADDED; }

DEVICE void multiply(Row &row, const float *weight) {
    Row w;
    load_row(w, weight);
    FOR_EACH_NUMBER row.v[p][i] *= w.v[p][i];
}

// Write up to two norms of a row, which is in `x`.
DEVICE void norms(const Row &x, float eps, HALVES(0), HALVES(1)) {
    __shared__ float shared[3 * WARPS];
    Row first = x, second = x;
    float found[3] = {sum_of_squares(x), 0, 0};
    if (numbers0) multiply(first, weight0), found[1] = largest_of(first);
    if (numbers1) multiply(second, weight1), found[2] = largest_of(second);
    over_block<1>(found, shared);
    const float inverse = inverse_rms(found[0], eps);
    if (numbers0) {
        const float factor = half_factor(found[1]);
        store_halves(numbers0 + halves_start(), first, factor);
        if (threadIdx.x == 0) scales0[blockIdx.x] = inverse / factor;
    }
    if (numbers1) {
        const float factor = half_factor(found[2]);
        store_halves(numbers1 + halves_start(), second, factor);
        if (threadIdx.x == 0) scales1[blockIdx.x] = inverse / factor;
    }
}

// (x + rms_norm(y, weight)) * scale, where the squares of y are known.
DEVICE void add_normed(Row &y, float squares, const float *x, const float *weight, float eps, float scale) {
    const float inverse = inverse_rms(squares, eps);
    Row before;
    multiply(y, weight);
    load_row(before, x);
    FOR_EACH_NUMBER y.v[p][i] = (before.v[p][i] + y.v[p][i] * inverse) * scale;
}

// A row of y (n_parts, rows, COLUMNS), the sum over its parts, in order.
DEVICE void load_sum(Row &row, const float *y, int n_parts) {
    load_row(row, y + row_start());
#pragma unroll 1  // there are three at most, and registers are scarce
    for (int part = 1; part < n_parts; part++) {
        Row more;
        load_row(more, y + (long long)part * gridDim.x * COLUMNS + row_start());
        FOR_EACH_NUMBER row.v[p][i] += more.v[p][i];
    }
}

// Norms of x.
extern "C" __global__ void __launch_bounds__(THREADS) norm_row(const float *x, float eps, HALVES(0)) {
    Row row;
    load_row(row, x + row_start());
    norms(row, eps, weight0, numbers0, scales0, nullptr, nullptr, nullptr);
}

// out = (x + rms_norm(y, weight)) * scale, and norms of it; y is the sum of n_parts.
extern "C" __global__ void __launch_bounds__(THREADS)
    residual(const float *x, const float *y, int n_parts, const float *weight, float eps, float scale, float *out,
             HALVES(0), HALVES(1)) {
    __shared__ float shared[WARPS];
    Row row;
    load_sum(row, y, n_parts);
    float squares[1] = {sum_of_squares(row)};
    over_block<1>(squares, shared);
    add_normed(row, squares[0], x + row_start(), weight, eps, scale);
    store_row(out + row_start(), row);
    norms(row, eps, weight0, numbers0, scales0, weight1, numbers1, scales1);
}

// As `residual`, with rms_norm(y, y_weight) + rms_norm(z, z_weight) for y, of which n_parts are the sum. z is
// (rows, COLUMNS), or, with n_used > 0, the sum over a of shares[a] * z[slots[a]] for shares and slots (rows, n_used),
// in order.
extern "C" __global__ void __launch_bounds__(THREADS)
    residual_of_sum(const float *x, const float *y, int n_parts, const float *y_weight, const float *z,
                    const int *slots, const float *shares, int n_used, const float *z_weight,
                    const float *weight, float eps, float scale, float *out, HALVES(0), HALVES(1)) {
    __shared__ float shared[2 * WARPS], shared_total[WARPS];
    Row total, part;
    load_sum(total, y, n_parts);
    if (n_used == 0) {
        load_row(part, z + row_start());
    } else {
        FOR_EACH_NUMBER part.v[p][i] = 0;
        for (int a = 0; a < n_used; a++) {
            const float share = shares[blockIdx.x * n_used + a];
            Row slot;
            load_row(slot, z + (long long)slots[blockIdx.x * n_used + a] * COLUMNS);
            FOR_EACH_NUMBER part.v[p][i] += share * slot.v[p][i];
        }
    }
    float squares[2] = {sum_of_squares(total), sum_of_squares(part)};
    over_block<2>(squares, shared);
    const float y_inverse = inverse_rms(squares[0], eps), z_inverse = inverse_rms(squares[1], eps);
    multiply(total, y_weight);
    multiply(part, z_weight);
    FOR_EACH_NUMBER total.v[p][i] = total.v[p][i] * y_inverse + part.v[p][i] * z_inverse;
    float of_total[1] = {sum_of_squares(total)};
    over_block<1>(of_total, shared_total);
    add_normed(total, of_total[0], x + row_start(), weight, eps, scale);
    store_row(out + row_start(), total);
    norms(total, eps, weight0, numbers0, scales0, weight1, numbers1, scales1);
}

DEVICE void store_product_input(const Row &row, u16 *numbers, float *scales) {
    __shared__ float shared[WARPS];
    float largest[1] = {largest_of(row)};
    over_block<0>(largest, shared);
    const float factor = half_factor(largest[0]);
    store_halves(numbers + halves_start(), row, factor);
    if (threadIdx.x == 0) scales[blockIdx.x] = 1.0f / factor;
}

// x as float16.
extern "C" __global__ void __launch_bounds__(THREADS) to_half(const float *x, u16 *numbers, float *scales) {
    Row row;
    load_row(row, x + row_start());
    store_product_input(row, numbers, scales);
}

// gelu(gate) * up as float16, gelu in its tanh form.
extern "C" __global__ void __launch_bounds__(THREADS)
    geglu(const float *gate, const float *up, u16 *numbers, float *scales) {
    Row row, other;
    load_row(row, gate + row_start());
    load_row(other, up + row_start());
    FOR_EACH_NUMBER {
        const float g = row.v[p][i];
        const float inner = 0.7978845608028654f * (g + 0.044715f * g * g * g);
        row.v[p][i] = 0.5f * g * (1.0f + tanhf(inner)) * other.v[p][i];
    }
    store_product_input(row, numbers, scales);
}
