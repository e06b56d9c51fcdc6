#include "training/self_reward_report.hpp"

#include <fmt/format.h>

#include <algorithm>

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

// A curve over the models, scaled to its own largest and least value.
void draw(Svg& svg, double y, std::string_view name,
          std::span<const std::optional<double>> values) {
  constexpr double left = 40.0;
  constexpr double width = 480.0;
  constexpr double height = 90.0;
  std::vector<double> known;
  for (const std::optional<double>& value : values) {
    if (value) known.push_back(*value);
  }
  svg.rectangle(left, y, width, height, "#f4f4f4");
  if (known.empty()) {
    svg.text(left, y - 4.0, fmt::format("{}: not measured", name));
    return;
  }
  const auto [least, most] = std::ranges::minmax(known);
  svg.text(left, y - 4.0, fmt::format("{}: {:.4g} to {:.4g}", name, least, most));
  std::string points;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!values[i]) continue;
    const double x =
        static_cast<double>(i) / static_cast<double>(std::max<std::size_t>(1, values.size() - 1));
    const double part = most > least ? (*values[i] - least) / (most - least) : 0.5;
    points += fmt::format("{:.1f},{:.1f} ", left + width * x, y + height * (1.0 - part));
  }
  svg.line(points, "#2166ac");
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
        at.pairs.discarded(), at.margin, at.reward_accuracy, shown(at.kl, 4), at.chosen_length,
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
  using Values = std::vector<std::optional<double>>;
  Values score;
  Values judge;
  Values margin = {std::nullopt};
  Values kept = {std::nullopt};
  const auto put = [&](const ModelReport& model) {
    score.push_back(model.verifiable ? std::optional(model.verifiable->mean) : std::nullopt);
    judge.push_back(model.judge_accuracy);
  };
  put(report.first);
  for (const IterationReport& at : report.iterations) {
    put(at.model);
    margin.emplace_back(at.margin);
    kept.emplace_back(static_cast<double>(at.pairs.kept));
  }
  Svg svg;
  double y = 30.0;
  for (const auto& [name, values] :
       {std::pair<const char*, const Values*>{"verifiable score", &score},
        {"judge accuracy", &judge},
        {"margin", &margin},
        {"pairs kept", &kept}}) {
    draw(svg, y, name, *values);
    y += 120.0;
  }
  svg.text(40.0, y - 10.0, fmt::format("model 0 to {}", report.iterations.size()));
  return svg.file(560.0, y);
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
