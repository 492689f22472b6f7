// Attention that each key receives from query rows, summed in a fixed order: the observation window's rows, or all of
// them (H2O). Needs the rows' log-sums from prefill.
//
// A block takes 64 keys of one query head (32 of the largest, for shared memory) and walks the rows that see them, 64 at a time. No atomics: the order of a sum
// depends on the rows' numbers alone.
#include "instances.cuh"
#include "tile.cuh"

struct ColumnArguments {
    const u16* q;            // [q_len][heads][D]; row r stands at position q_start + r
    const u16* k;            // [kv_heads][capacity][D], of which kv_len positions are there
    const float* log_sums;   // [heads][q_len], of the same rows
    float* out;              // [heads][columns]
    int q_len, q_start, kv_len, capacity;
    int heads, group;
    int window;              // as in prefill
    int first_row;           // rows before it are left out
    int columns;             // positions 0 .. columns are summed
    int accumulate;          // 1: on top of what `out` holds, for a prompt that is read in chunks
    float scale_log2;
};

// Shared memory: (128 + KEYS)(D + 8) elements and 4 KEYS floats. Grid: (blocks of KEYS keys, heads).
template <class T, int D>
KV_FN void column_sums(const ColumnArguments& a) {
    constexpr int THREADS = 128, ROWS = 64, KEYS = D <= 128 ? 64 : 32;
    KV_SHARED(memory);
    u16* const keys = reinterpret_cast<u16*>(memory);
    u16* const queries = keys + KEYS * ROW<D>;                                       // two stages
    float* const parts = reinterpret_cast<float*>(queries + 2 * ROWS * ROW<D>);  // [4 warps][KEYS]
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int head = blockIdx.y, at = blockIdx.x * KEYS;
    // The rows that see any of these keys, from a multiple of ROWS.
    const int begin = most(a.first_row, at - a.q_start) / ROWS * ROWS;
    const int reach = least(a.window, a.q_start + a.q_len);
    const int end = least(a.q_len, at + KEYS - 1 + reach - a.q_start);
    const size_t q_stride = size_t(a.heads) * D;
    const u16* const q = a.q + size_t(head) * D;
    const float* const log_sums = a.log_sums + size_t(head) * a.q_len;

    float sums[KEYS / 8][2];
#pragma unroll
    for (int i = 0; i < KEYS / 8; ++i) sums[i][0] = sums[i][1] = 0.f;
    if (begin < end) {
        load_rows<D, KEYS, THREADS>(keys, a.k + (size_t(head / a.group) * a.capacity + at) * D, D, a.kv_len - at);
        load_rows<D, ROWS, THREADS>(queries, q + begin * q_stride, q_stride, end - begin);
        commit_copies();
    }
    for (int row0 = begin, stage = 0; row0 < end; row0 += ROWS, stage ^= 1) {
        const int next = row0 + ROWS;
        if (next < end)
            load_rows<D, ROWS, THREADS>(queries + (stage ^ 1) * ROWS * ROW<D>, q + next * q_stride, q_stride,
                                        end - next);
        commit_copies();
        wait_copies<1>();
        __syncthreads();  // these rows are there; in the first round the keys, too
        float s[1][KEYS / 8][4];
        multiply_keys<T, D, 1, KEYS>(s, queries + (stage * ROWS + warp * 16) * ROW<D>, keys, lane);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int row = row0 + warp * 16 + g + r * 8, position = a.q_start + row;
            const bool in = row >= a.first_row && row < end;
            const float log_sum = in ? log_sums[row] : 0.f;
#pragma unroll
            for (int i = 0; i < KEYS / 8; ++i)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const int key = at + i * 8 + t * 2 + e;
                    if (in && key <= position && key > position - a.window)
                        sums[i][e] += fast_exp2(s[0][i][2 * r + e] * a.scale_log2 - log_sum);
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
    const int key = threadIdx.x, column = at + key;
    if (key < KEYS && column < a.columns) {
        float* const out = a.out + size_t(head) * a.columns + column;
        const float sum = (parts[key] + parts[KEYS + key]) + (parts[2 * KEYS + key] + parts[3 * KEYS + key]);
        *out = a.accumulate ? *out + sum : sum;
    }
}

#define INSTANCE(T, name, D) KV_KERNEL(column_sums_##name##_##D, 128, ColumnArguments, column_sums<T, D>)
KV_EACH_ELEMENT_AND_HEAD_SIZE(INSTANCE)
