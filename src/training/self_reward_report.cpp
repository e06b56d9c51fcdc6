#include "training/self_reward_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "io/json.hpp"
#include "io/svg.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using Verifiable = ModelReport::Verifiable;

std::string or_null(const std::optional<double>& value) {
  return value ? fmt::to_string(*value) : "null";
}

// A cell of the table.
std::string shown(const std::optional<double>& value, int digits) {
  return value ? fmt::format("{:.{}f}", *value, digits) : "-";
}

std::string shown(const std::optional<Verifiable>& found) {
  return found ? fmt::format("{:.3f} ({:.3f} to {:.3f})", found->mean, found->low, found->high)
               : "-";
}

// The members of a model's report.
std::string members(const ModelReport& report) {
  const std::optional<Verifiable>& found = report.verifiable;
  return fmt::format(
      "\"verifiable\": {}, \"length\": {}, \"judge_accuracy\": {}, \"perplexity\": {}",
      found ? fmt::format("{{\"mean\": {}, \"low\": {}, \"high\": {}, \"n\": {}}}", found->mean,
                          found->low, found->high, found->n)
            : "null",
      or_null(report.length), or_null(report.judge_accuracy), or_null(report.perplexity));
}

ModelReport model_of(const Metadata& json) {
  ModelReport report{.length = json["length"].number(),
                     .judge_accuracy = json["judge_accuracy"].number(),
                     .perplexity = json["perplexity"].number()};
  const Metadata& found = json["verifiable"];
  if (found.object() != nullptr) {
    report.verifiable = Verifiable{.mean = found["mean"].number().value_or(0.0),
                                   .low = found["low"].number().value_or(0.0),
                                   .high = found["high"].number().value_or(0.0),
                                   .n = static_cast<Index>(found["n"].whole().value_or(0))};
  }
  return report;
}

// Why pairs were left out: "3 tied, 1 gap".
std::string reasons(const PairCounts& pairs) {
  std::string text;
  for (const auto& [count, reason] : {std::pair<Index, const char*>{pairs.tied, "tied"},
                                      {pairs.gap, "gap"},
                                      {pairs.equal_text, "equal text"},
                                      {pairs.length, "length"},
                                      {pairs.unparsable, "unparsable"}}) {
    if (count > 0) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, reason);
  }
  return text.empty() ? "0" : text;
}

// Over the models.
using Values = std::vector<std::optional<double>>;
struct Curve {
  Values values;
  const char* colour = "#2166ac";
};

// Curves of one kind, scaled to their largest and least value.
void draw(Svg& svg, double y, std::string_view name, std::span<const Curve> curves) {
  constexpr double left = 40.0;
  constexpr double width = 480.0;
  constexpr double height = 90.0;
  std::vector<double> known;
  for (const Curve& curve : curves) {
    for (const std::optional<double>& value : curve.values) {
      if (value) known.push_back(*value);
    }
  }
  svg.rectangle(left, y, width, height, "#f4f4f4");
  if (known.empty()) {
    svg.text(left, y - 4.0, fmt::format("{}: not measured", name));
    return;
  }
  const auto [least, most] = std::ranges::minmax(known);
  svg.text(left, y - 4.0, fmt::format("{}: {:.4g} to {:.4g}", name, least, most));
  for (const Curve& curve : curves) {
    const std::size_t last = std::max<std::size_t>(1, curve.values.size() - 1);
    std::string points;
    for (std::size_t i = 0; i < curve.values.size(); ++i) {
      if (!curve.values[i]) continue;
      const double x = static_cast<double>(i) / static_cast<double>(last);
      const double part = most > least ? (*curve.values[i] - least) / (most - least) : 0.5;
      points += fmt::format("{:.1f},{:.1f} ", left + width * x, y + height * (1.0 - part));
    }
    svg.line(points, curve.colour);
  }
}

}  // namespace

std::string to_table(const SelfRewardReport& report) {
  std::string table =
      "| model | verifiable score (95 %) | judge accuracy | pairs kept / discarded | margin | "
      "reward accuracy | KL per token | tokens chosen / rejected / written | perplexity |\n"
      "|---|---|---|---|---|---|---|---|---|\n";
  table += fmt::format("| 0 | {} | {} | - | - | - | - | - / - / {} | {} |\n",
                       shown(report.first.verifiable), shown(report.first.judge_accuracy, 3),
                       shown(report.first.length, 1), shown(report.first.perplexity, 3));
  for (std::size_t i = 0; i < report.iterations.size(); ++i) {
    const IterationReport& at = report.iterations[i];
    table += fmt::format(
        "| {} | {} | {} | {} / {} | {:.4f} | {:.3f} | {} | {:.1f} / {:.1f} / {} | "
        "{} |\n",
        i + 1, shown(at.model.verifiable), shown(at.model.judge_accuracy, 3), at.pairs.kept,
        reasons(at.pairs), at.margin, at.reward_accuracy, shown(at.kl, 4), at.chosen_length,
        at.rejected_length, shown(at.model.length, 1), shown(at.model.perplexity, 3));
  }
  return table;
}

namespace training {

std::string to_json(const ModelReport& report) { return "{" + members(report) + "}\n"; }

std::string to_json(const IterationReport& report, Index iteration) {
  const PairCounts& pairs = report.pairs;
  return fmt::format(
      "{{\"iteration\": {}, \"pairs\": {{\"kept\": {}, \"discarded\": {{\"tied\": {}, \"gap\": {}, "
      "\"equal_text\": {}, \"length\": {}, \"unparsable\": {}}}}}, \"margin\": {}, "
      "\"reward_accuracy\": {}, \"lengths\": {{\"chosen\": {}, \"rejected\": {}}}, \"kl\": {}, "
      "{}}}\n",
      iteration, pairs.kept, pairs.tied, pairs.gap, pairs.equal_text, pairs.length,
      pairs.unparsable, report.margin, report.reward_accuracy, report.chosen_length,
      report.rejected_length, or_null(report.kl), members(report.model));
}

std::string to_json(const SelfRewardReport& report) {
  std::string json = "{\"first\": " + to_json(report.first) + ", \"iterations\": [\n";
  for (std::size_t i = 0; i < report.iterations.size(); ++i) {
    json += (i > 0 ? ", " : "") + to_json(report.iterations[i], static_cast<Index>(i) + 1);
  }
  return json + "]}\n";
}

Result<ModelReport> read_model_report(std::string_view json, const std::string& name) {
  KRAIT_ASSIGN_OR_RETURN(const Metadata value, parse_json(json, name));
  return model_of(value);
}

Result<IterationReport> read_iteration_report(std::string_view text, const std::string& name) {
  KRAIT_ASSIGN_OR_RETURN(const Metadata json, parse_json(text, name));
  const auto count = [](const Metadata& value) {
    return static_cast<Index>(value.whole().value_or(0));
  };
  const Metadata& pairs = json["pairs"];
  const Metadata& discarded = pairs["discarded"];
  return IterationReport{.pairs = {.kept = count(pairs["kept"]),
                                   .tied = count(discarded["tied"]),
                                   .gap = count(discarded["gap"]),
                                   .equal_text = count(discarded["equal_text"]),
                                   .length = count(discarded["length"]),
                                   .unparsable = count(discarded["unparsable"])},
                         .margin = json["margin"].number().value_or(0.0),
                         .reward_accuracy = json["reward_accuracy"].number().value_or(0.0),
                         .chosen_length = json["lengths"]["chosen"].number().value_or(0.0),
                         .rejected_length = json["lengths"]["rejected"].number().value_or(0.0),
                         .kl = json["kl"].number(),
                         .model = model_of(json)};
}

std::string picture(const SelfRewardReport& report) {
  constexpr const char* light = "#92c5de";
  constexpr const char* red = "#b2182b";
  Curve score;
  Curve low{{}, light};
  Curve high{{}, light};
  Curve judge;
  Curve length;
  Curve perplexity;
  // Of what led to a model; the first has none.
  Curve margin{{std::nullopt}};
  Curve accuracy{{std::nullopt}};
  Curve kl{{std::nullopt}};
  Curve kept{{std::nullopt}};
  Curve discarded{{std::nullopt}, red};
  Curve chosen{{std::nullopt}, light};
  Curve rejected{{std::nullopt}, red};
  const auto put = [&](const ModelReport& model) {
    const auto& found = model.verifiable;
    score.values.push_back(found ? std::optional(found->mean) : std::nullopt);
    low.values.push_back(found ? std::optional(found->low) : std::nullopt);
    high.values.push_back(found ? std::optional(found->high) : std::nullopt);
    judge.values.push_back(model.judge_accuracy);
    length.values.push_back(model.length);
    perplexity.values.push_back(model.perplexity);
  };
  put(report.first);
  for (const IterationReport& at : report.iterations) {
    put(at.model);
    margin.values.emplace_back(at.margin);
    accuracy.values.emplace_back(at.reward_accuracy);
    kl.values.push_back(at.kl);
    kept.values.emplace_back(static_cast<double>(at.pairs.kept));
    discarded.values.emplace_back(static_cast<double>(at.pairs.discarded()));
    chosen.values.emplace_back(at.chosen_length);
    rejected.values.emplace_back(at.rejected_length);
  }
  Svg svg;
  double y = 30.0;
  const auto panel = [&](std::string_view name, const std::vector<Curve>& curves) {
    draw(svg, y, name, curves);
    y += 120.0;
  };
  panel("verifiable score, with its 95 % interval", {low, high, score});
  panel("judge accuracy", {judge});
  panel("pairs kept, and discarded (red)", {kept, discarded});
  panel("margin", {margin});
  panel("reward accuracy", {accuracy});
  panel("KL to the model before, nats per token", {kl});
  panel("tokens of answers: written, chosen (light), rejected (red)", {length, chosen, rejected});
  panel("perplexity", {perplexity});
  svg.text(40.0, y - 10.0, fmt::format("model 0 to {}", report.iterations.size()));
  return svg.file(560.0, y);
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
