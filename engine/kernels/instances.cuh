// The element types and head sizes that kernels are made for. INSTANCE(T, name, D) or INSTANCE(T, name) makes one.
#pragma once

#define KV_EACH_HEAD_SIZE(INSTANCE, T, name)                                                                           \
    INSTANCE(T, name, 32)                                                                                              \
    INSTANCE(T, name, 64)                                                                                              \
    INSTANCE(T, name, 80)                                                                                              \
    INSTANCE(T, name, 96)                                                                                              \
    INSTANCE(T, name, 128)                                                                                             \
    INSTANCE(T, name, 256)
#define KV_EACH_ELEMENT_AND_HEAD_SIZE(INSTANCE)                                                                        \
    KV_EACH_HEAD_SIZE(INSTANCE, Bf16, bf16)                                                                            \
    KV_EACH_HEAD_SIZE(INSTANCE, F16, f16)
#define KV_EACH_ELEMENT(INSTANCE)                                                                                      \
    INSTANCE(Bf16, bf16)                                                                                               \
    INSTANCE(F16, f16)
