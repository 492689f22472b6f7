// Causal attention of a chunk of a prompt, for all query heads, with a running softmax.
//
// A block takes 64 H query rows of one head: four warps of 16 H rows. H = 2 lets every fragment of keys and values that
// is read from shared memory serve two products; with H = 1 shared memory is the limit. Queries stay in shared memory.
#include "instances.cuh"
#include "tile.cuh"

struct PrefillArguments {
    const u16* q;    // [q_len][heads][D]; row r stands at position q_start + r
    const u16 *k, *v;  // [kv_heads][capacity][D], of which kv_len positions are there
    u16* out;        // [q_len][heads][D]
    float* log_sums;  // [heads][q_len]: log2 of the sum of exp2(scale_log2 <q, k>) over a row's keys
    int q_len, q_start, kv_len, capacity;
    int heads, group;  // query heads; query heads that share a KV head
    int window;        // a query sees that many positions, its own included; 2^31 - 1: all
    float scale_log2;  // log2(e) / sqrt(D)
};

// Shared memory: (64 H + 2 N)(D + 8) elements. Grid: (heads, blocks of 64 H rows).
template <class T, int D, int H, int N>
KV_FN void prefill(const PrefillArguments& a) {
    constexpr int THREADS = 128, ROWS = 64 * H;
    KV_SHARED(memory);
    u16* const queries = reinterpret_cast<u16*>(memory);
    u16* const keys = queries + ROWS * ROW<D>;
    u16* const values = keys + N * ROW<D>;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int head = blockIdx.x;
    const int first = (gridDim.y - 1 - blockIdx.y) * ROWS;  // the rows with most keys start first
    const int rows = least(ROWS, a.q_len - first);
    const int own = warp * 16 * H;                     // this warp's first row in the block
    const int position = a.q_start + first + own;      // and in the prompt
    const int end = least(a.kv_len, a.q_start + first + rows);
    const int begin = most(0, a.q_start + first - a.window + 1) / N * N;
    const size_t kv = size_t(head / a.group) * a.capacity * D;
    const size_t q_stride = size_t(a.heads) * D;
    const size_t q_at = first * q_stride + size_t(head) * D;

    load_rows<D, ROWS, THREADS>(queries, a.q + q_at, q_stride, rows);
    load_rows<D, N, THREADS>(keys, a.k + kv + size_t(begin) * D, D, end - begin);
    commit_copies();

    float o[H][D / 8][4], top[H][2], sum[H][2];
#pragma unroll
    for (int h = 0; h < H; ++h) {
#pragma unroll
        for (int i = 0; i < D / 8; ++i) o[h][i][0] = o[h][i][1] = o[h][i][2] = o[h][i][3] = 0.f;
        top[h][0] = top[h][1] = -KV_INFINITY;
        sum[h][0] = sum[h][1] = 0.f;
    }
    for (int at = begin; at < end; at += N) {
        load_rows<D, N, THREADS>(values, a.v + kv + size_t(at) * D, D, end - at);
        commit_copies();
        wait_copies<1>();
        __syncthreads();  // this tile's keys are there; in the first round the queries, too
        float s[H][N / 8][4];
        multiply_keys<T, D, H, N>(s, queries + own * ROW<D>, keys, lane);
        __syncthreads();  // nobody reads these keys any more
        if (at + N < end) load_rows<D, N, THREADS>(keys, a.k + kv + size_t(at + N) * D, D, end - at - N);
        commit_copies();

        const bool edge = at + N - 1 > position || at <= position + 16 * H - 1 - a.window;
#pragma unroll
        for (int h = 0; h < H; ++h)
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const int row = position + h * 16 + g + r * 8;
                float m = top[h][r];
#pragma unroll
                for (int i = 0; i < N / 8; ++i)
#pragma unroll
                    for (int e = 2 * r; e < 2 * r + 2; ++e) {
                        const int key = at + i * 8 + t * 2 + e % 2;
                        if (edge && (key > row || key <= row - a.window)) s[h][i][e] = -KV_INFINITY;
                        m = larger(m, s[h][i][e]);
                    }
                m = larger(m, shuffle_xor(m, 1));
                m = larger(m, shuffle_xor(m, 2));
                // A row that has seen no key yet keeps its zeros: minus infinity less itself is no number.
                const float shift = m == -KV_INFINITY ? 0.f : m * a.scale_log2;
                const float shrink = fast_exp2(top[h][r] * a.scale_log2 - shift);
                top[h][r] = m;
                sum[h][r] *= shrink;
#pragma unroll
                for (int i = 0; i < D / 8; ++i) {
                    o[h][i][2 * r] *= shrink;
                    o[h][i][2 * r + 1] *= shrink;
                }
#pragma unroll
                for (int i = 0; i < N / 8; ++i)
#pragma unroll
                    for (int e = 2 * r; e < 2 * r + 2; ++e) {
                        s[h][i][e] = fast_exp2(s[h][i][e] * a.scale_log2 - shift);
                        sum[h][r] += s[h][i][e];
                    }
            }
        wait_copies<1>();
        __syncthreads();  // this tile's values are there
#pragma unroll
        for (int n = 0; n < N / 16; ++n) {
            u32 p[H][4];
#pragma unroll
            for (int h = 0; h < H; ++h) {
                p[h][0] = T::pack(s[h][2 * n][0], s[h][2 * n][1]);
                p[h][1] = T::pack(s[h][2 * n][2], s[h][2 * n][3]);
                p[h][2] = T::pack(s[h][2 * n + 1][0], s[h][2 * n + 1][1]);
                p[h][3] = T::pack(s[h][2 * n + 1][2], s[h][2 * n + 1][3]);
            }
#pragma unroll
            for (int d = 0; d < D / 16; ++d) {
                u32 v[4];
                ldmatrix_transposed(v, values + (n * 16 + lane % 16) * ROW<D> + d * 16 + lane / 16 * 8);
#pragma unroll
                for (int h = 0; h < H; ++h) {
                    T::mma(o[h][2 * d], p[h], v[0], v[1]);
                    T::mma(o[h][2 * d + 1], p[h], v[2], v[3]);
                }
            }
        }
        __syncthreads();  // nobody reads these values any more
    }
#pragma unroll
    for (int h = 0; h < H; ++h)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float total = sum[h][r];
            total += shuffle_xor(total, 1);
            total += shuffle_xor(total, 2);
            const int row = own + h * 16 + g + r * 8;
            if (row >= rows) continue;
            const float inverse = 1.f / total;
            u16* const out = a.out + q_at + row * q_stride;
#pragma unroll
            for (int i = 0; i < D / 8; ++i)
                store4(out + i * 8 + t * 2, T::pack(o[h][i][2 * r] * inverse, o[h][i][2 * r + 1] * inverse));
            if (t == 0)
                a.log_sums[size_t(head) * a.q_len + first + row] = top[h][r] * a.scale_log2 + fast_log2(total);
        }
}

// Rows a warp and keys a tile, by head size: as many as registers hold without spilling (ptxas.csv).
template <int D>
struct PrefillTile {
    static constexpr int HALVES = D <= 128 ? 2 : 1, KEYS = D <= 96 ? 64 : 32;
};

#define INSTANCE(T, name, D)                                                                                           \
    KV_KERNEL(prefill_##name##_##D, 128, PrefillArguments, prefill<T, D, PrefillTile<D>::HALVES, PrefillTile<D>::KEYS>)
KV_EACH_ELEMENT_AND_HEAD_SIZE(INSTANCE)
