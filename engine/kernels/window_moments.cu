// Mean and variance of the attention that each past key receives from the window's rows, and the entropy of those rows
// over the past (CAKE). Needs the rows' log-sums from prefill.
//
// A block takes 64 keys of one query head. The variance is the mean of squared deviations, not a difference of squares:
// for this the products are made twice.
#include "instances.cuh"
#include "tile.cuh"

struct MomentArguments {
    const u16* q;            // [q_len][heads][D]; row r stands at position q_start + r
    const u16* k;            // [kv_heads][capacity][D], of which kv_len positions are there
    const float* log_sums;   // [heads][q_len], of the same rows
    float *mean, *variance;  // [heads][columns]; the variance's divisor is the rows less one
    float* entropy;          // [heads][blocks of 64 columns]: - sum A ln(A + 1e-10) over rows and columns
    int q_len, q_start, kv_len, capacity;
    int heads, group;
    int window;              // as in prefill
    int first_row;           // rows first_row .. q_len are the observation window
    int columns;             // positions 0 .. columns are the past
    float scale_log2;
};

// Shared memory: 128 (D + 8) elements and 320 floats. Grid: (blocks of 64 columns, heads).
template <class T, int D>
KV_FN void window_moments(const MomentArguments& a) {
    constexpr int THREADS = 128, ROWS = 64, KEYS = 64;
    constexpr float LN_2 = 0.693147180559945f;
    KV_SHARED(memory);
    u16* const keys = reinterpret_cast<u16*>(memory);
    u16* const queries = keys + KEYS * ROW<D>;
    float* const parts = reinterpret_cast<float*>(queries + ROWS * ROW<D>);  // [4 warps][KEYS]
    float* const means = parts + 4 * KEYS;                                   // [KEYS]
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int head = blockIdx.y, at = blockIdx.x * KEYS, key = threadIdx.x;
    const int rows = a.q_len - a.first_row;
    const size_t q_stride = size_t(a.heads) * D;
    const u16* const q = a.q + size_t(head) * D;
    const float* const log_sums = a.log_sums + size_t(head) * a.q_len;

    load_rows<D, KEYS, THREADS>(keys, a.k + (size_t(head / a.group) * a.capacity + at) * D, D, a.kv_len - at);
    float entropy = 0.f;
    for (int moment = 1; moment <= 2; ++moment) {
        float sums[KEYS / 8][2];
#pragma unroll
        for (int i = 0; i < KEYS / 8; ++i) sums[i][0] = sums[i][1] = 0.f;
        for (int row0 = a.first_row; row0 < a.q_len; row0 += ROWS) {
            load_rows<D, ROWS, THREADS>(queries, q + row0 * q_stride, q_stride, a.q_len - row0);
            commit_copies();
            wait_copies<0>();
            __syncthreads();  // these rows are there; in the first round the keys, too
            float s[1][KEYS / 8][4];
            multiply_keys<T, D, 1, KEYS>(s, queries + warp * 16 * ROW<D>, keys, lane);
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const int row = row0 + warp * 16 + g + r * 8, position = a.q_start + row;
                if (row >= a.q_len) continue;
#pragma unroll
                for (int i = 0; i < KEYS / 8; ++i)
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        const int column = i * 8 + t * 2 + e, place = at + column;
                        const bool seen = place < a.columns && place <= position && place > position - a.window;
                        const float weight =
                            seen ? fast_exp2(s[0][i][2 * r + e] * a.scale_log2 - log_sums[row]) : 0.f;
                        if (moment == 1) {
                            sums[i][e] += weight;
                            entropy -= weight * (fast_log2(weight + 1e-10f) * LN_2);
                        } else {
                            const float deviation = weight - means[column];
                            sums[i][e] += deviation * deviation;
                        }
                    }
            }
            __syncthreads();  // nobody reads these rows any more
        }
#pragma unroll
        for (int i = 0; i < KEYS / 8; ++i)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                float x = sums[i][e];
                x += shuffle_xor(x, 4);
                x += shuffle_xor(x, 8);
                x += shuffle_xor(x, 16);
                if (g == 0) parts[warp * KEYS + i * 8 + t * 2 + e] = x;
            }
        __syncthreads();  // all warps' sums are there
        if (key < KEYS) {
            const float sum = (parts[key] + parts[KEYS + key]) + (parts[2 * KEYS + key] + parts[3 * KEYS + key]);
            const float result = sum / float(moment == 1 ? rows : most(1, rows - 1));
            if (moment == 1) means[key] = result;
            if (at + key < a.columns)
                (moment == 1 ? a.mean : a.variance)[size_t(head) * a.columns + at + key] = result;
        }
    }
    entropy = warp_sum(entropy);
    __syncthreads();  // nobody reads the second sums any more
    if (lane == 0) parts[warp] = entropy;
    __syncthreads();  // all warps' entropies are there
    if (threadIdx.x == 0)
        a.entropy[size_t(head) * gridDim.x + blockIdx.x] = (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

#define INSTANCE(T, name, D) KV_KERNEL(window_moments_##name##_##D, 128, MomentArguments, window_moments<T, D>)
KV_EACH_ELEMENT_AND_HEAD_SIZE(INSTANCE)
