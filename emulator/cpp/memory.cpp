#include "memory.h"

#include <cstring>
#include <new>
#include <sys/mman.h>

namespace emulator {

Region::Region(size_t bytes, Content content) : bytes_(bytes), content_(content) {
    void* reserved = mmap(nullptr, bytes + 2 * GAP, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) throw std::bad_alloc();
    reserved_ = static_cast<unsigned char*>(reserved);
    base_ = reserved_ + GAP;
    if (content != Content::Sparse) poison();
}

Region::~Region() { munmap(reserved_, bytes_ + 2 * GAP); }

void Region::poison() {
    std::memset(base_, POISON, bytes_);
    if (writable()) cells_.assign((bytes_ + Cell::BYTES - 1) / Cell::BYTES, Cell());
}

void Region::write(void* to, const void* from, size_t bytes) {
    std::memcpy(to, from, bytes);
    if (!writable()) return;
    Cell* const cell = cells(to);
    for (size_t i = 0; i < (bytes + Cell::BYTES - 1) / Cell::BYTES; ++i) {
        cell[i] = Cell();
        cell[i].state = Cell::WRITTEN;
    }
}

size_t Region::read(void* to, const void* from, size_t bytes) {
    std::memcpy(to, from, bytes);
    if (!writable()) return 0;
    size_t unwritten = 0;
    const Cell* const cell = cells(from);
    for (size_t i = 0; i < (bytes + Cell::BYTES - 1) / Cell::BYTES; ++i)
        unwritten += cell[i].state == Cell::WRITTEN ? 0 : Cell::BYTES;
    return unwritten;
}

Region& Memory::allocate(size_t bytes, Content content) {
    auto region = std::make_unique<Region>(bytes, content);
    Region& made = *region;
    regions_[uintptr_t(made.base())] = std::move(region);
    return made;
}

Region* Memory::find(const void* p) {
    if (last_ && last_->contains(p)) return last_;
    auto after = regions_.upper_bound(uintptr_t(p));
    if (after == regions_.begin()) return nullptr;
    Region* const region = std::prev(after)->second.get();
    return region->contains(p) ? last_ = region : nullptr;
}

void Memory::release(void* base) {
    regions_.erase(uintptr_t(base));
    last_ = nullptr;
}

void Memory::clear() {
    regions_.clear();
    last_ = nullptr;
}

}  // namespace emulator
