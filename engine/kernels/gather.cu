// Copies the kept entries of prompt caches into lists of their own: keys and values of one list an item.
#include "device.cuh"

struct GatherItem {
    const u16 *k, *v;      // one head of a prompt: [positions][D]
    const u32* positions;  // [len]
    u16 *to_k, *to_v;      // [len][D]
    int len, reserved;
};
struct GatherArguments {
    const GatherItem* items;
    int count, longest;  // items; entries of the longest list
};

// Grid: (items, blocks of 64 entries of the longest list). Either element type: nothing is computed.
template <int D>
KV_FN void gather(const GatherArguments& a) {
    constexpr int THREADS = 128, ENTRIES = 64, PIECES = D / 8;
    const GatherItem item = a.items[blockIdx.x];
    const int first = blockIdx.y * ENTRIES, entries = least(ENTRIES, item.len - first);
    for (int i = threadIdx.x; i < entries * PIECES; i += THREADS) {
        const size_t entry = first + i / PIECES, piece = i % PIECES * 8;
        const size_t from = size_t(load4(item.positions + entry)) * D + piece, to = entry * D + piece;
        store16(item.to_k + to, load16(item.k + from));
        store16(item.to_v + to, load16(item.v + from));
    }
}

KV_KERNEL(gather_32, 128, GatherArguments, gather<32>)
KV_KERNEL(gather_64, 128, GatherArguments, gather<64>)
KV_KERNEL(gather_80, 128, GatherArguments, gather<80>)
KV_KERNEL(gather_96, 128, GatherArguments, gather<96>)
KV_KERNEL(gather_128, 128, GatherArguments, gather<128>)
KV_KERNEL(gather_256, 128, GatherArguments, gather<256>)
