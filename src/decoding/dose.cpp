// Doses of DRµGS and what is written of them.

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "krait/decoding/drugs.hpp"
#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

Error bad_dose(std::string_view what, std::string_view expected, std::string_view found) {
  return {ErrorCode::bad_argument, fmt::format("[drugs] {}: expected {}, found {}", what, expected,
                                               found.empty() ? "nothing" : printable(found))};
}

// The parts between separators that stand in no brackets. Of no text: none.
std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  if (text.empty()) return parts;
  int depth = 0;
  std::size_t first = 0;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && text[i] == '(') ++depth;
    if (i < text.size() && text[i] == ')') --depth;
    if (i < text.size() && (text[i] != separator || depth > 0)) continue;
    parts.push_back(text.substr(first, i - first));
    first = i + 1;
  }
  return parts;
}

std::optional<double> number(std::string_view text) {
  double value = 0.0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || error != std::errc() || stop != end || !std::isfinite(value)) return {};
  return value;
}

Result<std::vector<double>> numbers(std::string_view what, std::string_view list,
                                    std::size_t count) {
  std::vector<double> values;
  for (const std::string_view part : split(list, ',')) {
    const std::optional<double> value = number(part);
    if (!value) return bad_dose(what, "finite numbers", part);
    values.push_back(*value);
  }
  if (values.size() == count) return values;
  return bad_dose(what, fmt::format("{} numbers", count), fmt::to_string(values.size()));
}

Result<std::vector<DosePoint>> read_points(std::string_view list) {
  std::vector<DosePoint> points;
  for (const std::string_view part : split(list, ',')) {
    const std::size_t colon = part.find(':');
    const auto depth = number(part.substr(0, colon));
    const auto ratio =
        colon == std::string_view::npos ? std::nullopt : number(part.substr(colon + 1));
    if (!depth || !ratio) return bad_dose("points", "DEPTH:RATIO with finite numbers", part);
    points.push_back({*depth, *ratio});
  }
  if (points.empty()) return bad_dose("points", "at least one DEPTH:RATIO", "");
  return points;
}

Result<std::vector<DosePoint>> read_shape(std::string_view text) {
  const std::size_t open = text.find('(');
  const std::string_view kind = text.substr(0, open);
  const bool is_known = kind == "rect" || kind == "ramp" || kind == "peak" || kind == "points";
  if (!is_known || open == std::string_view::npos || !text.ends_with(')')) {
    return bad_dose("shape", "rect(c,h), ramp(a,b), peak(c,w) or points(d:r,…)", text);
  }
  const std::string_view list = text.substr(open + 1, text.size() - open - 2);
  if (kind == "points") return read_points(list);
  KRAIT_ASSIGN_OR_RETURN(const std::vector<double> values, numbers(kind, list, 2));
  const double a = values[0];
  const double b = values[1];
  if (kind == "ramp") {
    if (!(a < b)) return bad_dose("ramp", "a depth and a greater one", list);
    return std::vector<DosePoint>{{a, 0.0}, {b, 1.0}};
  }
  if (!(b > 0.0)) return bad_dose(kind, "a width above 0", list);
  if (kind == "peak") return std::vector<DosePoint>{{a - b, 0.0}, {a, 1.0}, {a + b, 0.0}};
  return std::vector<DosePoint>{
      {a - 1.01 * b, 0.0}, {a - b, 1.0}, {a + b, 1.0}, {a + 1.01 * b, 0.0}};
}

Result<DoseMode> read_mode(std::string_view text) {
  if (text == "interpolate") return DoseMode::interpolate;
  if (text == "ceil") return DoseMode::ceil;
  if (text == "floor") return DoseMode::floor;
  return bad_dose("mode", "interpolate, ceil or floor", text);
}

// SITE:theta=T[,shape=S][,mode=M]
Result<Dose> read_dose(std::string_view text) {
  const std::size_t colon = text.find(':');
  const std::string_view letter = text.substr(0, colon);
  const std::size_t site = letter.size() == 1 ? drug_letters.find(letter[0]) : drug_letters.npos;
  if (site == drug_letters.npos) {
    return bad_dose("site", fmt::format("one of {}", fmt::join(drug_letters, " ")), letter);
  }
  Dose dose{.site = static_cast<DrugSite>(site)};
  std::vector<std::string_view> seen;
  const std::string_view values = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  for (const std::string_view part : split(values, ',')) {
    const std::string_view key = part.substr(0, part.find('='));
    const std::string_view value = key.size() < part.size() ? part.substr(key.size() + 1) : "";
    if (std::ranges::find(seen, key) != seen.end()) {
      return bad_dose(letter, fmt::format("one {}", key), "another");
    }
    seen.push_back(key);
    if (key == "theta") {
      const auto theta = number(value);
      if (!theta || *theta < 0.0) {
        return bad_dose(fmt::format("{} theta", letter), "a finite number of at least 0", value);
      }
      dose.theta = *theta;
    } else if (key == "shape") {
      KRAIT_ASSIGN_OR_RETURN(dose.shape, read_shape(value));
    } else if (key == "mode") {
      KRAIT_ASSIGN_OR_RETURN(dose.mode, read_mode(value));
    } else {
      return bad_dose(letter, "theta=…, shape=… or mode=…", part);
    }
  }
  if (std::ranges::find(seen, "theta") == seen.end()) return bad_dose(letter, "theta=…", values);
  return dose;
}

}  // namespace

double Dose::angle_at(double depth) const noexcept {
  if (shape.empty()) return theta;
  if (depth <= shape.front().depth) return theta * shape.front().ratio;
  for (std::size_t i = 1; i < shape.size(); ++i) {
    const DosePoint& a = shape[i - 1];
    const DosePoint& b = shape[i];
    if (depth > b.depth) continue;
    if (mode == DoseMode::floor) return theta * std::min(a.ratio, b.ratio);
    if (mode == DoseMode::ceil || a.depth == b.depth) return theta * std::max(a.ratio, b.ratio);
    return theta * ((depth - a.depth) / (b.depth - a.depth) * (b.ratio - a.ratio) + a.ratio);
  }
  return theta * shape.back().ratio;
}

Result<std::vector<Dose>> parse_doses(std::string_view text) {
  std::vector<Dose> doses;
  for (const std::string_view part : split(text, ';')) {
    KRAIT_ASSIGN_OR_RETURN(Dose dose, read_dose(part));
    doses.push_back(std::move(dose));
  }
  return doses;
}

Result<void> parse_drug_state(std::string_view text, DrugPlan& plan) {
  if (text == "clean" || text == "carry") {
    plan.state = text == "clean" ? DrugState::clean : DrugState::carry;
    return {};
  }
  constexpr std::string_view begin = "shower(";
  if (text.starts_with(begin) && text.ends_with(')')) {
    const std::string_view count = text.substr(begin.size(), text.size() - begin.size() - 1);
    Index passes = 0;
    const char* const end = count.data() + count.size();
    const auto [stop, error] = std::from_chars(count.data(), end, passes);
    if (!count.empty() && error == std::errc() && stop == end && passes >= 1) {
      plan.state = DrugState::shower;
      plan.shower = passes;
      return {};
    }
    return bad_dose("shower", "a whole number of at least 1", count);
  }
  return bad_dose("state", "clean, carry or shower(N)", text);
}

}  // namespace v0_1
}  // namespace krait
