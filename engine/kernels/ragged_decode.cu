// Attention of decode steps over lists of entries of any lengths. An item is a piece of one list, read once for all the
// query heads that share it (up to 16); `merge` puts the pieces of a list together.
//
// Where a list is split depends on its own length alone, so a sequence's result does not depend on its batch.
//
// K and V go from global memory straight into fragments. The order of a head's elements inside a product, and of the
// output's columns, is free: a lane takes consecutive bytes of a row, and calls them the elements that its fragment holds.
#include "instances.cuh"
#include "device.cuh"

struct DecodeItem {
    const u16 *k, *v;    // [entries][D]
    int len;             // entries of this piece, if `len_from` < 0
    int len_from;        // else lens[len_from]: for the tokens generated so far
    int q_row, q_count;  // rows of q that attend to it
    int part;            // the partial result of the first of them; the others follow
    int reserved;
};
struct DecodeArguments {
    const u16* q;             // [rows][D]
    const DecodeItem* items;  // one a block
    const int* lens;
    float* part_out;    // [parts][D]: the weighted sum of values, relative to the part's maximum
    float2* part_sums;  // [parts]: the maximum in units of log2, the sum of weights
    float scale_log2;  // log2(e) / sqrt(D)
    int count;         // items
};

KV_FN u32 low_halves(u32 x, u32 y) { return (x & 0xffffu) | y << 16; }
KV_FN u32 high_halves(u32 x, u32 y) { return x >> 16 | (y & 0xffff0000u); }

// The B fragments of a key, word for word: lane t takes elements 8 t .. 8 t + 8 of each 32, and 4 t .. 4 t + 4 of the
// last 16 where D leaves them. Queries are read in the same order, as A fragments.
template <int D>
KV_FN void load_query_words(u32 (&words)[D / 8], const u16* row, int t) {
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
        const uint4 x = load16(row + i * 32 + t * 8);
        words[4 * i] = x.x;
        words[4 * i + 1] = x.y;
        words[4 * i + 2] = x.z;
        words[4 * i + 3] = x.w;
    }
    if (D % 32) {
        const uint2 x = load8(row + D / 32 * 32 + t * 4);
        words[D / 8 - 2] = x.x;
        words[D / 8 - 1] = x.y;
    }
}

// Of a value, lane group g takes columns 8 g .. 8 g + 8 of each 64, and an eighth of the 32 or 16 that D leaves.
template <int D>
KV_FN int value_column(int word, int g) {
    return word / 4 < D / 64 ? word / 4 * 64 + g * 8 + word % 4 * 2
                             : D / 64 * 64 + g * (D % 64 / 8) + (word - D / 64 * 4) * 2;
}
// The words of one such 64, or of what is left.
template <int D>
KV_FN void load_value_piece(u32 (&words)[D / 16], const u16* row, int piece, int g) {
    if (piece < D / 64) {
        const uint4 x = load16(row + piece * 64 + g * 8);
        words[4 * piece] = x.x;
        words[4 * piece + 1] = x.y;
        words[4 * piece + 2] = x.z;
        words[4 * piece + 3] = x.w;
    } else if (D % 64 == 32) {
        const uint2 x = load8(row + D / 64 * 64 + g * 4);
        words[D / 16 - 2] = x.x;
        words[D / 16 - 1] = x.y;
    } else if (D % 64 == 16) {
        words[D / 16 - 1] = load4(row + D / 64 * 64 + g * 2);
    }
}

// Shared memory: 64 (D + 2) floats. Grid: items.
template <class T, int D>
KV_FN void ragged_decode(const DecodeArguments& a) {
    constexpr int WARPS = 4, PIECES = (D + 63) / 64;
    // Values are asked for before the softmax, which hides their way; with the largest heads registers are too few.
    constexpr bool EARLY = D <= 128;
    KV_SHARED(memory);
    float* const warp_out = reinterpret_cast<float*>(memory);  // [WARPS][16][D]
    float* const warp_top = warp_out + WARPS * 16 * D;         // [WARPS][16]
    float* const warp_total = warp_top + WARPS * 16;           // [WARPS][16]
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const DecodeItem item = a.items[blockIdx.x];
    const int len = item.len_from >= 0 ? a.lens[item.len_from] : item.len;

    u32 q[2][D / 8];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        if (g + 8 * r < item.q_count) {
            load_query_words<D>(q[r], a.q + size_t(item.q_row + g + 8 * r) * D, t);
        } else {
#pragma unroll
            for (int i = 0; i < D / 8; ++i) q[r][i] = 0;
        }
    }
    float o[D / 8][4], top[2] = {-KV_INFINITY, -KV_INFINITY}, total[2] = {0.f, 0.f};
#pragma unroll
    for (int i = 0; i < D / 8; ++i) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.f;

    for (int at = warp * 16; at < len; at += WARPS * 16) {
        float s[2][4];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.f;
            u32 k[D / 8];
            load_query_words<D>(k, item.k + size_t(least(at + n * 8 + g, len - 1)) * D, t);
#pragma unroll
            for (int i = 0; i < D / 16; ++i) {
                const u32 rows[4] = {q[0][2 * i], q[1][2 * i], q[0][2 * i + 1], q[1][2 * i + 1]};
                T::mma(s[n], rows, k[2 * i], k[2 * i + 1]);
            }
        }
        const u16* values[4];
#pragma unroll
        for (int j = 0; j < 4; ++j)
            values[j] = item.v + size_t(least(at + t * 2 + j % 2 + j / 2 * 8, len - 1)) * D;
        u32 v[4][D / 16];
        if (EARLY) {
#pragma unroll
            for (int piece = 0; piece < PIECES; ++piece)
#pragma unroll
                for (int j = 0; j < 4; ++j) load_value_piece<D>(v[j], values[j], piece, g);
        }
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e)
                if (at + n * 8 + t * 2 + e % 2 >= len) s[n][e] = -KV_INFINITY;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float m = top[r];
#pragma unroll
            for (int n = 0; n < 2; ++n) m = larger(m, larger(s[n][2 * r], s[n][2 * r + 1]));
            m = larger(m, shuffle_xor(m, 1));
            m = larger(m, shuffle_xor(m, 2));
            const float shift = m * a.scale_log2, shrink = fast_exp2(top[r] * a.scale_log2 - shift);
            top[r] = m;
            total[r] *= shrink;
#pragma unroll
            for (int i = 0; i < D / 8; ++i) {
                o[i][2 * r] *= shrink;
                o[i][2 * r + 1] *= shrink;
            }
#pragma unroll
            for (int n = 0; n < 2; ++n)
#pragma unroll
                for (int e = 2 * r; e < 2 * r + 2; ++e) {
                    s[n][e] = fast_exp2(s[n][e] * a.scale_log2 - shift);
                    total[r] += s[n][e];
                }
        }
        const u32 p[4] = {T::pack(s[0][0], s[0][1]), T::pack(s[0][2], s[0][3]), T::pack(s[1][0], s[1][1]),
                          T::pack(s[1][2], s[1][3])};
#pragma unroll
        for (int i = 0; i < D / 16; ++i) {
            if (!EARLY && i % 4 == 0) {
#pragma unroll
                for (int j = 0; j < 4; ++j) load_value_piece<D>(v[j], values[j], i / 4, g);
            }
            T::mma(o[2 * i], p, low_halves(v[0][i], v[1][i]), low_halves(v[2][i], v[3][i]));
            T::mma(o[2 * i + 1], p, high_halves(v[0][i], v[1][i]), high_halves(v[2][i], v[3][i]));
        }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        total[r] += shuffle_xor(total[r], 1);
        total[r] += shuffle_xor(total[r], 2);
        if (g + 8 * r >= item.q_count) continue;
        const int row = warp * 16 + g + 8 * r;
        if (t == 0) {
            warp_top[row] = top[r] * a.scale_log2;
            warp_total[row] = total[r];
        }
#pragma unroll
        for (int i = 0; i < D / 8; ++i)
#pragma unroll
            for (int e = 0; e < 2; ++e)
                warp_out[row * D + value_column<D>(i / 2, 2 * t + e) + i % 2] = o[i][2 * r + e];
    }
    __syncthreads();  // all warps' results are there
    for (int i = threadIdx.x; i < item.q_count * D; i += WARPS * 32) {
        const int row = i / D;
        float m = -KV_INFINITY, x = 0.f, sum = 0.f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) m = larger(m, warp_top[w * 16 + row]);
        if (m > -KV_INFINITY) {
#pragma unroll
            for (int w = 0; w < WARPS; ++w) {
                const float factor = fast_exp2(warp_top[w * 16 + row] - m);
                x += factor * warp_out[(w * 16 + row) * D + i % D];
                sum += factor * warp_total[w * 16 + row];
            }
        }
        a.part_out[size_t(item.part + row) * D + i % D] = x;
        if (i % D == 0) a.part_sums[item.part + row] = float2{m, sum};
    }
}

#define INSTANCE(T, name, D) KV_KERNEL(ragged_decode_##name##_##D, 128, DecodeArguments, ragged_decode<T, D>)
KV_EACH_ELEMENT_AND_HEAD_SIZE(INSTANCE)
