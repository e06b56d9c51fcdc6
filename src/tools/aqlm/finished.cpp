#include "tools/aqlm/finished.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cstring>

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

template <class T>
bool read(const WeightStore& store, const char* name, DType dtype, std::size_t size,
          std::vector<T>& values) {
  const WeightStore::Entry* entry = store.find(name);
  if (entry == nullptr || entry->tensor.dtype != dtype ||
      static_cast<std::size_t>(entry->tensor.size()) != size) {
    return false;
  }
  values.resize(size);
  std::memcpy(values.data(), entry->tensor.data, size * sizeof(T));
  return true;
}

}  // namespace

std::optional<AqlmMatrix> read_matrix(const PartialWork& finished, const std::string& name,
                                      const AqlmScheme& scheme, Index out, Index in) {
  const std::optional<WeightStore> store = finished.read(name);
  if (!store) return std::nullopt;
  AqlmMatrix matrix;
  matrix.scheme = scheme;
  matrix.out = out;
  matrix.in = in;
  const Index codes = out * (in / scheme.in_group) * scheme.codebooks;
  const Index numbers = scheme.codebooks * scheme.codewords() * scheme.in_group;
  const auto error = store->metadata.find("error");
  if (error == store->metadata.end() ||
      !read(*store, "codes", DType::i16, static_cast<std::size_t>(codes), matrix.codes) ||
      !read(*store, "codebooks", DType::f16, static_cast<std::size_t>(numbers), matrix.codebooks) ||
      !read(*store, "scales", DType::f16, static_cast<std::size_t>(out), matrix.scales)) {
    return std::nullopt;
  }
  const std::string& text = error->second;
  std::from_chars(text.data(), text.data() + text.size(), matrix.error);
  return matrix;
}

Result<void> write_matrix(const PartialWork& finished, const std::string& name,
                          const AqlmMatrix& matrix) {
  const auto tensor = [](const char* part, const auto& values, DType dtype) {
    return NamedTensor{part, {values.data(), dtype, {std::ssize(values)}}};
  };
  return finished.write(
      name,
      {tensor("codes", matrix.codes, DType::i16), tensor("codebooks", matrix.codebooks, DType::f16),
       tensor("scales", matrix.scales, DType::f16)},
      {{"error", fmt::format("{}", matrix.error)}});
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
