// bf16 and f16 as bits, rounded to nearest, ties to even; subnormal f16 are kept.
#pragma once
#include <cmath>
#include <cstdint>

namespace emulator {

inline uint32_t bits_of(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}

inline float float_of(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}

inline float from_bf16(uint16_t bits) { return float_of(uint32_t(bits) << 16); }

inline uint16_t to_bf16(float x) {
    if (x != x) return 0x7fff;
    const uint32_t bits = bits_of(x);
    return uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline float from_f16(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, mantissa = bits & 0x3ffu;
    if (exponent == 0) return (sign ? -1.f : 1.f) * float(mantissa) / 16777216.f;
    return float_of(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23) | mantissa << 13);
}

inline uint16_t to_f16(float x) {
    if (x != x) return 0x7fff;
    const uint16_t sign = uint16_t(bits_of(x) >> 16 & 0x8000u);
    const float size = std::fabs(x);
    if (size >= 65520.f) return sign | 0x7c00u;
    if (size < 6.103515625e-05f) return sign | uint16_t(std::nearbyint(size * 16777216.f));
    const uint32_t rebased = bits_of(size) - (112u << 23);
    return sign | uint16_t((rebased + 0xfffu + (rebased >> 13 & 1u)) >> 13);
}

}  // namespace emulator
