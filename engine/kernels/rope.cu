// From a layer's projections to queries and cache entries: bias, norm of queries and keys (Qwen3), rotation; values are
// copied beside their keys. All in f32, rounded once. A warp takes one head of one token.
#include "instances.cuh"
#include "device.cuh"

struct RopeArguments {
    const u16* projected;          // [tokens][heads + 2 kv_heads][D]: queries, keys, values
    const u16* bias;               // [heads + 2 kv_heads][D]; null: none
    const u16 *q_norm, *k_norm;    // [D]; null: none
    const float *cosines, *sines;  // [positions][D / 2]
    const u32* positions;          // [tokens]
    const u32* rows;               // [tokens]: row of the caches that a token's first KV head goes to
    u16* q;                        // [tokens][heads][D]
    u16 *k, *v;                    // caches, rows of D elements
    int heads, kv_heads;
    int head_rows;                 // rows from a KV head to the next
    float epsilon;
    int count;                     // tokens
};

// Grid: (tokens, blocks of 4 heads).
template <class T, int D>
KV_FN void rope(const RopeArguments& a) {
    constexpr int HALF = D / 2, PAIRS = (HALF + 63) / 64;
    const int token = blockIdx.x, head = blockIdx.y * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    const int all = a.heads + 2 * a.kv_heads;
    if (head >= all) return;
    const bool query = head < a.heads, value = head >= a.heads + a.kv_heads;
    const int kv_head = (head - a.heads) % a.kv_heads;
    const u16* const from = a.projected + (size_t(token) * all + head) * D;
    u16* const to = query ? a.q + (size_t(token) * a.heads + head) * D
                          : (value ? a.v : a.k) + (a.rows[token] + size_t(kv_head) * a.head_rows) * D;

    // Elements i, i + 1 of a head are rotated with i + D / 2, i + D / 2 + 1.
    float low[PAIRS][2], high[PAIRS][2], squares = 0.f;
#pragma unroll
    for (int p = 0; p < PAIRS; ++p) {
        const int i = p * 64 + lane * 2;
        low[p][0] = low[p][1] = high[p][0] = high[p][1] = 0.f;
        if (i >= HALF) continue;
        const u32 x = load4(from + i), y = load4(from + i + HALF);
        low[p][0] = T::low(x);
        low[p][1] = T::high(x);
        high[p][0] = T::low(y);
        high[p][1] = T::high(y);
        if (a.bias) {
            const u32 b = load4(a.bias + head * D + i), c = load4(a.bias + head * D + i + HALF);
            low[p][0] += T::low(b);
            low[p][1] += T::high(b);
            high[p][0] += T::low(c);
            high[p][1] += T::high(c);
        }
#pragma unroll
        for (int e = 0; e < 2; ++e) squares += low[p][e] * low[p][e] + high[p][e] * high[p][e];
    }
    const u16* const norm = value ? nullptr : query ? a.q_norm : a.k_norm;
    const float inverse = 1.f / sqrtf(warp_sum(squares) / float(D) + a.epsilon);
    const size_t angles = value ? 0 : size_t(a.positions[token]) * HALF;
#pragma unroll
    for (int p = 0; p < PAIRS; ++p) {
        const int i = p * 64 + lane * 2;
        if (i >= HALF) continue;
        if (norm) {
            const u32 x = load4(norm + i), y = load4(norm + i + HALF);
            low[p][0] *= inverse * T::low(x);
            low[p][1] *= inverse * T::high(x);
            high[p][0] *= inverse * T::low(y);
            high[p][1] *= inverse * T::high(y);
        }
        if (!value) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const float c = a.cosines[angles + i + e], s = a.sines[angles + i + e];
                const float x = low[p][e], y = high[p][e];
                low[p][e] = x * c - y * s;
                high[p][e] = y * c + x * s;
            }
        }
        store4(to + i, T::pack(low[p][0], low[p][1]));
        store4(to + i + HALF, T::pack(high[p][0], high[p][1]));
    }
}

#define INSTANCE(T, name, D) KV_KERNEL(rope_##name##_##D, 128, RopeArguments, rope<T, D>)
KV_EACH_ELEMENT_AND_HEAD_SIZE(INSTANCE)
