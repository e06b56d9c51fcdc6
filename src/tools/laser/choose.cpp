// Which of the trials make a better model, or a smaller one.

#include <algorithm>
#include <cmath>

#include "tools/laser/scan.hpp"

namespace krait {
inline namespace v0_1 {
namespace laser {
namespace {

constexpr std::size_t finalists = 20;
constexpr int passes = 2;
constexpr int bisections = 10;

bool overlap(const Scan& scan, const Trial& a, const Trial& b) {
  const auto& matrices = scan.cutter().matrices();
  for (const std::size_t i : scan.units()[a.unit].matrices) {
    for (const std::size_t k : scan.units()[b.unit].matrices) {
      if (overlaps(matrices[i], matrices[k])) return true;
    }
  }
  return false;
}

std::vector<Cut> cuts_of(const Scan& scan, const std::vector<Trial>& trials) {
  std::vector<Cut> cuts;
  for (const Trial& trial : trials) {
    const std::vector<Cut> more = scan.cuts_of(trial);
    cuts.insert(cuts.end(), more.begin(), more.end());
  }
  return cuts;
}

// Weights of a matrix at a rank; 0: as it is.
double weights_of(const Scan& scan, std::size_t unit, Index rank) {
  double weights = 0.0;
  for (const std::size_t i : scan.units()[unit].matrices) {
    const LaserMatrix& m = scan.cutter().matrices()[i];
    weights += static_cast<double>(rank == 0 ? m.rows * m.cols : rank * (m.rows + m.cols));
  }
  return weights;
}

// For each unit the rank with the least change + price · weights; units that stay are left out.
std::vector<Trial> at_price(const Scan& scan, double price) {
  std::vector<Trial> best(scan.units().size());
  std::vector<double> cost(scan.units().size());
  for (std::size_t u = 0; u < best.size(); ++u) cost[u] = price * weights_of(scan, u, 0);
  for (const Trial& trial : scan.trials()) {
    if (trial.found.samples == 0) continue;
    // What looks like a gain is noise as likely as not.
    const double found =
        std::max(0.0, trial.found.change) + price * weights_of(scan, trial.unit, trial.rank);
    if (found >= cost[trial.unit]) continue;
    cost[trial.unit] = found;
    best[trial.unit] = trial;
  }
  std::erase_if(best, [](const Trial& trial) { return trial.rank == 0; });
  return best;
}

double weights_at(const Scan& scan, const std::vector<Cut>& cuts) {
  double saved = 0.0;
  for (const Cut& cut : cuts) {
    const LaserMatrix& m = scan.cutter().matrices()[cut.matrix];
    saved += static_cast<double>(m.rows * m.cols - cut.rank * (m.rows + m.cols));
  }
  return -saved;
}

// Every matrix at the same fraction of the rank up to which factors are smaller; above it, whole.
std::vector<Cut> at_fraction(const Scan& scan, double fraction) {
  std::vector<Cut> cuts;
  for (const Unit& unit : scan.units()) {
    for (const std::size_t i : unit.matrices) {
      const LaserMatrix& m = scan.cutter().matrices()[i];
      const Index paying = (m.rows * m.cols - 1) / (m.rows + m.cols);
      const auto rank = static_cast<Index>(fraction * static_cast<double>(paying));
      if (rank >= 1) cuts.push_back({i, rank});
    }
  }
  return cuts;
}

}  // namespace

Result<std::vector<Trial>> choose_better(Scan& scan) {
  std::vector<Trial> best;
  for (const Trial& trial : scan.trials()) {
    if (trial.found.samples > 0) best.push_back(trial);
  }
  std::ranges::stable_sort(best, {}, [](const Trial& trial) { return trial.found.change; });
  if (best.size() > finalists) best.resize(finalists);
  KRAIT_ASSIGN_OR_RETURN(std::vector<double> current, scan.nats({}, scan.confirming()));
  std::vector<Trial> confirmed;
  for (Trial& trial : best) {
    KRAIT_ASSIGN_OR_RETURN(const auto after, scan.nats(scan.cuts_of(trial), scan.confirming()));
    trial.found = paired(current, after, scan.confirming());
    if (trial.found.change < 0.0) confirmed.push_back(trial);
  }
  // The best of all first; then from the last layer, from the lowest rank.
  std::ranges::stable_sort(confirmed, [&](const Trial& a, const Trial& b) {
    const Index x = scan.units()[a.unit].stage;
    const Index y = scan.units()[b.unit].stage;
    return x != y ? x > y : a.rank < b.rank;
  });
  const auto first = std::ranges::min_element(
      confirmed, {}, [](const Trial& trial) { return trial.found.change; });
  if (first != confirmed.end()) std::rotate(confirmed.begin(), first, first + 1);

  std::vector<Trial> chosen;
  for (int pass = 0; pass < passes; ++pass) {
    for (const Trial& trial : confirmed) {
      const bool is_taken = std::ranges::any_of(
          chosen, [&](const Trial& other) { return overlap(scan, trial, other); });
      if (is_taken) continue;
      std::vector<Trial> more = chosen;
      more.push_back(trial);
      KRAIT_ASSIGN_OR_RETURN(auto after, scan.nats(cuts_of(scan, more), scan.confirming()));
      const Paired gain = paired(current, after, scan.confirming());
      if (!(gain.change < -gain.error)) continue;
      chosen = std::move(more);
      current = std::move(after);
    }
  }
  return chosen;
}

Result<Shrunk> choose_smallest(Scan& scan, const LaserSearchOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(const auto before, scan.nats({}, scan.confirming()));
  Shrunk result;
  // Prices of a weight in bits per byte, between too low and too high by far.
  double low = std::log(1e-14);
  double high = std::log(1e-2);
  for (int step = 0; step < bisections; ++step) {
    const double middle = 0.5 * (low + high);
    std::vector<Trial> trials = at_price(scan, std::exp(middle));
    bool fits = trials.empty();
    if (!fits) {
      KRAIT_ASSIGN_OR_RETURN(const auto after, scan.nats(cuts_of(scan, trials), scan.confirming()));
      fits = paired(before, after, scan.confirming()).change <= options.loss;
    }
    (fits ? low : high) = middle;
    if (fits) result.chosen = std::move(trials);
  }
  if (result.chosen.empty()) return result;
  // As large a fraction of all ranks as needs no less.
  const double wanted = weights_at(scan, cuts_of(scan, result.chosen));
  double fraction = 1.0;
  while (fraction > 0.0 && weights_at(scan, at_fraction(scan, fraction)) > wanted) fraction -= 1e-3;
  // The next larger one has no fewer bytes than what was chosen.
  result.uniform = at_fraction(scan, std::min(1.0, fraction + 1e-3));
  return result;
}

}  // namespace laser
}  // namespace v0_1
}  // namespace krait
