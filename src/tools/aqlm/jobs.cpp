#include "tools/aqlm/jobs.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>

#include "core/bad_argument.hpp"
#include "tools/aqlm/kept.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

// Whether the block's matrix is one that AQLM is for: what is small, or steers the state, is not.
bool is_usual(const BlockMatrix& matrix) {
  return matrix.expert >= 0 || matrix.name == "in_proj" || matrix.name == "out_proj";
}

// A matrix that could be quantised, or an expert's part of a stack.
struct Candidate {
  std::string name;  // without ".weight"
  std::size_t layer = 0;
  std::string path;  // of the block
  BlockMatrix matrix;
  const TensorUse* use = nullptr;
};

// Every weight that the model runs as a linear map and no other layer shares: all but the
// embedding, of which rows are read, and routers, of which little errors change the experts.
std::vector<Candidate> list_candidates(const CheckpointPlan& plan) {
  const ModelSpec& spec = plan.config.spec;
  std::map<std::string_view, const TensorUse*> uses;  // by path
  for (const TensorUse& use : plan.plan.tensors) uses.emplace(use.path, &use);
  std::vector<Candidate> all;
  const auto add = [&](std::size_t layer, std::string path, BlockMatrix matrix) {
    const std::string dot = path.empty() ? "" : ".";
    const auto use = uses.find(path + dot + matrix.name + ".weight");
    if (use == uses.end()) return;
    std::string name = use->second->name;
    name.resize(name.size() - std::string_view(".weight").size());
    all.push_back({std::move(name), layer, std::move(path), std::move(matrix), use->second});
  };
  for (std::size_t layer = 0; layer < spec.layers.size(); ++layer) {
    for (const ResidualSpec& residual : spec.layers[layer].residuals) {
      const std::string path =
          fmt::format("{}.{}.{}", spec.layers_name, layer, residual.block_name);
      for (BlockMatrix& matrix : matrices(residual, spec.d_model())) {
        add(layer, path, std::move(matrix));
      }
    }
  }
  add(spec.layers.size(), "", {.name = spec.head_name});  // unless it is the embedding
  return all;
}

// A module's name with `*` for numbers: "backbone.layers.*.mixer.in_proj".
std::string pattern_of(std::string_view name) {
  std::string pattern;
  while (!name.empty()) {
    const std::size_t end = std::min(name.find('.'), name.size());
    const std::string_view part = name.substr(0, end);
    const bool is_number = part.find_first_not_of("0123456789") == std::string_view::npos;
    if (!pattern.empty()) pattern += '.';
    pattern += is_number ? std::string_view("*") : part;
    name.remove_prefix(std::min(end + 1, name.size()));
  }
  return pattern;
}

// That each pattern fits something that can be quantised.
Result<void> check_quantised(const CheckpointPlan& plan, const std::vector<Candidate>& candidates,
                             const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns) {
    const auto fits = [&](const std::string& name) { return is_named(name, {pattern}); };
    if (std::ranges::any_of(candidates, [&](const Candidate& candidate) {
          return fits(candidate.name + ".weight");
        })) {
      continue;
    }
    std::set<std::string> there;
    for (const Candidate& candidate : candidates) there.insert(pattern_of(candidate.name));
    const auto& entries = plan.checkpoint.weights.entries();
    const auto other = std::ranges::find_if(entries, [&](const auto& e) { return fits(e.first); });
    return bad_argument(
        "aqlm", "quantize",
        there.empty() ? "a model with linear maps"
                      : fmt::format("a pattern that fits one of {}", fmt::join(there, ", ")),
        other == entries.end() ? fmt::format("'{}', which fits none", pattern)
                               : fmt::format("'{}', which fits {}", pattern, other->first));
  }
  return {};
}

}  // namespace

MatrixPlace Job::place(Index i) const {
  const BlockMatrix& matrix = each[static_cast<std::size_t>(i)];
  // A mixer's last matrix, and a network's.
  const bool makes_output =
      matrix.input == Site::mixed || (matrix.input == Site::hidden && matrix.expert < 0);
  return {path, matrix.input, matrix.expert, in, makes_output};
}

Result<std::vector<Job>> list_jobs(const CheckpointPlan& plan, const AqlmOptions& options) {
  std::vector<Candidate> candidates = list_candidates(plan);
  KRAIT_RETURN_IF_ERROR(check_quantised(plan, candidates, options.quantize));
  std::vector<Job> jobs;
  std::map<std::string, std::size_t> stacks;
  bool has_any = false;
  for (Candidate& candidate : candidates) {
    const std::string tensor = candidate.name + ".weight";
    if (!(is_usual(candidate.matrix) && !candidate.path.empty()) &&
        !is_named(tensor, options.quantize)) {
      continue;
    }
    has_any = true;
    if (is_named(tensor, options.keep)) continue;
    if (candidate.matrix.is_stacked) {
      const auto [known, is_new] = stacks.emplace(candidate.name, jobs.size());
      if (!is_new) {
        jobs[known->second].each.push_back(std::move(candidate.matrix));
        continue;
      }
    }
    const Shape& shape = candidate.use->shape;
    Job job;
    job.name = std::move(candidate.name);
    job.layer = candidate.layer;
    job.path = std::move(candidate.path);
    job.out = shape[shape.rank() - 2];
    job.in = shape[shape.rank() - 1];
    job.each.push_back(std::move(candidate.matrix));
    if (job.in % options.scheme.in_group != 0) {
      return bad_argument("aqlm", job.name,
                          fmt::format("inputs in groups of {}", options.scheme.in_group),
                          fmt::format("{} inputs", job.in));
    }
    jobs.push_back(std::move(job));
  }
  if (!jobs.empty()) return jobs;
  // Either patterns keep them all, or the model has none.
  return has_any ? bad_argument("aqlm", "keep", "a matrix to quantise", "none")
                 : bad_argument("aqlm", "model", "in_proj or out_proj of a mixer, or experts",
                                fmt::format("none ({})", plan.checkpoint.path));
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
