#include "tools/aqlm/finished.hpp"

#include <fmt/format.h>

#include <charconv>

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

template <class T>
bool read(const WeightStore& piece, const char* name, DType dtype, Index size,
          std::vector<T>& values) {
  values.resize(static_cast<std::size_t>(size));
  return copy_tensor(piece, name, dtype, std::as_writable_bytes(std::span(values)));
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
  if (error == store->metadata.end() || !read(*store, "codes", DType::i16, codes, matrix.codes) ||
      !read(*store, "codebooks", DType::f16, numbers, matrix.codebooks) ||
      !read(*store, "scales", DType::f16, out, matrix.scales)) {
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
