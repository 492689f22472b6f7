// Small kernels that do one thing wrong, or look as if they did.
#include "device.cuh"

struct FaultArguments {
    u32* out;
    const u32* in;
    int n;
};
KV_FN u32* shared_words() {
    KV_SHARED(memory);
    return reinterpret_cast<u32*>(memory);
}

KV_FN void lanes_exchange(const FaultArguments& a) {  // n: 0 no barrier, 1 of the warp, 2 of the block
    u32* const words = shared_words();
    words[threadIdx.x] = threadIdx.x;
    if (a.n == 1) __syncwarp();
    if (a.n == 2) __syncthreads();
    a.out[threadIdx.x] = words[threadIdx.x ^ 1];
}
KV_FN void warps_exchange(const FaultArguments& a) {
    u32* const words = shared_words();
    words[threadIdx.x] = threadIdx.x;
    if (a.n == 1) __syncwarp();
    if (a.n == 2) __syncthreads();
    a.out[threadIdx.x] = words[threadIdx.x ^ 32];
}
KV_FN void overwrite_what_is_read(const FaultArguments& a) {
    u32* const words = shared_words();
    words[threadIdx.x] = threadIdx.x;
    __syncthreads();
    a.out[threadIdx.x] = words[threadIdx.x ^ 32];
    if (a.n) __syncthreads();
    words[threadIdx.x] = 7;
}
KV_FN void blocks_write_the_same(const FaultArguments& a) { a.out[threadIdx.x] = blockIdx.x; }
KV_FN void blocks_write_their_own(const FaultArguments& a) { a.out[blockIdx.x * 64 + threadIdx.x] = blockIdx.x; }
KV_FN void read_beyond(const FaultArguments& a) { a.out[threadIdx.x] = a.in[a.n + threadIdx.x]; }
KV_FN void write_beyond(const FaultArguments& a) { a.out[a.n + threadIdx.x] = 1; }
KV_FN void write_shared_beyond(const FaultArguments& a) { shared_words()[a.n + threadIdx.x] = 1; }
KV_FN void write_input(const FaultArguments& a) { const_cast<u32*>(a.in)[threadIdx.x] = 1; }
KV_FN void read_unwritten(const FaultArguments& a) { a.out[threadIdx.x] = shared_words()[threadIdx.x]; }
KV_FN void read_unwritten_output(const FaultArguments& a) { a.out[threadIdx.x] += 1; }
KV_FN void store_unaligned(const FaultArguments& a) {
    if (threadIdx.x == 0) store16(a.out + a.n, uint4{1, 2, 3, 4});
}
KV_FN void access_unaligned(const FaultArguments& a) {
    if (threadIdx.x == 0) *reinterpret_cast<u32*>(reinterpret_cast<u16*>(a.out) + a.n) = 1;
}
KV_FN void load_what_is_written(const FaultArguments& a) {  // n: 1 by an ordinary access
    a.out[threadIdx.x] = 1;
    a.out[threadIdx.x] = (a.n ? a.out[threadIdx.x] : load4(a.out + threadIdx.x)) + 1;
}
KV_FN void copy_touched(const FaultArguments& a) {  // n: 1 waits first
    u32* const words = shared_words();
    copy_async(words + threadIdx.x * 4, a.in, 16);
    commit_copies();
    if (a.n) wait_copies<0>();
    a.out[threadIdx.x] = words[threadIdx.x * 4];
}
KV_FN void copy_of_another_thread(const FaultArguments& a) {  // a wait is for one's own copies
    u32* const words = shared_words();
    copy_async(words + threadIdx.x * 4, a.in, 16);
    commit_copies();
    wait_copies<0>();
    if (a.n) __syncthreads();
    a.out[threadIdx.x] = words[(threadIdx.x ^ 32) * 4];
}
KV_FN void copy_left(const FaultArguments& a) {
    copy_async(shared_words() + threadIdx.x * 4, a.in, 16);
    commit_copies();
}
KV_FN void copy_past_the_end(const FaultArguments& a) {
    copy_async(shared_words() + threadIdx.x * 4, a.in + a.n * 4, 16);
    commit_copies();
    wait_copies<0>();
}
KV_FN void lanes_diverge(const FaultArguments& a) {
    u32 x = threadIdx.x;
    if (threadIdx.x & 1)
        x = shuffle_xor(x, 2) + 1;
    else
        x = shuffle_xor(x, 2);
    a.out[threadIdx.x] = x;
}
KV_FN void leave_before_barrier(const FaultArguments& a) {
    if (threadIdx.x >= 32) return;
    __syncthreads();
    a.out[threadIdx.x] = 0;
}
KV_FN void half_a_warp_leaves(const FaultArguments& a) {
    if (threadIdx.x % 32 >= 16) return;
    a.out[threadIdx.x] = shuffle_xor(threadIdx.x, 1);
}
KV_FN void different_barriers(const FaultArguments& a) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    a.out[threadIdx.x] = 0;
}
KV_FN void beyond_local(const FaultArguments& a) {
    u32 x[4] = {1, 2, 3, 4};
    a.out[threadIdx.x] = x[a.n];
}
KV_FN void overflow(const FaultArguments& a) { a.out[threadIdx.x] = u32(a.n * a.n); }
KV_FN void unset_local(const FaultArguments& a) {
    float x[4];
    for (int i = 0; i < a.n; ++i) x[i] = 1.f;
    a.out[threadIdx.x] = x[3] == x[3] && x[3] < 1e30f && x[3] > -1e30f;
}

// One product of a warp: fragments as they come in, n = 1 for f16.
KV_FN void product(const FaultArguments& a) {
    const u32 *const fragments = a.in + threadIdx.x * 6, x[4] = {fragments[0], fragments[1], fragments[2], fragments[3]};
    float d[4] = {0.f, 0.f, 0.f, 0.f};
    if (a.n)
        F16::mma(d, x, fragments[4], fragments[5]);
    else
        Bf16::mma(d, x, fragments[4], fragments[5]);
    for (int i = 0; i < 4; ++i) reinterpret_cast<float*>(a.out)[threadIdx.x * 4 + i] = d[i];
}
// There and back: every pair of halves, n = 1 for f16.
KV_FN void round_trip(const FaultArguments& a) {
    const u32 i = blockIdx.x * 64 + threadIdx.x, pair = i | (i ^ 0xffffu) << 16;
    a.out[i] = a.n ? F16::pack(F16::low(pair), F16::high(pair)) : Bf16::pack(Bf16::low(pair), Bf16::high(pair));
}
// Rounds numbers, n = 1 to f16.
KV_FN void round_floats(const FaultArguments& a) {
    const u32 i = blockIdx.x * 64 + threadIdx.x;
    const float x = reinterpret_cast<const float*>(a.in)[i];
    a.out[i] = a.n ? F16::pack(x, x) : Bf16::pack(x, x);
}
// Matrices of 8 x 8 out of 32 rows of 16 bytes, n = 1 transposed.
KV_FN void load_matrices(const FaultArguments& a) {
    u32* const words = shared_words();
    for (int i = 0; i < 4; ++i) words[threadIdx.x * 4 + i] = a.in[threadIdx.x * 4 + i];
    __syncwarp();
    u32 r[4];
    if (a.n)
        ldmatrix_transposed(r, words + threadIdx.x * 4);
    else
        ldmatrix(r, words + threadIdx.x * 4);
    for (int i = 0; i < 4; ++i) a.out[threadIdx.x * 4 + i] = r[i];
}

#define FAULT(name) KV_KERNEL(fault_##name, 64, FaultArguments, name)
FAULT(lanes_exchange)
FAULT(warps_exchange)
FAULT(overwrite_what_is_read)
FAULT(blocks_write_the_same)
FAULT(blocks_write_their_own)
FAULT(read_beyond)
FAULT(write_beyond)
FAULT(write_shared_beyond)
FAULT(write_input)
FAULT(read_unwritten)
FAULT(read_unwritten_output)
FAULT(store_unaligned)
FAULT(access_unaligned)
FAULT(load_what_is_written)
FAULT(copy_touched)
FAULT(copy_of_another_thread)
FAULT(copy_left)
FAULT(copy_past_the_end)
FAULT(lanes_diverge)
FAULT(leave_before_barrier)
FAULT(half_a_warp_leaves)
FAULT(different_barriers)
FAULT(beyond_local)
FAULT(overflow)
FAULT(unset_local)
FAULT(round_trip)
FAULT(round_floats)
KV_KERNEL(fault_product, 32, FaultArguments, product)
KV_KERNEL(fault_load_matrices, 32, FaultArguments, load_matrices)
