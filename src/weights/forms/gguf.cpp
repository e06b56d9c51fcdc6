// The block formats of GGUF files, as they lie there: products decode them while they read, and
// take activations as they are. What is q8 or q4 in another order (q8_0, q4_0) becomes that form,
// whose products round activations, where that one is asked for.
//
// A matrix is one part, `blocks` [out, blocks of a row, bytes of a block]; the metadata names its
// format under the key of forms ("krait.form:layers.3.mixer.in_proj": "q4_k").

#include <fmt/format.h>

#include "core/block_format.hpp"
#include "kernels/gguf_blocks.hpp"
#include "weights/forms/forms.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using kernels::BlockWeights;
using kernels::GroupedForm;
using kernels::GroupedWeights;

class BlockMatrix final : public WeightMatrix {
 public:
  explicit BlockMatrix(const BlockWeights& W) noexcept
      : WeightMatrix(W.rows, W.cols, W.rows * W.row_bytes()), W_(W) {}

  void product(const ProductContext& ctx, const ProductArgs& args) const noexcept override {
    kernels::product(ctx, W_, args);
  }

  void row(Index r, std::span<float> out) const noexcept override {
    kernels::decode_blocks(W_.format, W_.data + r * W_.row_bytes(), out);
  }

 private:
  BlockWeights W_;
};

// Of q8_0 and q4_0.
constexpr GroupedForm grouped_form(BlockFormat format) noexcept {
  return format == BlockFormat::q8_0 ? GroupedForm::q8 : GroupedForm::q4;
}

const std::byte* bytes_from(const void* data, Index offset) noexcept {
  return data == nullptr ? nullptr : static_cast<const std::byte*>(data) + offset;
}

class GgufForm final : public WeightForm {
 public:
  std::string_view name() const noexcept override { return "gguf"; }

  bool recognises(const WeightScope& weights) const override {
    return find_block_format(weights.stored_form()).has_value() && weights.contains("blocks");
  }

  Result<Matrices> bind(const WeightScope& weights, Bookings& bookings,
                        const MatrixShape& shape) const override {
    const BlockFormat format = *find_block_format(weights.stored_form());
    const BlockFormatInfo& info = info_of(format);
    if (shape.in % info.elements != 0) {
      return Error{ErrorCode::shape_mismatch,
                   fmt::format("[build] {}: expected {} columns, found blocks of {} (form {})",
                               weights.name("blocks"), shape.in, info.elements, info.name)};
    }
    const WeightPart part{"blocks", DType::u8,
                          shape.tensor({shape.out, shape.in / info.elements, info.bytes})};
    const std::string_view wanted = weights.options().form;
    if (kernels::is_grouped(format) && wanted == to_string(grouped_form(format))) {
      return bind_grouped(weights, bookings, shape, format, part);
    }
    bookings.workspace(kernels::product_blocks_workspace(shape.in));
    KRAIT_ASSIGN_OR_RETURN(
        const auto parts,
        weights.stored_parts(info.name, shape.tensor({shape.out, shape.in}), {part}));
    Matrices matrices;
    for (Index i = 0; i < shape.matrices(); ++i) {
      matrices.push_back(std::make_shared<BlockMatrix>(blocks_of(format, parts[0].data, shape, i)));
    }
    return matrices;
  }

  // Nothing is made in these formats: what is stored otherwise stays as it is.
  Result<Matrices> make(const WeightScope& weights, Bookings& bookings,
                        const MatrixShape& shape) const override {
    const WeightForm* stored = stored_form(weights);
    return (stored == nullptr ? &f32_form() : stored)->bind(weights, bookings, shape);
  }

 private:
  // Matrix i of the stack.
  static BlockWeights blocks_of(BlockFormat format, const void* data, const MatrixShape& shape,
                                Index i) noexcept {
    BlockWeights W{.format = format, .rows = shape.out, .cols = shape.in};
    W.data = bytes_from(data, i * W.rows * W.row_bytes());
    return W;
  }

  // The same values in q8 or q4: codes, then scales, in one part.
  static Result<Matrices> bind_grouped(const WeightScope& weights, Bookings& bookings,
                                       const MatrixShape& shape, BlockFormat format,
                                       const WeightPart& stored) {
    GroupedWeights W{.form = grouped_form(format), .rows = shape.out, .cols = shape.in};
    const Index code_bytes = W.row_blocks() * W.groups() * block_bytes(W.form);
    bookings.workspace(kernels::product_grouped_workspace(shape.in));
    const auto regroup = [&](const TensorView& blocks, std::byte* data) -> Result<void> {
      Executor& executor = weights.options().converting_threads();
      for (Index i = 0; i < shape.matrices(); ++i) {
        const BlockWeights from = blocks_of(format, blocks.data, shape, i);
        std::byte* codes = data + i * W.bytes();
        parallel_for(executor, W.row_blocks(), 1, [&](Range some) {
          kernels::regroup_blocks(from, some, reinterpret_cast<std::uint8_t*>(codes),
                                  reinterpret_cast<f16*>(codes + code_bytes));
        });
      }
      return {};
    };
    KRAIT_ASSIGN_OR_RETURN(
        const TensorView held,
        weights.rearranged_part(to_string(W.form), shape.tensor({shape.out, shape.in}), stored,
                                {"codes", DType::u8, shape.tensor({W.bytes()})}, regroup));
    Matrices matrices;
    for (Index i = 0; i < shape.matrices(); ++i) {
      W.codes = reinterpret_cast<const std::uint8_t*>(bytes_from(held.data, i * W.bytes()));
      W.scales = reinterpret_cast<const f16*>(bytes_from(held.data, i * W.bytes() + code_bytes));
      matrices.push_back(grouped_matrix(W));
    }
    return matrices;
  }
};

}  // namespace

const WeightForm& gguf_form() noexcept {
  static const GgufForm form;
  return form;
}

}  // namespace v0_1
}  // namespace krait
