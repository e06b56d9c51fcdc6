#pragma once

#include <cstddef>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// Says that `bytes` at `data` are read soon. Of a mapped file the system then fetches these pages
/// and no others, many at a time; found missing one by one, each would be read with the megabytes
/// around it. Memory of any other kind is left as it is.
void expect_scattered_read(const void* data, std::size_t bytes) noexcept;

}  // namespace v0_1
}  // namespace krait
