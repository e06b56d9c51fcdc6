#include "krait/modules/block.hpp"

#include <fmt/format.h>

#include "krait/modules/block_spec.hpp"

namespace krait {
inline namespace v0_1 {

Block::~Block() = default;

void BlockContext::call_hooks(Site site, MatrixView<float> values) const noexcept {
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const SequenceRows& rows = sequences[i];
    if (rows.hook == nullptr) continue;
    rows.hook->at({.site = site,
                   .layer = place.layer,
                   .path = place.path,
                   .sequence = rows.item,
                   .position = rows.position,
                   .again = again},
                  values.rows_from(rows.first, rows.count));
  }
}

void BlockContext::call_hook(Site site, std::span<float> row, Index t,
                             Index expert) const noexcept {
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const SequenceRows& rows = sequences[i];
    if (t < rows.first || t >= rows.first + rows.count || rows.hook == nullptr) continue;
    rows.hook->at({.site = site,
                   .layer = place.layer,
                   .path = place.path,
                   .expert = expert,
                   .sequence = rows.item,
                   .position = rows.position + t - rows.first,
                   .again = again},
                  {row.data(), 1, static_cast<Index>(row.size())});
  }
}

void forward_by_tokens(const Block& block, const BlockContext& ctx) noexcept {
  for_each_part(ctx.sequences, [&](const SequenceRows& all) {
    for (Index t = 0; t < all.count; ++t) {
      SequenceRows rows = all.part(t);
      rows.take({0, ctx.state_floats}, {0, ctx.state_floats});
      BlockContext one = ctx;
      one.x = ctx.x.rows_from(rows.first, 1);
      rows.first = 0;
      rows.origin = nullptr;
      rows.is_beside = false;
      one.sequences = {&rows, 1};
      one.has_pairs = false;
      block.forward(one);
    }
  });
}

std::string spec_number(float value) { return fmt::to_string(value); }

Error bad_spec(std::string_view what, std::string_view expected, std::string_view found) {
  return {ErrorCode::bad_config,
          fmt::format("[spec] {}: expected {}, found {}", what, expected, found)};
}

Result<void> check_extent(std::string_view what, Index value) {
  if (value < 1 || value > largest_extent) {
    return bad_spec(what, fmt::format("1 to {}", largest_extent), fmt::to_string(value));
  }
  return {};
}

}  // namespace v0_1
}  // namespace krait
