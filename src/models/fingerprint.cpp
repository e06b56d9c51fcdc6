#include "models/fingerprint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "io/scattered_reads.hpp"
#include "krait/weights/convert.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

class Hash {  // FNV-1a over words of 8 bytes, folded so that every bit reaches every other
 public:
  void add(const void* data, std::size_t bytes) {
    const auto* p = static_cast<const std::byte*>(data);
    for (std::size_t i = 0; i < bytes; i += sizeof(std::uint64_t)) {
      std::uint64_t word = 0;
      std::memcpy(&word, p + i, std::min(sizeof word, bytes - i));
      value_ = (value_ ^ word) * 0x100000001B3ULL;
      value_ ^= value_ >> 29U;
    }
    add_size(bytes);
  }
  std::string hex() const { return fmt::format("{:016x}", value_); }

 private:
  void add_size(std::uint64_t size) { value_ = (value_ ^ size) * 0x9E3779B97F4A7C15ULL; }

  std::uint64_t value_ = 0xCBF29CE484222325ULL;
};

// Calls body(first, count) for the elements of a tensor that the fingerprint reads: all of a small
// tensor, otherwise both ends and some in each of 64 equal parts. Their places differ from part to
// part, so that changes to single rows or columns are found.
template <class Body>
void for_samples(Index size, Body&& body) {
  constexpr Index at_ends = 512;
  constexpr Index parts = 64;
  constexpr Index in_part = 16;
  if (size <= 2 * at_ends + parts * in_part) return body(Index{0}, size);
  body(Index{0}, at_ends);
  const Index between = size - 2 * at_ends;
  std::uint64_t place = 0;
  for (Index i = 0; i < parts; ++i) {
    const Index begin = at_ends + between / parts * i;
    const Index room = between / parts - in_part;
    place = place * 0x5851F42D4C957F2DULL + 0x14057B7EF767814FULL;
    body(begin + static_cast<Index>((place >> 33U) % static_cast<std::uint64_t>(room + 1)),
         in_part);
  }
  body(size - at_ends, at_ends);
}

// Of weights that are mapped, most samples lie in pages that nobody has read yet.
void expect_samples(const WeightBinder& binder) {
  ScatteredReads reads;
  for (const TensorUse& use : binder.uses()) {
    for (const TensorView& part : use.parts) {
      for_samples(part.size(), [&](Index first, Index count) {
        const Index element = bytes_of(part.dtype);
        reads.expect(static_cast<const std::byte*>(part.data) + first * element,
                     static_cast<std::size_t>(count * element));
      });
    }
  }
}

}  // namespace

std::string fingerprint(const ModelSpec& spec, const WeightBinder& binder, DType kv_dtype) {
  ModelSpec unnamed = spec;
  unnamed.family.clear();
  unnamed.embedding.vocab =
      unnamed.embedding.rows();  // the number of padding rows changes no logit
  unnamed.embedding_name = unnamed.layers_name = unnamed.final_norm_name = unnamed.head_name = "";
  Hash hash;
  const std::string sizes = to_string(unnamed);
  hash.add(sizes.data(), sizes.size());
  if (kv_dtype != DType::f32) hash.add(&kv_dtype, sizeof kv_dtype);

  expect_samples(binder);
  std::vector<float> values;
  for (const TensorUse& use : binder.uses()) {
    const std::string shape = to_string(use.shape);
    hash.add(shape.data(), shape.size());
    for (const TensorView& part : use.parts) {
      for_samples(part.size(), [&](Index first, Index count) {
        const auto* data = static_cast<const std::byte*>(part.data) + first * bytes_of(part.dtype);
        if (!is_float(part.dtype)) {
          return hash.add(data, static_cast<std::size_t>(count * bytes_of(part.dtype)));
        }
        values.resize(static_cast<std::size_t>(count));
        convert_floats({data, part.dtype, {count}}, DType::f32, values.data());
        hash.add(values.data(), values.size() * sizeof(float));
      });
    }
  }
  return hash.hex();
}

}  // namespace v0_1
}  // namespace krait
