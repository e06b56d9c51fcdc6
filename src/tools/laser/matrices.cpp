// Which matrices can be cut, and how users call them.

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>

#include "krait/io/printable.hpp"
#include "tools/laser/cutter.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using laser::bad;
using laser::label;

constexpr std::string_view weight = ".weight";

// "in_proj" -> "in"; "experts.3.up_proj" -> "up".
std::string stem_of(std::string_view name) {
  name = name.substr(name.rfind('.') + 1);
  constexpr std::string_view proj = "_proj";
  if (name.ends_with(proj)) name.remove_suffix(proj.size());
  return std::string(name);
}

// The matrix and its parts, as far as they are tensors of floats.
void add(const TensorUse& use, Index layer, const BlockMatrix& matrix,
         std::vector<LaserMatrix>& all) {
  const Shape& shape = use.shape;
  const int last = shape.rank() - 1;
  LaserMatrix whole{.layer = layer,
                    .tensor = use.name.substr(0, use.name.size() - weight.size()),
                    .items = matrix.is_stacked ? shape[0] : 1,
                    .is_stack = matrix.is_stacked,
                    .item = matrix.is_stacked ? matrix.expert : 0,
                    .item_rows = shape[last - 1],
                    .rows = shape[last - 1],
                    .cols = shape[last]};
  const std::string stem = stem_of(matrix.name);
  const std::string expert = matrix.expert < 0 ? "" : fmt::format("[{}]", matrix.expert);
  // "x" alone would say little.
  whole.name = (stem.size() > 1 ? stem : stem + "_proj") + expert;
  all.push_back(whole);
  for (const BlockMatrix::Rows& rows : matrix.rows) {
    LaserMatrix part = whole;
    part.name = fmt::format("{}_{}{}", stem, rows.name, expert);
    part.first_row = rows.first;
    part.rows = rows.count;
    all.push_back(part);
  }
}

// A mixture's router is the parameter of its block that has a row [d_model] for each expert. Under
// which name, the block alone knows.
const TensorUse* router_of(const CheckpointPlan& plan, const ResidualSpec& residual,
                           std::string_view block) {
  const Index experts =
      std::visit([](const auto& spec) { return expert_count(spec); }, residual.block);
  const Shape shape{experts, plan.config.spec.d_model()};
  const auto& tensors = plan.plan.tensors;
  const auto router = std::ranges::find_if(tensors, [&](const TensorUse& use) {
    return use.role == TensorRole::parameter && use.shape == shape && use.path.starts_with(block) &&
           use.path.ends_with(weight) && use.name.ends_with(weight);
  });
  return experts == 0 || router == tensors.end() ? nullptr : &*router;
}

std::string names_of(const std::vector<LaserMatrix>& matrices, Index layer) {
  std::string names;
  int shown = 0;
  for (const LaserMatrix& matrix : matrices) {
    if (matrix.layer != layer) continue;
    if (++shown > 24) return names + ", …";
    names += (names.empty() ? "" : ", ") + matrix.name;
  }
  return names;
}

Result<Index> rank_of(std::string_view text, const LaserMatrix& matrix, std::string_view all) {
  const Index most = matrix.largest_rank();
  const auto refuse = [&] {
    return bad("set", fmt::format("a rank from 1 to {} or a fraction of it, such as 0.5", most),
               fmt::format("'{}'", printable(all, 60)));
  };
  const char* const end = text.data() + text.size();
  Index rank = 0;
  if (text.find('.') == text.npos) {
    const auto [stop, error] = std::from_chars(text.data(), end, rank);
    if (error != std::errc() || stop != end) return refuse();
  } else {
    double fraction = 0.0;
    const auto [stop, error] =
        std::from_chars(text.data(), end, fraction, std::chars_format::fixed);
    if (error != std::errc() || stop != end || !(fraction >= 0.0 && fraction <= 1.0)) {
      return refuse();
    }
    rank = static_cast<Index>(fraction * static_cast<double>(most));
  }
  if (rank < 1 || rank > most) return refuse();
  return rank;
}

}  // namespace

Error laser::bad(std::string_view what, std::string_view expected, std::string_view found) {
  return {ErrorCode::bad_argument,
          fmt::format("[laser] {}: expected {}, found {}", what, expected, found)};
}

std::string laser::label(const LaserMatrix& matrix) {
  return matrix.layer < 0 ? matrix.name : fmt::format("{}:{}", matrix.layer, matrix.name);
}

std::string laser::all_names(const std::vector<LaserMatrix>& matrices) {
  std::vector<LaserMatrix> once;
  for (LaserMatrix matrix : matrices) {
    const bool is_known = std::ranges::any_of(
        once, [&](const LaserMatrix& other) { return other.name == matrix.name; });
    if (is_known) continue;
    // Those of no layer first, which many experts would push out.
    const auto at = matrix.layer < 0 ? once.begin() : once.end();
    matrix.layer = 0;
    once.insert(at, std::move(matrix));
  }
  return names_of(once, 0);
}

std::vector<LaserMatrix> laser_matrices(const CheckpointPlan& plan) {
  const ModelSpec& spec = plan.config.spec;
  std::map<std::string_view, const TensorUse*> uses;  // by path
  for (const TensorUse& use : plan.plan.tensors) {
    if (use.role == TensorRole::matrix) uses.emplace(use.path, &use);
  }
  const auto find = [&](const std::string& path) -> const TensorUse* {
    const auto use = uses.find(path + std::string(weight));
    return use == uses.end() ? nullptr : use->second;
  };
  std::vector<LaserMatrix> all;
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const auto layer = static_cast<Index>(i);
    const std::size_t first = all.size();
    std::vector<const std::string*> blocks;  // of each
    for (const ResidualSpec& residual : spec.layers[i].residuals) {
      const std::string block =
          fmt::format("{}.{}.{}.", spec.layers_name, layer, residual.block_name);
      const std::vector<BlockMatrix> known = matrices(residual, spec.d_model());
      const TensorUse* router = known.empty() ? nullptr : router_of(plan, residual, block);
      if (router != nullptr) {
        add(*router, layer, {.name = "router"}, all);
        all.back().is_dense = true;
      }
      for (const BlockMatrix& matrix : known) {
        const TensorUse* use = find(block + matrix.name);
        if (use != nullptr) add(*use, layer, matrix, all);
      }
      blocks.resize(all.size() - first, &residual.block_name);
    }
    std::map<std::string, int> counts;
    for (std::size_t k = first; k < all.size(); ++k) ++counts[all[k].name];
    for (std::size_t k = first; k < all.size(); ++k) {
      if (counts[all[k].name] > 1) all[k].name = *blocks[k - first] + "." + all[k].name;
    }
  }
  for (const auto& [path, name] :
       {std::pair(spec.embedding_name, "emb"), std::pair(spec.head_name, "head")}) {
    const TensorUse* use = find(path);
    if (use == nullptr) continue;
    add(*use, -1, {.name = name}, all);
  }
  return all;
}

std::string to_string(const LaserCut& cut) {
  return cut.layer < 0 ? fmt::format("{}:{}", cut.matrix, cut.rank)
                       : fmt::format("{}:{}:{}", cut.layer, cut.matrix, cut.rank);
}

Result<LaserCut> parse_laser_cut(std::string_view text, const std::vector<LaserMatrix>& matrices) {
  const auto refuse = [&](std::string_view expected) {
    return bad("set", expected, fmt::format("'{}'", printable(text, 60)));
  };
  const std::size_t last = text.rfind(':');
  if (last == text.npos || last == 0) return refuse("LAYER:MATRIX:RANK, such as 3:in_x:0.25");
  std::string_view name = text.substr(0, last);
  Index layer = -1;
  if (const std::size_t colon = name.find(':'); colon != name.npos) {
    const char* const end = name.data() + colon;
    const auto [stop, error] = std::from_chars(name.data(), end, layer);
    if (error != std::errc() || stop != end) return refuse("LAYER:MATRIX:RANK with a number LAYER");
    Index layers = 0;
    for (const LaserMatrix& matrix : matrices) layers = std::max(layers, matrix.layer + 1);
    if (layer < 0 || layer >= layers)
      return refuse(fmt::format("a layer from 0 to {}", layers - 1));
    name.remove_prefix(colon + 1);
  }
  const auto find = [&](std::string_view wanted) {
    return std::ranges::find_if(matrices, [&](const LaserMatrix& matrix) {
      return matrix.layer == layer && matrix.name == wanted;
    });
  };
  auto matrix = find(name);
  // A tied head is the embedding.
  if (matrix == matrices.end() && layer < 0 && name == "head") matrix = find("emb");
  if (matrix == matrices.end()) {
    return refuse(layer < 0 ? fmt::format("LAYER:MATRIX:RANK, or one of {} in front of a rank",
                                          names_of(matrices, layer))
                            : fmt::format("one of the matrices {}", names_of(matrices, layer)));
  }
  KRAIT_ASSIGN_OR_RETURN(const Index rank, rank_of(text.substr(last + 1), *matrix, text));
  return LaserCut{layer, matrix->name, rank};
}

}  // namespace v0_1
}  // namespace krait
