#include "krait/training/block_gradient.hpp"

#include <fmt/format.h>

#include "training/blocks.hpp"

namespace krait {
inline namespace v0_1 {

BlockGradient::~BlockGradient() = default;

Result<std::unique_ptr<const BlockGradient>> make_block_gradient(const BlockSpec& block,
                                                                 Index d_model) {
  return std::visit(
      [&](const auto& spec) -> Result<std::unique_ptr<const BlockGradient>> {
        KRAIT_RETURN_IF_ERROR(spec.validate(d_model));
        if constexpr (requires { training::gradient_of(spec, d_model); }) {
          return training::gradient_of(spec, d_model);
        } else {
          return Error{ErrorCode::unsupported,
                       fmt::format("[training] block: expected one that can be trained, found {} "
                                   "(adapters of other blocks need its backward pass too)",
                                   spec.to_string(d_model))};
        }
      },
      block);
}

}  // namespace v0_1
}  // namespace krait
