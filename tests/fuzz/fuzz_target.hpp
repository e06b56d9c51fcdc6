#pragma once

/// \file
/// What the fuzz targets share.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "krait/core/error.hpp"
#include "krait/io/weight_store.hpp"

/// Runs the target over one input; defined by each target.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace krait::test {

/// Stops the program where `holds` is false: that is a finding.
inline void demand(bool holds) {
  if (!holds) std::abort();
}

/// A message is one line without control characters.
inline void check_error(const Error& error) {
  demand(!error.message.empty());
  for (const char c : error.message) demand((c < 0 || c >= ' ') && c != '\x7f');
}

/// Every byte of every tensor can be read, and elements are aligned.
inline void check_tensors(const WeightStore& store) {
  volatile unsigned sum = 0;
  for (const auto& [name, entry] : store.entries()) {
    const auto address = reinterpret_cast<std::uintptr_t>(entry.tensor.data);
    demand(address % static_cast<std::uintptr_t>(bytes_of(entry.tensor.dtype)) == 0);
    const auto* data = static_cast<const unsigned char*>(entry.tensor.data);
    for (Index i = 0; i < entry.tensor.bytes(); ++i) sum = sum + data[i];
  }
}

}  // namespace krait::test
