#include "krait/decoding/drugs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include "core/bad_argument.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr Index most_layers = 2048;  // of the counter of random numbers

// The drug of a hook's site, if any.
std::size_t drug_of(Site site) noexcept {
  switch (site) {
    case Site::input:
    case Site::expert:
      return drug_letters.find('H');
    case Site::conv:
      return drug_letters.find('X');
    case Site::scan_input:
    case Site::cached_value:
      return drug_letters.find('V');
    case Site::B:
      return drug_letters.find('B');
    case Site::dt:
      return drug_letters.find('D');
    case Site::C:
    case Site::unrotated:
      return drug_letters.find('Q');
    case Site::state_read:
      return drug_letters.find('S');
    case Site::state:
      return drug_letters.find('W');
    case Site::scan:
      return drug_letters.find('A');
    case Site::gate:
      return drug_letters.find('Z');
    case Site::mixed:
      return drug_letters.find('O');
    case Site::cached_key:
      return drug_letters.find('K');
    default:
      return drug_letters.npos;
  }
}

bool is_grouped(DrugSite drug) noexcept {
  return std::string_view("HXVAZO").find(drug_letters[static_cast<std::size_t>(drug)]) !=
         std::string_view::npos;
}

// Whether a call at the site has the vectors of one token.
bool is_of_one_token(Site site) noexcept { return site >= Site::state; }

Result<void> check(const DrugPlan& plan, Index layers) {
  if (plan.group < 0)
    return bad_argument("drugs", "group", "a number of at least 0", fmt::to_string(plan.group));
  if (plan.state == DrugState::shower && plan.shower < 1) {
    return bad_argument("drugs", "shower", "at least 1 pass", fmt::to_string(plan.shower));
  }
  if (layers > most_layers) {
    return bad_argument("drugs", "model", fmt::format("at most {} layers", most_layers),
                        fmt::to_string(layers));
  }
  for (std::size_t i = 0; i < plan.doses.size(); ++i) {
    const Dose& dose = plan.doses[i];
    const char letter = drug_letters[static_cast<std::size_t>(dose.site)];
    if (!std::isfinite(dose.theta) || dose.theta < 0.0) {
      return bad_argument("drugs", fmt::format("{} theta", letter), "a finite number of at least 0",
                          fmt::to_string(dose.theta));
    }
    for (std::size_t k = 0; k < dose.shape.size(); ++k) {
      const DosePoint& point = dose.shape[k];
      if (!std::isfinite(point.depth) || !std::isfinite(point.ratio) || point.ratio < 0.0) {
        return bad_argument("drugs", fmt::format("{} shape", letter),
                            "finite depths and ratios of at least 0",
                            fmt::format("{}:{}", point.depth, point.ratio));
      }
      if (k > 0 && point.depth < dose.shape[k - 1].depth) {
        return bad_argument("drugs", fmt::format("{} shape", letter), "ascending depths",
                            fmt::format("{} behind {}", point.depth, dose.shape[k - 1].depth));
      }
    }
    for (std::size_t k = 0; k < i; ++k) {
      if (plan.doses[k].site != dose.site) continue;
      return bad_argument("drugs", std::string_view(&letter, 1), "one dose", "another");
    }
  }
  return {};
}

}  // namespace

Result<void> Drugs::add_block(const Block& block, Index layer, std::string path, Index layers,
                              std::array<bool, drug_letters.size()>& found) {
  Place place{.path = std::move(path), .turns = {}};
  for (const Block::NoiseSite& site : block.noise_sites()) {
    const std::size_t drug = drug_of(site.site);
    if (drug == drug_letters.npos) continue;
    found[drug] = true;
    const auto dose = std::ranges::find(plan_.doses, static_cast<DrugSite>(drug), &Dose::site);
    if (dose == plan_.doses.end()) continue;
    Turn turn{.site = site.site, .drug = dose->site, .width = site.width};
    if (plan_.group > 0 && is_grouped(dose->site)) {
      if (site.width % plan_.group != 0) {
        return bad_argument("drugs", fmt::format("{} group", drug_letters[drug]),
                            fmt::format("a divisor of {} ({})", site.width, place.path),
                            fmt::to_string(plan_.group));
      }
      turn.width = plan_.group;
    }
    turn.angle = dose->angle_at(static_cast<double>(layer) / static_cast<double>(layers));
    if (!std::isfinite(turn.angle)) {
      return bad_argument("drugs", fmt::format("{} angle", drug_letters[drug]),
                          "a finite number, theta times its shape", fmt::to_string(turn.angle));
    }
    if (!(turn.angle > 0.0) || turn.width < 2) continue;
    widest_ = std::max(widest_, turn.width);
    wanted_[static_cast<std::size_t>(site.site)] = true;
    place.turns.push_back(turn);
  }
  if (!place.turns.empty()) layers_[static_cast<std::size_t>(layer)].push_back(std::move(place));
  return {};
}

Result<Drugs> Drugs::make(const DrugPlan& plan, const Model& model) {
  const ModelSpec& spec = model.spec();
  const Index layers = std::ssize(spec.layers);
  KRAIT_RETURN_IF_ERROR(check(plan, layers));
  Drugs drugs;
  drugs.plan_ = plan;
  drugs.layers_.resize(spec.layers.size());
  std::array<bool, drug_letters.size()> found{};
  auto residual = model.parts().residuals.begin();
  for (Index i = 0; i < layers; ++i) {
    for (const ResidualSpec& part : spec.layers[static_cast<std::size_t>(i)].residuals) {
      KRAIT_RETURN_IF_ERROR(drugs.add_block(
          (residual++)->block(), i, fmt::format("{}.{}.{}", spec.layers_name, i, part.block_name),
          layers, found));
    }
  }
  for (const Dose& dose : plan.doses) {
    const auto at = static_cast<std::size_t>(dose.site);
    if (found[at]) continue;
    std::string known;
    for (std::size_t k = 0; k < found.size(); ++k) {
      if (found[k]) known += (known.empty() ? "" : " ") + std::string(1, drug_letters[k]);
    }
    return bad_argument("drugs", "site", fmt::format("one that the model has ({})", known),
                        std::string(1, drug_letters[at]));
  }
  return drugs;
}

DrugHook::DrugHook(std::shared_ptr<const Drugs> drugs, std::uint32_t sequence)
    : drugs_(std::move(drugs)),
      sequence_(sequence),
      direction_(static_cast<std::size_t>(drugs_->widest_)) {}

void DrugHook::at(const ActivationPlace& place, MatrixView<float> values) noexcept {
  if (place.layer >= std::ssize(drugs_->layers_)) return;
  const auto& places = drugs_->layers_[static_cast<std::size_t>(place.layer)];
  const auto own = std::ranges::find(places, place.path, &Drugs::Place::path);
  if (own == places.end()) return;
  const auto found = std::ranges::find(own->turns, place.site, &Drugs::Turn::site);
  if (found == own->turns.end()) return;
  const DrugPlan& plan = drugs_->plan_;
  const Index parts = values.cols / found->width;
  const bool is_one_token = is_of_one_token(place.site);
  NoiseKey key{.seed = plan.seed,
               .sequence = sequence_,
               .position = place.position,
               .layer = place.layer,
               .site = found->drug,
               .vector = place.vector * parts,
               .direction = plan.direction,
               .angle = plan.angle};
  for (Index t = 0; t < values.rows; ++t) {
    const std::span<float> row = values.row(t);
    for (Index part = 0; part < parts; ++part) {
      turn(row.subspan(static_cast<std::size_t>(part * found->width),
                       static_cast<std::size_t>(found->width)),
           found->angle, key, direction_);
      ++key.vector;
    }
    if (!is_one_token) {
      ++key.position;
      key.vector = 0;
    }
  }
}

NoisedRun::NoisedRun(Session& session, std::shared_ptr<const Drugs> drugs, std::uint32_t sequence,
                     ActivationHook* observer)
    : session_(&session),
      drugs_(drugs),
      hook_(std::move(drugs), sequence, observer),
      has_hook_(!drugs_->is_sober() || observer != nullptr),
      state_(session.model().initial_state()) {}

Result<MatrixView<const float>> NoisedRun::run(std::span<const Token> tokens) {
  const SessionOptions& limits = session_->options();
  const DrugState policy = drugs_->plan().state;
  const bool is_shower = has_hook_ && policy == DrugState::shower;
  Index most = std::min(limits.chunk, std::max(limits.max_batch, limits.max_verify));
  if (has_hook_ && policy == DrugState::clean) {
    most = std::max<Index>(1, std::min(most, limits.chunk / 2));
  }
  if (is_shower) {
    if (std::ssize(since_) == drugs_->plan().shower) {
      state_ = std::move(clean_);
      KRAIT_RETURN_IF_ERROR(session_->prefill(since_, state_));
      since_.clear();
    }
    if (since_.empty()) clean_ = state_;
    most = std::min(most, drugs_->plan().shower - std::ssize(since_));
  }
  const auto count = static_cast<std::size_t>(std::min(most, std::ssize(tokens)));
  const RunItem item{.tokens = tokens.first(count),
                     .state = &state_,
                     .logits = RunItem::Logits::all,
                     .hook = has_hook_ ? &hook_ : nullptr,
                     .clean = policy == DrugState::clean};
  KRAIT_ASSIGN_OR_RETURN(const RunOutput output, session_->run({&item, 1}));
  if (is_shower) since_.insert(since_.end(), item.tokens.begin(), item.tokens.end());
  return output.logits();
}

}  // namespace v0_1
}  // namespace krait
