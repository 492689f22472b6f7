// Tiles of queries and keys in shared memory, and the tensor cores' products of them.
//
// A row of D elements takes D + 8 there: an odd number of 16-byte pieces, so that the eight rows of one matrix load
// never share a bank.
#pragma once
#include "device.cuh"

template <int D>
constexpr int ROW = D + 8;

// Starts copying ROWS rows; those from `valid` on become zero. `stride`: elements from a row of `from` to the next.
template <int D, int ROWS, int THREADS>
KV_FN void load_rows(u16* to, const u16* from, size_t stride, int valid) {
    constexpr int PIECES = D / 8;
    for (int i = threadIdx.x; i < ROWS * PIECES; i += THREADS) {
        const int row = i / PIECES, piece = i % PIECES;
        const bool there = row < valid;
        copy_async(to + row * ROW<D> + piece * 8, there ? from + size_t(row) * stride + piece * 8 : from,
                   there ? 16 : 0);
    }
}

// s[h][n / 8] = the products of query rows 16 h .. 16 h + 16 with keys n .. n + 8. In lane l, s[..][..][2 r + e] belongs
// to row l / 4 + 8 r and key 2 (l % 4) + e.
template <class T, int D, int H, int N>
KV_FN void multiply_keys(float (&s)[H][N / 8][4], const u16* queries, const u16* keys, int lane) {
#pragma unroll
    for (int h = 0; h < H; ++h)
#pragma unroll
        for (int i = 0; i < N / 8; ++i) s[h][i][0] = s[h][i][1] = s[h][i][2] = s[h][i][3] = 0.f;
#pragma unroll
    for (int d = 0; d < D; d += 16) {
        u32 q[H][4];
#pragma unroll
        for (int h = 0; h < H; ++h) ldmatrix(q[h], queries + (h * 16 + lane % 16) * ROW<D> + d + lane / 16 * 8);
#pragma unroll
        for (int n = 0; n < N; n += 16) {
            u32 k[4];
            ldmatrix(k, keys + (n + lane % 8 + lane / 16 * 8) * ROW<D> + d + lane / 8 % 2 * 8);
#pragma unroll
            for (int h = 0; h < H; ++h) {
                T::mma(s[h][n / 8], q[h], k[0], k[1]);
                T::mma(s[h][n / 8 + 1], q[h], k[2], k[3]);
            }
        }
    }
}
