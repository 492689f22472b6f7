// Warp instructions: the last lane to arrive computes for all.
#include <algorithm>
#include <cstring>

#include "machine.h"

namespace emulator {

Machine::Lane& Machine::rendezvous(Instruction instruction, int parameter, Site site) {
    Warp& warp = this->warp();
    if (warp.arrived == 0) {
        warp.instruction = instruction;
        warp.parameter = parameter;
        warp.site = site;
    } else if (warp.instruction != instruction || warp.parameter != parameter || !(warp.site == site)) {
        fail("lanes of a warp at different instructions", {site, nullptr});
    }
    now_->site = site;
    Lane& mine = lane();
    if (++warp.arrived < 32) {
        run_next();
        return mine;
    }
    warp.arrived = 0;
    switch (instruction) {
        case Instruction::SyncWarp: ++warp.barriers; break;
        case Instruction::Product: finish_product(warp); break;
        case Instruction::LoadMatrix: finish_matrix_load(warp); break;
        case Instruction::Shuffle:
            for (int i = 0; i < 32; ++i) warp.lanes[i].out[0] = warp.lanes[i ^ parameter].in[0];
            break;
    }
    const unsigned first = now_->index / 32 * 32;
    for (unsigned i = first; i < first + 32; ++i)
        if (i != now_->index) ready_.push_back(i);
    if (schedule_ == Schedule::Random || schedule_ == Schedule::Reverse) {
        ready_.push_back(now_->index);
        run_next();
    }
    return mine;
}

void Machine::sync_warp(Site site) {
    if (is_muted(site)) return;
    rendezvous(Instruction::SyncWarp, 0, site);
}

uint32_t Machine::shuffle_xor(uint32_t value, int mask, Site site) {
    lane().in[0] = value;
    return rendezvous(Instruction::Shuffle, mask & 31, site).out[0];
}

void Machine::ldmatrix_x4(uint32_t (&fragments)[4], const void* row, bool transposed, Site site) {
    const Place place{site, nullptr};
    if (uintptr_t(row) % 16) fail("a matrix row that is not aligned to 16 bytes", place);
    if (!shared_->contains(row, 16)) fail("a matrix row outside shared memory", place);
    touch(row, 16, Touch::Read, place);
    lane().row = static_cast<const unsigned char*>(row);
    std::memcpy(fragments, rendezvous(Instruction::LoadMatrix, transposed, site).out, 16);
}

// Lane l names row l % 8 of matrix l / 8, and gets of each matrix the elements 2 (l % 4) and 2 (l % 4) + 1 of row
// l / 4; of column l / 4 if transposed.
void Machine::finish_matrix_load(Warp& warp) {
    for (int matrix = 0; matrix < 4; ++matrix) {
        uint16_t m[8][8];
        unsigned of_bank[8] = {}, worst = 0;
        for (int r = 0; r < 8; ++r) {
            const unsigned char* const row = warp.lanes[8 * matrix + r].row;
            worst = std::max(worst, ++of_bank[uintptr_t(row) / 16 % 8]);
            std::memcpy(m[r], row, 16);
        }
        counters.bank_conflicts += worst - 1;
        for (int l = 0; l < 32; ++l) {
            const int g = l / 4, t = l % 4;
            const uint16_t low = warp.parameter ? m[2 * t][g] : m[g][2 * t];
            const uint16_t high = warp.parameter ? m[2 * t + 1][g] : m[g][2 * t + 1];
            warp.lanes[l].out[matrix] = low | uint32_t(high) << 16;
        }
    }
    ++counters.matrix_loads;
}

void Machine::mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Element element, Site site) {
    uint32_t* const in = lane().in;
    std::memcpy(in, a, 16);
    in[4] = b0;
    in[5] = b1;
    std::memcpy(in + 6, d, 16);
    std::memcpy(d, rendezvous(Instruction::Product, int(element), site).out, 16);
}

// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type". Lane l has g = l / 4 and t = l % 4.
void Machine::finish_product(Warp& warp) {
    alignas(64) float a[16][16], b[16][8], d[16][8];
    auto element = [&](uint32_t pair, int i) {
        const uint16_t half = i ? pair >> 16 : pair & 0xffffu;
        return warp.parameter == int(Element::Bf16) ? from_bf16(half) : from_f16(half);
    };
    for (int l = 0; l < 32; ++l) {
        const int g = l / 4, t = l % 4;
        const uint32_t* const in = warp.lanes[l].in;
        for (int i = 0; i < 2; ++i) {
            a[g][2 * t + i] = element(in[0], i);
            a[g + 8][2 * t + i] = element(in[1], i);
            a[g][2 * t + 8 + i] = element(in[2], i);
            a[g + 8][2 * t + 8 + i] = element(in[3], i);
            b[2 * t + i][g] = element(in[4], i);
            b[2 * t + 8 + i][g] = element(in[5], i);
            d[g][2 * t + i] = float_of(in[6 + i]);
            d[g + 8][2 * t + i] = float_of(in[8 + i]);
        }
    }
    for (int i = 0; i < 16; ++i)
        for (int k = 0; k < 16; ++k)
            for (int j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
    for (int l = 0; l < 32; ++l) {
        const int g = l / 4, t = l % 4;
        for (int i = 0; i < 2; ++i) {
            warp.lanes[l].out[i] = bits_of(d[g][2 * t + i]);
            warp.lanes[l].out[2 + i] = bits_of(d[g + 8][2 * t + i]);
        }
    }
    ++counters.products;
}

}  // namespace emulator
