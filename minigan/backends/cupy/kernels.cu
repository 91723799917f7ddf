// The kernels of backend.py, in CUDA C without includes. They are compiled when they are first used: for float, and
// with -DREAL=double for the gradient checks. Images are NHWC: x (N, H, W, C), and the last axis is contiguous.
//
// One thread computes each number that a kernel writes, in a fixed order. There are no atomic operations, so results
// do not depend on the order of threads. Barriers are outside of branches, and shuffles include all threads of a warp.
//
// Indices have 32 bits, because the kernels often divide by H, W and C, and 64-bit divisions are several times slower.
// The host raises an error for arrays of 2^31 elements or more.

#ifndef REAL
#define REAL float
#endif
typedef REAL real;
typedef unsigned long long u64;

#define LANES 32     // size of two-dimensional blocks along x: contiguous in memory
#define ROWS 8       // size of two-dimensional blocks along y
#define THREADS 256  // size of one-dimensional blocks
#define FULL 0xffffffffu

// The first statement of a kernel with one thread for each of n elements.
#define FOR_ELEMENT(i, n)                                  \
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x); \
    if (i >= (n)) return;

// ---------------------------------------------------------------- convolutions

// im2col: col[m, t] = xpad[n, p*stride+i, q*stride+j, c]. Row m = (n, p, q) is a window, and column t = (i, j, c) is a
// position in it. conv2d is col times w, and its weight gradient is col' times dy. One row i of a window is K*C
// contiguous numbers of x, so one test of v = w*C + c checks its bounds. LANES threads copy a window.
extern "C" __global__ void im2col(const real* __restrict__ x, real* __restrict__ col, int windows, int H, int W, int C,
                                  int K, int stride, int before, int P, int Q) {
    const int m = (int)(blockIdx.x * blockDim.y + threadIdx.y);
    if (m >= windows) return;
    const int q = m % Q, p = m / Q % P, n = m / Q / P;
    const int top = p * stride - before, left = (q * stride - before) * C;
    const int KC = K * C, WC = W * C;
    for (int t = (int)threadIdx.x; t < K * KC; t += LANES) {
        const int i = t / KC, h = top + i, v = left + t - i * KC;
        const bool inside = h >= 0 && h < H && v >= 0 && v < WC;
        col[m * (K * KC) + t] = inside ? x[(n * H + h) * WC + v] : real(0);
    }
}

// col2im, the adjoint of im2col: x[n, h, w, c] is the sum of col over all windows that read this pixel. Window (p, q)
// reads pixel (h, w) at (i, j) if p*stride + i = h + before, and likewise for q, j and w. So i and p start with the
// remainder and the quotient of (h + before) / stride. When i increases by stride, p decreases by one.
extern "C" __global__ void col2im(const real* __restrict__ col, real* __restrict__ x, int size, int H, int W, int C,
                                  int K, int stride, int before, int P, int Q) {
    FOR_ELEMENT(e, size)
    const int c = e % C, w = e / C % W, h = e / C / W % H, n = e / C / W / H;
    real sum = 0;
    int p = (h + before) / stride;
    for (int i = (h + before) % stride; i < K && p >= 0; i += stride, --p) {
        if (p >= P) continue;
        int q = (w + before) / stride;
        for (int j = (w + before) % stride; j < K && q >= 0; j += stride, --q)
            if (q < Q) sum += col[((((n * P + p) * Q + q) * K + i) * K + j) * C + c];
    }
    x[e] = sum;
}

// ---------------------------------------------------------------- batch norm with its leaky ReLU

// Blocks are (LANES, ROWS) and the grid is (channels / LANES, chunks), so a block reads LANES channels of one chunk of
// the M rows. Sums over all rows need two kernels, because a block cannot wait for other blocks: the first kernel sums
// each chunk, and every block of the second kernel adds the sums of all chunks.

// Returns the sum of v over threadIdx.y, for each threadIdx.x. All threads of the block must call it.
__device__ real column_sum(real v) {
    __shared__ real part[ROWS][LANES];
    part[threadIdx.y][threadIdx.x] = v;
    __syncthreads();
    real sum = 0;
    for (int row = 0; row < ROWS; ++row) sum += part[row][threadIdx.x];
    __syncthreads();  // before the next call writes to part
    return sum;
}

// Computes sums (chunks, C): the sum of each chunk of rows of x (M, C). A second launch with one chunk adds the chunks.
extern "C" __global__ void sum_rows(const real* __restrict__ x, real* __restrict__ sums, int M, int C, int chunk) {
    const int c = (int)(blockIdx.x * LANES + threadIdx.x);
    const int begin = (int)blockIdx.y * chunk, end = min(begin + chunk, M);
    real sum = 0;
    if (c < C)
        for (int m = begin + (int)threadIdx.y; m < end; m += ROWS) sum += x[m * C + c];
    sum = column_sum(sum);
    if (threadIdx.y == 0 && c < C) sums[blockIdx.y * C + c] = sum;
}

// Computes partial (2, chunks, C): the mean of each chunk, and the sum of squared deviations from this mean.
extern "C" __global__ void batchnorm_partial(const real* __restrict__ x, real* __restrict__ partial, int M, int C,
                                             int chunk) {
    const int c = (int)(blockIdx.x * LANES + threadIdx.x);
    const int begin = (int)blockIdx.y * chunk, end = min(begin + chunk, M);
    real sum = 0;
    if (c < C)
        for (int m = begin + (int)threadIdx.y; m < end; m += ROWS) sum += x[m * C + c];
    const real mean = column_sum(sum) / real(end - begin);
    real squares = 0;
    if (c < C)
        for (int m = begin + (int)threadIdx.y; m < end; m += ROWS) {
            const real d = x[m * C + c] - mean;
            squares += d * d;
        }
    squares = column_sum(squares);
    if (threadIdx.y == 0 && c < C) {
        partial[blockIdx.y * C + c] = mean;
        partial[(gridDim.y + blockIdx.y) * C + c] = squares;
    }
}

// Computes y = leaky_relu(gamma * (x - mean) / sqrt(var + eps) + beta). The sums of squares of the chunks are combined
// by sum (x - mean)^2 = sum over chunks of (squares + rows * (mean of the chunk - mean)^2). (Chan et al. 1983)
extern "C" __global__ void batchnorm_apply(const real* __restrict__ x, const real* __restrict__ gamma,
                                           const real* __restrict__ beta, const real* __restrict__ partial,
                                           real* __restrict__ y, real* __restrict__ mean_out,
                                           real* __restrict__ var_out, real eps, real slope, int M, int C, int chunk) {
    const int c = (int)(blockIdx.x * LANES + threadIdx.x), chunks = (int)gridDim.y;
    real sum = 0;
    if (c < C)
        for (int k = (int)threadIdx.y; k < chunks; k += ROWS)
            sum += real(min(chunk, M - k * chunk)) * partial[k * C + c];
    const real mean = column_sum(sum) / real(M);
    real squares = 0;
    if (c < C)
        for (int k = (int)threadIdx.y; k < chunks; k += ROWS) {
            const real d = partial[k * C + c] - mean;
            squares += partial[(chunks + k) * C + c] + real(min(chunk, M - k * chunk)) * d * d;
        }
    const real var = column_sum(squares) / real(M);
    if (c >= C) return;
    if (blockIdx.y == 0 && threadIdx.y == 0) {
        mean_out[c] = mean;
        var_out[c] = var;
    }
    const real scale = gamma[c] / sqrt(var + eps), shift = beta[c];
    const int begin = (int)blockIdx.y * chunk, end = min(begin + chunk, M);
    for (int m = begin + (int)threadIdx.y; m < end; m += ROWS) {
        const real v = scale * (x[m * C + c] - mean) + shift;
        y[m * C + c] = v > 0 ? v : slope * v;
    }
}

// Multiplies dy by the derivative of the leaky ReLU, whose input is computed exactly as in batchnorm_apply.
__device__ real activation_grad(real dy, real centred, real scale, real shift, real slope) {
    return scale * centred + shift > 0 ? dy : slope * dy;
}

// Computes partial (2, chunks, C): the sums of dy and of dy * xhat over each chunk.
extern "C" __global__ void batchnorm_grad_partial(const real* __restrict__ dy, const real* __restrict__ x,
                                                  const real* __restrict__ gamma, const real* __restrict__ beta,
                                                  const real* __restrict__ mean, const real* __restrict__ var,
                                                  real* __restrict__ partial, real eps, real slope, int M, int C,
                                                  int chunk) {
    const int c = (int)(blockIdx.x * LANES + threadIdx.x);
    const int begin = (int)blockIdx.y * chunk, end = min(begin + chunk, M);
    real sum_dy = 0, sum_dy_xhat = 0;
    if (c < C) {
        const real mu = mean[c], inv_std = 1 / sqrt(var[c] + eps);
        const real scale = gamma[c] / sqrt(var[c] + eps), shift = beta[c];
        for (int m = begin + (int)threadIdx.y; m < end; m += ROWS) {
            const real centred = x[m * C + c] - mu;
            const real d = activation_grad(dy[m * C + c], centred, scale, shift, slope);
            sum_dy += d;
            sum_dy_xhat += d * (inv_std * centred);
        }
    }
    sum_dy = column_sum(sum_dy);
    sum_dy_xhat = column_sum(sum_dy_xhat);
    if (threadIdx.y == 0 && c < C) {
        partial[blockIdx.y * C + c] = sum_dy;
        partial[(gridDim.y + blockIdx.y) * C + c] = sum_dy_xhat;
    }
}

// dx = gamma / std * (dy - mean of dy - xhat * mean of dy * xhat), dbeta = sum of dy, dgamma = sum of dy * xhat.
extern "C" __global__ void batchnorm_grad_apply(const real* __restrict__ dy, const real* __restrict__ x,
                                                const real* __restrict__ gamma, const real* __restrict__ beta,
                                                const real* __restrict__ mean, const real* __restrict__ var,
                                                const real* __restrict__ partial, real* __restrict__ dx,
                                                real* __restrict__ dgamma, real* __restrict__ dbeta, real eps,
                                                real slope, int M, int C, int chunk) {
    const int c = (int)(blockIdx.x * LANES + threadIdx.x), chunks = (int)gridDim.y;
    real sum_dy = 0, sum_dy_xhat = 0;
    if (c < C)
        for (int k = (int)threadIdx.y; k < chunks; k += ROWS) {
            sum_dy += partial[k * C + c];
            sum_dy_xhat += partial[(chunks + k) * C + c];
        }
    sum_dy = column_sum(sum_dy);
    sum_dy_xhat = column_sum(sum_dy_xhat);
    if (c >= C) return;
    if (blockIdx.y == 0 && threadIdx.y == 0) {
        dbeta[c] = sum_dy;
        dgamma[c] = sum_dy_xhat;
    }
    const real mu = mean[c], inv_std = 1 / sqrt(var[c] + eps);
    const real scale = gamma[c] / sqrt(var[c] + eps), shift = beta[c];
    sum_dy /= real(M);
    sum_dy_xhat /= real(M);
    const int begin = (int)blockIdx.y * chunk, end = min(begin + chunk, M);
    for (int m = begin + (int)threadIdx.y; m < end; m += ROWS) {
        const int i = m * C + c;
        const real centred = x[i] - mu, d = activation_grad(dy[i], centred, scale, shift, slope);
        dx[i] = gamma[c] * inv_std * (d - sum_dy - inv_std * centred * sum_dy_xhat);
    }
}

// Updates running = momentum * running + share * batch with share = 1 - momentum, for mean and var in one launch.
extern "C" __global__ void track(real* __restrict__ running_mean, real* __restrict__ running_var,
                                 const real* __restrict__ mean, const real* __restrict__ var, real momentum,
                                 real share, int C) {
    FOR_ELEMENT(c, C)
    running_mean[c] = momentum * running_mean[c] + share * mean[c];
    running_var[c] = momentum * running_var[c] + share * var[c];
}

// ---------------------------------------------------------------- elementwise operations

extern "C" __global__ void leaky_relu(const real* __restrict__ x, real* __restrict__ y, real slope, int n) {
    FOR_ELEMENT(i, n)
    y[i] = x[i] > 0 ? x[i] : slope * x[i];
}

extern "C" __global__ void leaky_relu_grad(const real* __restrict__ dy, const real* __restrict__ y,
                                           real* __restrict__ dx, real slope, int n) {
    FOR_ELEMENT(i, n)
    dx[i] = y[i] > 0 ? dy[i] : slope * dy[i];
}

// Returns hash number q = 0, 1, ... of a stream of random numbers: the finaliser of SplitMix64.
__device__ u64 hash(u64 stream, int q) {
    u64 z = stream + (u64)(q + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

// Element i is kept if the i-th 16-bit number of the stream is at least the threshold. Each hash provides four such
// numbers, the lowest bits first.
extern "C" __global__ void dropout(const real* __restrict__ x, real* __restrict__ y, u64 stream, int threshold,
                                   real kept, int n) {
    FOR_ELEMENT(i, n)
    const int number = (int)(hash(stream, i / 4) >> (i % 4 * 16)) & 0xffff;
    y[i] = x[i] * (number >= threshold ? kept : real(0));
}

// Computes u = (2 * floor(b / 512) + 1) / 2^24 for the i-th 32-bit number b of the stream, exactly. Each hash provides
// two such numbers, the lowest bits first.
extern "C" __global__ void uniform(real* __restrict__ u, u64 stream, int n) {
    FOR_ELEMENT(i, n)
    const unsigned b = (unsigned)(hash(stream, i / 2) >> (i % 2 * 32));
    u[i] = real((int)(b >> 8 | 1)) / real(16777216);
}

// The host computes rate = lr / (1 - beta1^t) and unbias = 1 / (1 - beta2^t) in double precision.
extern "C" __global__ void adam(real* __restrict__ w, const real* __restrict__ dw, real* __restrict__ m,
                                real* __restrict__ v, real rate, real beta1, real share1, real beta2, real share2,
                                real unbias, real eps, int n) {
    FOR_ELEMENT(i, n)
    m[i] = beta1 * m[i] + share1 * dw[i];
    v[i] = beta2 * v[i] + share2 * dw[i] * dw[i];
    w[i] -= rate * m[i] / (sqrt(unbias * v[i]) + eps);
}

extern "C" __global__ void moving_average(real* __restrict__ average, const real* __restrict__ now, real share, int n) {
    FOR_ELEMENT(i, n)
    average[i] += share * (now[i] - average[i]);
}

// Copies up to eight arrays into out, one after the other. Unused arrays have size 0.
extern "C" __global__ void concatenate(real* __restrict__ out, int n, const real* a0, int n0, const real* a1, int n1,
                                       const real* a2, int n2, const real* a3, int n3, const real* a4, int n4,
                                       const real* a5, int n5, const real* a6, int n6, const real* a7, int n7) {
    FOR_ELEMENT(i, n)
    const real* const arrays[8] = {a0, a1, a2, a3, a4, a5, a6, a7};
    const int sizes[8] = {n0, n1, n2, n3, n4, n5, n6, n7};
    int j = i;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
        if (j >= 0 && j < sizes[k]) out[i] = arrays[k][j];
        j -= sizes[k];
    }
}

// Computes x = pixels / 127.5 - 1 for the images with these indices, which have `size` pixels each. Offsets into images
// have 64 bits, because a data set may have more than 2^31 pixels.
extern "C" __global__ void gather(const unsigned char* __restrict__ images, const long long* __restrict__ index,
                                  real* __restrict__ x, int size, int n) {
    FOR_ELEMENT(i, n)
    x[i] = real(images[index[i / size] * size + i % size]) / real(127.5) - 1;
}

// ---------------------------------------------------------------- groups of columns

// One thread computes one group of one row of x (N, G): group k has the columns from bounds[k] to bounds[k + 1],
// exclusive. n = N * groups, and begin and end are positions in the flat x.
#define FOR_GROUP(begin, end, bounds, G, groups, n)                  \
    FOR_ELEMENT(e_, n)                                               \
    const int begin = e_ / (groups) * (G) + (bounds)[e_ % (groups)]; \
    const int end = e_ / (groups) * (G) + (bounds)[e_ % (groups) + 1];

// Computes y = exp(l - top) / (sum of exp(l - top) over the group), where top is the largest l of the group.
extern "C" __global__ void softmax_groups(const real* __restrict__ l, real* __restrict__ y,
                                          const int* __restrict__ bounds, int G, int groups, int n) {
    FOR_GROUP(begin, end, bounds, G, groups, n)
    real top = l[begin], sum = 0;
    for (int i = begin + 1; i < end; ++i) top = l[i] > top ? l[i] : top;
    for (int i = begin; i < end; ++i) {
        y[i] = exp(l[i] - top);
        sum += y[i];
    }
    for (int i = begin; i < end; ++i) y[i] /= sum;
}

// Computes dl = y * (dy - sum of dy * y over the group).
extern "C" __global__ void softmax_groups_grad(const real* __restrict__ dy, const real* __restrict__ y,
                                               real* __restrict__ dl, const int* __restrict__ bounds, int G,
                                               int groups, int n) {
    FOR_GROUP(begin, end, bounds, G, groups, n)
    real sum = 0;
    for (int i = begin; i < end; ++i) sum += dy[i] * y[i];
    for (int i = begin; i < end; ++i) dl[i] = y[i] * (dy[i] - sum);
}

// Computes y = 1 at the first largest l of the group, else 0.
extern "C" __global__ void argmax_groups(const real* __restrict__ l, real* __restrict__ y,
                                         const int* __restrict__ bounds, int G, int groups, int n) {
    FOR_GROUP(begin, end, bounds, G, groups, n)
    int at = begin;
    for (int i = begin + 1; i < end; ++i) at = l[i] > l[at] ? i : at;
    for (int i = begin; i < end; ++i) y[i] = i == at ? real(1) : real(0);
}

// ---------------------------------------------------------------- recurrent layers

// One block computes all steps of one sequence n, and a thread computes some of its H units. Each step needs the states
// of all units after the step before, so the threads wait for each other once in each step. w (H, G) belongs to the
// state, and a (N, T, G) is the product of all inputs with their weights. `recurrence.py` has the equations. Without a
// mask, m is not read.

__device__ real sigmoid(real l) {
    const real e = exp(-fabs(l));
    return (l > 0 ? real(1) : e) / (1 + e);
}

// Returns b + sum_k h[k] w[k, column], for w (H, G).
__device__ real dot_column(const real* h, const real* __restrict__ w, int column, int H, int G, real b) {
    real sum = b;
    for (int k = 0; k < H; ++k) sum += h[k] * w[k * G + column];
    return sum;
}

// Computes the states y (N, T, H) of a GRU, and gates (N, T, 4 H): r, z, n and q_n.
extern "C" __global__ void gru(const real* __restrict__ a, const real* __restrict__ w, const real* __restrict__ b_x,
                               const real* __restrict__ b_h, const real* start, const real* __restrict__ m, real* y,
                               real* __restrict__ gates, int masked, int T, int H) {
    const int n = (int)blockIdx.x, G = 3 * H;
    for (int t = 0; t < T; ++t) {
        const int row = n * T + t;
        const real* h = t > 0 ? y + (row - 1) * H : start + n * H;
        const real* v = a + row * G;
        real* gate = gates + row * 4 * H;
        for (int j = (int)threadIdx.x; j < H; j += (int)blockDim.x) {
            const real r = sigmoid(v[j] + b_x[j] + dot_column(h, w, j, H, G, b_h[j]));
            const real z = sigmoid(v[H + j] + b_x[H + j] + dot_column(h, w, H + j, H, G, b_h[H + j]));
            const real q_n = dot_column(h, w, 2 * H + j, H, G, b_h[2 * H + j]);
            const real next_n = tanh(v[2 * H + j] + b_x[2 * H + j] + r * q_n);
            const real change = (1 - z) * (next_n - h[j]);
            y[row * H + j] = h[j] + (masked ? m[row] * change : change);
            gate[j] = r;
            gate[H + j] = z;
            gate[2 * H + j] = next_n;
            gate[3 * H + j] = q_n;
        }
        __syncthreads();  // before the next step reads y
    }
}

// Computes da and dq (N, T, 3 H), the gradient dh (N, H) of the initial state, and with a mask the terms (N, T, H) of
// its gradient, whose sums over the units are dm. wt (3 H, H) is w transposed.
extern "C" __global__ void gru_grad(const real* __restrict__ dy, const real* __restrict__ y,
                                    const real* __restrict__ gates, const real* __restrict__ start,
                                    const real* __restrict__ wt, const real* __restrict__ m, real* __restrict__ da,
                                    real* dq, real* dh, real* __restrict__ terms, int masked, int T, int H) {
    const int n = (int)blockIdx.x, G = 3 * H;
    for (int j = (int)threadIdx.x; j < H; j += (int)blockDim.x) dh[n * H + j] = 0;
    for (int t = T - 1; t >= 0; --t) {
        const int row = n * T + t;
        const real* h = t > 0 ? y + (row - 1) * H : start + n * H;
        const real* gate = gates + row * 4 * H;
        const real mask = masked ? m[row] : real(1);
        for (int j = (int)threadIdx.x; j < H; j += (int)blockDim.x) {
            const real r = gate[j], z = gate[H + j], next_n = gate[2 * H + j], q_n = gate[3 * H + j];
            const real d = dh[n * H + j] + dy[row * H + j], dnext = mask * d;
            if (masked) terms[row * H + j] = d * (1 - z) * (next_n - h[j]);
            const real dv_n = (1 - z) * dnext * (1 - next_n * next_n);
            const real dv_r = q_n * dv_n * r * (1 - r), dv_z = (h[j] - next_n) * dnext * z * (1 - z);
            da[row * G + j] = dq[row * G + j] = dv_r;
            da[row * G + H + j] = dq[row * G + H + j] = dv_z;
            da[row * G + 2 * H + j] = dv_n;
            dq[row * G + 2 * H + j] = r * dv_n;
            dh[n * H + j] = (1 - mask) * d + z * dnext;
        }
        __syncthreads();  // before dq of all units is read
        for (int j = (int)threadIdx.x; j < H; j += (int)blockDim.x)
            dh[n * H + j] += dot_column(dq + row * G, wt, j, G, H, real(0));
    }
}

// Computes the outputs y and the cells (N, T, H) of an LSTM, and gates (N, T, 4 H): i, f, g and o. start (N, 2 H).
extern "C" __global__ void lstm(const real* __restrict__ a, const real* __restrict__ w, const real* __restrict__ b_x,
                                const real* __restrict__ b_h, const real* start, const real* __restrict__ m, real* y,
                                real* cells, real* __restrict__ gates, int masked, int T, int H) {
    const int n = (int)blockIdx.x, G = 4 * H;
    for (int t = 0; t < T; ++t) {
        const int row = n * T + t;
        const real* h = t > 0 ? y + (row - 1) * H : start + n * 2 * H;
        const real* c = t > 0 ? cells + (row - 1) * H : start + n * 2 * H + H;
        const real mask = masked ? m[row] : real(1);
        for (int j = (int)threadIdx.x; j < H; j += (int)blockDim.x) {
            real q[4];
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int column = k * H + j;
                q[k] = a[row * G + column] + b_x[column] + dot_column(h, w, column, H, G, b_h[column]);
            }
            const real i = sigmoid(q[0]), f = sigmoid(q[1]), g = tanh(q[2]), o = sigmoid(q[3]);
            const real next_c = f * c[j] + i * g, next_h = o * tanh(next_c);
            y[row * H + j] = masked ? h[j] + mask * (next_h - h[j]) : next_h;
            cells[row * H + j] = masked ? c[j] + mask * (next_c - c[j]) : next_c;
            gates[row * G + j] = i;
            gates[row * G + H + j] = f;
            gates[row * G + 2 * H + j] = g;
            gates[row * G + 3 * H + j] = o;
        }
        __syncthreads();  // before the next step reads y
    }
}

// Computes da (N, T, 4 H), the gradient dstate (N, 2 H) of the initial state, and with a mask the terms (N, T, H) of its
// gradient. wt (4 H, H) is w transposed.
extern "C" __global__ void lstm_grad(const real* __restrict__ dy, const real* __restrict__ y,
                                     const real* __restrict__ cells, const real* __restrict__ gates,
                                     const real* __restrict__ start, const real* __restrict__ wt,
                                     const real* __restrict__ m, real* da, real* dstate, real* __restrict__ terms,
                                     int masked, int T, int H) {
    const int n = (int)blockIdx.x, G = 4 * H;
    real* dh = dstate + n * 2 * H;
    real* dc = dh + H;
    for (int j = (int)threadIdx.x; j < H; j += (int)blockDim.x) dh[j] = dc[j] = 0;
    for (int t = T - 1; t >= 0; --t) {
        const int row = n * T + t;
        const real* h = t > 0 ? y + (row - 1) * H : start + n * 2 * H;
        const real* c = t > 0 ? cells + (row - 1) * H : start + n * 2 * H + H;
        const real* gate = gates + row * G;
        real* dq = da + row * G;
        const real mask = masked ? m[row] : real(1);
        for (int j = (int)threadIdx.x; j < H; j += (int)blockDim.x) {
            const real i = gate[j], f = gate[H + j], g = gate[2 * H + j], o = gate[3 * H + j];
            const real next_c = f * c[j] + i * g, tanh_c = tanh(next_c);
            const real d = dh[j] + dy[row * H + j], dnext_h = mask * d;
            if (masked) terms[row * H + j] = d * (o * tanh_c - h[j]) + dc[j] * (next_c - c[j]);
            const real dnext_c = mask * dc[j] + o * (1 - tanh_c * tanh_c) * dnext_h;
            dq[j] = g * dnext_c * i * (1 - i);
            dq[H + j] = c[j] * dnext_c * f * (1 - f);
            dq[2 * H + j] = i * dnext_c * (1 - g * g);
            dq[3 * H + j] = tanh_c * dnext_h * o * (1 - o);
            dh[j] = (1 - mask) * d;
            dc[j] = (1 - mask) * dc[j] + f * dnext_c;
        }
        __syncthreads();  // before dq of all units is read
        for (int j = (int)threadIdx.x; j < H; j += (int)blockDim.x) dh[j] += dot_column(dq, wt, j, G, H, real(0));
    }
}

// ---------------------------------------------------------------- losses

// Returns the sum of v over a block of THREADS threads, which must all call it: first over each warp by shuffles, then
// over the warps through shared memory.
__device__ real block_sum(real v) {
    __shared__ real part[THREADS / 32];
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_down_sync(FULL, v, offset);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    real sum = 0;
    for (int warp = 0; warp < THREADS / 32; ++warp) sum += part[warp];
    __syncthreads();  // before the next call writes to part
    return sum;
}

__device__ real softplus(real l) { return (l > 0 ? l : real(0)) + log1p(exp(-fabs(l))); }

#define SOFTPLUS 0  // f(l) = softplus(sign * l) + smoothing * l
#define HINGE 1     // f(l) = max(0, 1 + sign * l)
#define LINEAR 2    // f(l) = sign * l
#define SQUARE 3    // f(l) = (1 + sign * l)^2 / 2 + smoothing * l

// Returns the part of this thread in the mean of weight * f over n logits, and writes dl = weight * f'(l) / n.
__device__ real loss_term(int kind, const real* __restrict__ l, real* __restrict__ dl, int n, real sign, real smoothing,
                          real weight) {
    real sum = 0;
    for (int i = (int)threadIdx.x; i < n; i += THREADS) {
        const real s = sign * l[i];
        real f = s, slope = sign;
        if (kind == SOFTPLUS) {
            f = softplus(s) + smoothing * l[i];
            slope = sign * sigmoid(s) + smoothing;
        } else if (kind == HINGE) {
            f = 1 + s > 0 ? 1 + s : real(0) * s;  // NaN stays NaN
            slope = 1 + s > 0 ? sign : real(0);
        } else if (kind == SQUARE) {
            f = real(0.5) * (1 + s) * (1 + s) + smoothing * l[i];
            slope = sign * (1 + s) + smoothing;
        }
        sum += weight * f;
        dl[i] = weight * slope / real(n);
    }
    return n > 0 ? sum / real(n) : sum;
}

// Computes a loss over the logits a, with smoothing, and the logits b, of which there may be none: value (1,), da and
// db. The grid is one block.
extern "C" __global__ void loss(int kind, const real* __restrict__ a, real* __restrict__ da, int n_a, real sign_a,
                                real smoothing, real weight_a, const real* __restrict__ b, real* __restrict__ db,
                                int n_b, real sign_b, real weight_b, real* __restrict__ value) {
    const real total = block_sum(loss_term(kind, a, da, n_a, sign_a, smoothing, weight_a) +
                                 loss_term(kind, b, db, n_b, sign_b, real(0), weight_b));
    if (threadIdx.x == 0) value[0] = total;
}

// Computes the mean of sigmoid(l) over n logits: value (1,). The grid is one block.
extern "C" __global__ void mean_sigmoid(const real* __restrict__ l, real* __restrict__ value, int n) {
    real sum = 0;
    for (int i = (int)threadIdx.x; i < n; i += THREADS) sum += sigmoid(l[i]);
    sum = block_sum(sum);
    if (threadIdx.x == 0) value[0] = sum / real(n);
}
