// Where in a kernel's source something happens.
#pragma once
#include <cstring>

namespace emulator {

struct Site {
    const char* file;
    int line;

    // As a default argument it names the caller's place.
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }

    bool operator==(const Site& other) const {
        return line == other.line && (file == other.file || std::strcmp(file, other.file) == 0);
    }
};

}  // namespace emulator
