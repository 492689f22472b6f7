// Device memory, and what is known of every two bytes of it: who wrote them, who read them, and when.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace emulator {

// bf16, f16 and f32 NaN; an index of 2^32 - 1.
constexpr unsigned char POISON = 0xff;

// A moment of one thread. Two threads of a block are ordered if a barrier lies between their moments, two lanes of a
// warp by a warp's barrier as well; blocks of one launch never are.
struct Moment {
    uint32_t block = 0;  // counted over all launches, from 1
    uint32_t barriers = 0;
    uint32_t warp_barriers = 0;
    uint16_t thread = 0;
    bool several = false;  // other lanes of its warp did the same
};

struct Cell {
    static constexpr size_t BYTES = 2;
    enum State : uint8_t { UNWRITTEN, WRITTEN, UNDER_WAY };

    Moment written, read;
    Moment read_elsewhere;  // the last reader of another warp than `read`'s
    State state = UNWRITTEN;
};

// Sparse memory is read-only zeros, of which only the pages that somebody writes take room.
enum class Content { Constant, Writable, Sparse };

class Region {
public:
    Region(size_t bytes, Content content);
    Region(const Region&) = delete;
    ~Region();

    unsigned char* base() const { return base_; }
    size_t bytes() const { return bytes_; }
    bool writable() const { return content_ == Content::Writable; }
    bool contains(const void* p) const { return uintptr_t(p) - uintptr_t(base_) < bytes_; }
    bool contains(const void* p, size_t n) const {
        return contains(p) && n <= bytes_ - (uintptr_t(p) - uintptr_t(base_));
    }
    // The cells of the bytes from `p`; a region that no kernel may write has none.
    Cell* cells(const void* p) { return &cells_[(uintptr_t(p) - uintptr_t(base_)) / Cell::BYTES]; }
    // As nobody had ever written it.
    void poison();
    void write(void* to, const void* from, size_t bytes);
    // Returns how many of the bytes nobody wrote.
    size_t read(void* to, const void* from, size_t bytes);

private:
    // Nothing else lies this near: an index that is wrong by less is always found.
    static constexpr size_t GAP = 16 << 20;
    unsigned char *reserved_, *base_;
    size_t bytes_;
    Content content_;
    std::vector<Cell> cells_;
};

class Memory {
public:
    Region& allocate(size_t bytes, Content content);
    // The region around an address, or null.
    Region* find(const void* p);
    void release(void* base);
    void clear();

private:
    std::map<uintptr_t, std::unique_ptr<Region>> regions_;
    Region* last_ = nullptr;
};

}  // namespace emulator
