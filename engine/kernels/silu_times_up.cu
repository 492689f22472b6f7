// The MLP's activation: SiLU of the gate, times up, rounded once.
#include "instances.cuh"
#include "device.cuh"

struct SiluArguments {
    const u16* gate_up;  // [tokens][2][width]: gate, then up
    u16* out;            // [tokens][width]
    int width;           // a multiple of 8
    int count;           // tokens
};

template <class T>
KV_FN u32 silu_pair(u32 gate, u32 up) {
    constexpr float LOG2_E = 1.44269504088896341f;
    const float low = T::low(gate), high = T::high(gate);
    return T::pack(low / (1.f + fast_exp2(-LOG2_E * low)) * T::low(up),
                   high / (1.f + fast_exp2(-LOG2_E * high)) * T::high(up));
}

// Grid: (tokens, blocks of 1024 columns).
template <class T>
KV_FN void silu_times_up(const SiluArguments& a) {
    const int i = (blockIdx.y * 128 + threadIdx.x) * 8;
    if (i >= a.width) return;
    const u16* const gate = a.gate_up + size_t(blockIdx.x) * 2 * a.width + i;
    const uint4 g = load16(gate), u = load16(gate + a.width);
    store16(a.out + size_t(blockIdx.x) * a.width + i,
            uint4{silu_pair<T>(g.x, u.x), silu_pair<T>(g.y, u.y), silu_pair<T>(g.z, u.z), silu_pair<T>(g.w, u.w)});
}

#define INSTANCE(T, name) KV_KERNEL(silu_times_up_##name, 128, SiluArguments, silu_times_up<T>)
KV_EACH_ELEMENT(INSTANCE)
