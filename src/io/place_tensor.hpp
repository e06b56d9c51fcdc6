#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "krait/core/aligned_buffer.hpp"
#include "krait/io/mapped_file.hpp"
#include "krait/io/weight_store.hpp"

namespace krait {
inline namespace v0_1 {

/// Whether the elements of a tensor of that type may be read at `data`.
inline bool is_element_aligned(const void* data, DType dtype) noexcept {
  return reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(bytes_of(dtype)) == 0;
}

/// Adds a tensor that lies in `file`: in place, or as a copy where its elements would not be
/// aligned, so that whoever finds a tensor in a store may read its elements.
inline void place_tensor(WeightStore& store, std::string name, TensorView tensor,
                         const std::shared_ptr<const FileBytes>& file) {
  if (tensor.bytes() == 0) tensor.data = nullptr;
  if (is_element_aligned(tensor.data, tensor.dtype)) {
    store.add(std::move(name), tensor, file, file->name());
    return;
  }
  auto copy = std::make_shared<AlignedBuffer<std::byte>>(tensor.bytes());
  std::memcpy(copy->data(), tensor.data, copy->bytes());
  tensor.data = copy->data();
  store.add(std::move(name), tensor, std::move(copy), file->name());
}

}  // namespace v0_1
}  // namespace krait
