// aqlm: groups of weights that are sums of codewords (kernels/aqlm.hpp), as checkpoints of Hugging
// Face's transformers have them. Codes of 4 and 8 bits are multiplied by tables of rounded
// products; aqlm-exact multiplies with the decoded weights.

#include "krait/weights/aqlm.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "core/parallel_first.hpp"
#include "krait/kernels/aqlm.hpp"
#include "krait/weights/convert.hpp"
#include "weights/forms/forms.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using kernels::AqlmScheme;
using kernels::AqlmTableWeights;
using kernels::AqlmWeights;

class ExactMatrix final : public WeightMatrix {
 public:
  explicit ExactMatrix(const AqlmWeights& W) noexcept
      : WeightMatrix(W.rows, W.cols, W.bytes()), W_(W) {}

  void product(const ProductContext& ctx, const ProductArgs& args) const noexcept override {
    kernels::product(ctx, W_, args);
  }

  void row(Index r, std::span<float> out) const noexcept override {
    kernels::decode_aqlm(W_, {r, r + 1}, out.data());
  }

 private:
  AqlmWeights W_;
};

class TableMatrix final : public WeightMatrix {
 public:
  explicit TableMatrix(const AqlmTableWeights& W) noexcept
      : WeightMatrix(W.rows, W.cols, W.bytes()), W_(W) {}

  void product(const ProductContext& ctx, const ProductArgs& args) const noexcept override {
    kernels::product(ctx, W_, args);
  }

  void row(Index r, std::span<float> out) const noexcept override {
    kernels::decode_aqlm_row(W_, r, out);
  }

 private:
  AqlmTableWeights W_;
};

// What the checkpoint has of a matrix, or of each of a stack.
struct StoredParts {
  AqlmScheme scheme;
  WeightPart codes;
  WeightPart codebooks;
  Shape scales;
  bool all_codes_exist;  // whatever their bits
};

std::string describe(const TensorView& tensor) {
  return fmt::format("{} {}", to_string(tensor.dtype), to_string(tensor.shape));
}

// The sizes of the codebooks [codebooks, 2^bits, out group, in group] behind `before` other
// extents; none if they are of another shape.
std::optional<AqlmScheme> scheme_of(const Shape& codebooks, int before) noexcept {
  if (codebooks.rank() != before + 4) return std::nullopt;
  const Index count = codebooks[before];
  const Index codewords = codebooks[before + 1];
  const AqlmScheme scheme{
      .codebooks = count,
      .bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(codewords))) - 1,
      .in_group = codebooks[before + 3],
      .out_group = codebooks[before + 2]};
  const bool is_right = count > 0 && codewords >= 2 && codewords <= Index{1} << 16 &&
                        scheme.codewords() == codewords && scheme.in_group > 0 &&
                        scheme.out_group > 0;
  return is_right ? std::optional(scheme) : std::nullopt;
}

Result<StoredParts> stored_parts(const WeightScope& weights, const MatrixShape& shape) {
  const TensorView& codebooks = *weights.stored("codebooks");
  const TensorView& scales = *weights.stored("scales");
  const auto refuse = [&](ErrorCode code, const char* part, const std::string& expected,
                          const std::string& found) -> Error {
    return {code,
            fmt::format("[build] {}: expected {}, found {}", weights.name(part), expected, found)};
  };
  for (const char* part : {"codebooks", "scales"}) {
    const TensorView& tensor = *weights.stored(part);
    if (!is_float(tensor.dtype)) {
      return refuse(ErrorCode::dtype_mismatch, part, "f16, bf16 or f32", describe(tensor));
    }
  }
  const auto scheme = scheme_of(codebooks.shape, shape.count ? 1 : 0);
  if (!scheme) {
    return refuse(ErrorCode::shape_mismatch, "codebooks",
                  fmt::format("{}[codebooks, 2^bits up to 2^16, out group, in group]",
                              shape.count ? "[matrices] × " : ""),
                  describe(codebooks));
  }
  if (shape.out % scheme->out_group != 0 || shape.in % scheme->in_group != 0) {
    return refuse(ErrorCode::shape_mismatch, "codebooks",
                  fmt::format("groups that divide [{},{}]", shape.out, shape.in),
                  fmt::format("groups of {} × {}", scheme->out_group, scheme->in_group));
  }
  const Index blocks = shape.out / scheme->out_group;
  const DType code_type = scheme->bits <= 8 ? DType::i8 : DType::i16;
  StoredParts parts{
      .scheme = *scheme,
      .codes = {"codes", code_type,
                shape.tensor({blocks, shape.in / scheme->in_group, scheme->codebooks})},
      .codebooks = {"codebooks", codebooks.dtype,
                    shape.tensor({scheme->codebooks, scheme->codewords(), scheme->out_group,
                                  scheme->in_group})},
      .scales = shape.tensor({blocks, 1, 1, 1}),
      .all_codes_exist = scheme->bits == 8 * bytes_of(code_type)};
  if (!(codebooks.shape == parts.codebooks.shape)) {
    return refuse(ErrorCode::shape_mismatch, "codebooks", to_string(parts.codebooks.shape),
                  describe(codebooks));
  }
  if (!(scales.shape == parts.scales)) {
    return refuse(ErrorCode::shape_mismatch, "scales", to_string(parts.scales), describe(scales));
  }
  if (weights.materialize()) {
    for (const char* part : {"codebooks", "scales"}) {
      if (const auto at = find_not_finite(*weights.stored(part))) {
        return refuse(ErrorCode::bad_format, part, "finite numbers",
                      fmt::format("another (element {})", *at));
      }
    }
  }
  return parts;
}

// The first code that is beyond the codebook, in the order of the file.
Result<void> check_codes(const WeightScope& weights, const StoredParts& parts,
                         const TensorView& codes) {
  if (parts.all_codes_exist || !weights.materialize()) return {};
  const Index half = parts.scheme.codewords() / 2;
  const auto value = [&](Index i) -> Index {
    if (codes.dtype == DType::i8) return static_cast<const std::int8_t*>(codes.data)[i];
    return static_cast<const std::int16_t*>(codes.data)[i];
  };
  const auto first_bad = [&](Range range) -> std::optional<Index> {
    Index i = range.begin;
    while (i < range.end && value(i) >= -half && value(i) < half) ++i;
    return i < range.end ? std::optional(i) : std::nullopt;
  };
  const auto found = parallel_first(weights.options().converting_threads(), codes.size(),
                                    Index{1} << 16, first_bad);
  if (!found) return {};
  return Error{ErrorCode::bad_format,
               fmt::format("[build] {}: expected codes from {} to {}, found {} (element {})",
                           weights.name("codes"), -half, half - 1, value(*found), *found)};
}

// Numbers of codebooks that are worth widening: beyond that they would push others out of the L1
// cache.
constexpr Index widened_bytes = Index{16} << 10;

bool has_negative_zero(const TensorView& codebooks, const AqlmScheme& scheme,
                       Index matrices) noexcept {
  const auto* numbers = static_cast<const f16*>(codebooks.data);
  const Index of_first = scheme.codewords() * scheme.codeword();
  for (Index i = 0; i < matrices; ++i) {
    const f16* first = numbers + i * scheme.codebooks * of_first;
    for (Index n = 0; n < of_first; ++n) {
      if (first[n].bits == 0x8000) return true;
    }
  }
  return false;
}

const void* part_of(const void* data, Index bytes, Index i) noexcept {
  return data == nullptr ? nullptr : static_cast<const std::byte*>(data) + i * bytes;
}

class AqlmForm final : public WeightForm {
 public:
  constexpr AqlmForm(std::string_view name, bool by_tables) noexcept
      : name_(name), by_tables_(by_tables) {}

  std::string_view name() const noexcept override { return name_; }

  // Codebooks nobody else has; a form that the metadata names and krait does not know might.
  bool recognises(const WeightScope& weights) const override {
    if (!by_tables_ || weights.stored("codes") == nullptr ||
        weights.stored("codebooks") == nullptr || weights.stored("scales") == nullptr) {
      return false;
    }
    const std::string_view form = weights.stored_form();
    return form.empty() || find_form(form) != nullptr;
  }

  Result<Matrices> bind(const WeightScope& weights, Bookings& bookings,
                        const MatrixShape& shape) const override {
    KRAIT_ASSIGN_OR_RETURN(const StoredParts parts, stored_parts(weights, shape));
    KRAIT_ASSIGN_OR_RETURN(const auto scales, weights.get<float>("scales", parts.scales));
    if (by_tables_ && AqlmTableWeights::takes(parts.scheme, shape.out)) {
      return bind_tables(weights, bookings, shape, parts, scales.data());
    }
    return bind_exact(weights, bookings, shape, parts, scales.data());
  }

  Result<Matrices> make(const WeightScope& weights, Bookings& bookings,
                        const MatrixShape& shape) const override {
    const WeightForm* stored = stored_form(weights);
    if (stored == &aqlm_form()) return bind(weights, bookings, shape);
    // Codes are fitted, not made at load: what has none stays as it is.
    if (stored != nullptr) return stored->bind(weights, bookings, shape);
    return Error{
        ErrorCode::unsupported,
        fmt::format("[build] {}: expected codes, codebooks and scales to hold in {}, found "
                    "none",
                    weights.name("weight"), name_)};
  }

 private:
  Result<Matrices> bind_exact(const WeightScope& weights, Bookings& bookings,
                              const MatrixShape& shape, const StoredParts& parts,
                              const float* scales) const {
    bookings.workspace(kernels::product_aqlm_workspace(shape.in));
    const AqlmScheme& scheme = parts.scheme;
    const Index numbers = scheme.codebooks * scheme.codewords() * scheme.codeword();
    // Sums begin with +0, which only matters to a codeword's -0: where the codebooks are used as
    // they lie, the first must have none.
    bool is_in_place = parts.codebooks.dtype == DType::f16 && numbers * 4 > widened_bytes;
    if (is_in_place && weights.materialize()) {
      is_in_place = !has_negative_zero(*weights.stored("codebooks"), scheme, shape.matrices());
    }
    std::vector<WeightPart> held = {parts.codes};
    if (is_in_place) held.push_back(parts.codebooks);
    KRAIT_ASSIGN_OR_RETURN(const auto found,
                           weights.stored_parts(name_, shape.tensor({shape.out, shape.in}), held));
    KRAIT_RETURN_IF_ERROR(check_codes(weights, parts, found[0]));
    AqlmWeights W{.scheme = scheme,
                  .code_type = parts.codes.dtype,
                  .codebook_type = is_in_place ? DType::f16 : DType::f32,
                  .rows = shape.out,
                  .cols = shape.in};
    const void* codebooks = nullptr;
    if (is_in_place) {
      codebooks = found[1].data;
    } else {
      KRAIT_ASSIGN_OR_RETURN(
          const auto widened,
          weights.derive("codebooks", parts.codebooks.shape, shape.matrices() * numbers,
                         [](std::span<const float> source, std::span<float> result) {
                           for (std::size_t i = 0; i < source.size(); ++i) {
                             result[i] = 0.0F + source[i];
                           }
                         }));
      codebooks = widened.data();
    }
    const Index blocks = shape.out / scheme.out_group;
    const Index code_bytes = blocks * W.groups() * scheme.codebooks * bytes_of(W.code_type);
    Matrices matrices;
    for (Index i = 0; i < shape.matrices(); ++i) {
      W.codes = part_of(found[0].data, code_bytes, i);
      W.codebooks = part_of(codebooks, numbers * bytes_of(W.codebook_type), i);
      W.scales = static_cast<const float*>(part_of(scales, blocks * Index{sizeof(float)}, i));
      matrices.push_back(std::make_shared<ExactMatrix>(W));
    }
    return matrices;
  }

  Result<Matrices> bind_tables(const WeightScope& weights, Bookings& bookings,
                               const MatrixShape& shape, const StoredParts& parts,
                               const float* scales) const {
    const AqlmScheme& scheme = parts.scheme;
    AqlmTableWeights W{.scheme = scheme, .rows = shape.out, .cols = shape.in};
    bookings.workspace(kernels::product_aqlm_workspace(W));
    const Index held_bytes = W.row_blocks() * W.blocks() * W.block_bytes();
    const Index stored_bytes = shape.out * W.row_codes();
    const WeightPart held{"codes", DType::u8,
                          shape.tensor({W.row_blocks(), W.blocks(), W.block_bytes()})};
    const auto rearrange = [&](const TensorView& codes, std::byte* data) -> Result<void> {
      KRAIT_RETURN_IF_ERROR(check_codes(weights, parts, codes));
      Executor& executor = weights.options().converting_threads();
      for (Index i = 0; i < shape.matrices(); ++i) {
        const auto* source = static_cast<const std::int8_t*>(part_of(codes.data, stored_bytes, i));
        auto* result = reinterpret_cast<std::uint8_t*>(data) + i * held_bytes;
        parallel_for(executor, W.row_blocks(), 1,
                     [&](Range blocks) { kernels::pack_aqlm_codes(W, source, blocks, result); });
      }
      return {};
    };
    KRAIT_ASSIGN_OR_RETURN(const TensorView codes,
                           weights.rearranged_part(name_, shape.tensor({shape.out, shape.in}),
                                                   parts.codes, held, rearrange));
    const Index numbers = scheme.codebooks * W.codewords() * scheme.in_group;
    KRAIT_ASSIGN_OR_RETURN(
        const auto codebooks,
        weights.derive("codebooks", parts.codebooks.shape, shape.matrices() * numbers,
                       [&](std::span<const float> source, std::span<float> result) {
                         transpose(W.codewords(), scheme.in_group, source, result);
                       }));
    Matrices matrices;
    for (Index i = 0; i < shape.matrices(); ++i) {
      W.codes = static_cast<const std::uint8_t*>(part_of(codes.data, held_bytes, i));
      W.codebooks =
          static_cast<const float*>(part_of(codebooks.data(), numbers * Index{sizeof(float)}, i));
      W.scales = static_cast<const float*>(part_of(scales, shape.out * Index{sizeof(float)}, i));
      matrices.push_back(std::make_shared<TableMatrix>(W));
    }
    return matrices;
  }

  // Codebooks [codewords, g] one after the other, to [g, codewords].
  static void transpose(Index codewords, Index g, std::span<const float> source,
                        std::span<float> result) {
    for (Index at = 0; at < std::ssize(source); ++at) {
      const Index codebook = at / (codewords * g);
      const Index word = at / g % codewords;
      const Index to = (codebook * g + at % g) * codewords + word;
      result[static_cast<std::size_t>(to)] = source[static_cast<std::size_t>(at)];
    }
  }

  std::string_view name_;
  bool by_tables_;
};

}  // namespace

Result<void> check_aqlm_config(const WeightStore& weights, const AqlmConfig& config) {
  std::optional<Error> first_other;
  for (const auto& [name, entry] : weights.entries()) {
    if (!std::string_view(name).ends_with(".codebooks")) continue;
    const Shape& shape = entry.tensor.shape;
    const auto scheme = scheme_of(shape, std::max(0, shape.rank() - 4));
    if (scheme && scheme->codebooks == config.num_codebooks &&
        scheme->bits == config.nbits_per_codebook && scheme->out_group == config.out_group_size &&
        scheme->in_group == config.in_group_size) {
      return {};
    }
    if (first_other) continue;
    first_other = {
        ErrorCode::bad_format,
        fmt::format("[build] {}: expected [{},2^{},{},{}] as quantization_config says, found {}",
                    name, config.num_codebooks, config.nbits_per_codebook, config.out_group_size,
                    config.in_group_size, describe(entry.tensor))};
  }
  if (first_other) return *first_other;
  return Error{ErrorCode::bad_format,
               "[build] quantization_config: expected matrices of the method aqlm, found none"};
}

const WeightForm& aqlm_form() noexcept {
  static const AqlmForm form("aqlm", true);
  return form;
}

const WeightForm& aqlm_exact_form() noexcept {
  static const AqlmForm form("aqlm-exact", false);
  return form;
}

}  // namespace v0_1
}  // namespace krait
