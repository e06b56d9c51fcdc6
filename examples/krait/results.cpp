#include "results.hpp"

#include <nlohmann/json.hpp>

#include "krait/training/compare_answers.hpp"
#include "krait/training/reward_stages.hpp"
#include "krait/training/train.hpp"
#include "terminal.hpp"

namespace krait::cli {
namespace {

using nlohmann::json;

std::string_view name_of(Placement placement) {
  switch (placement) {
    case Placement::in_place:
      return "in_place";
    case Placement::converted:
      return "converted";
    case Placement::derived:
      return "derived";
  }
  return "";
}

// In one line; text that is no UTF-8 has marks in its place.
std::string line_of(const json& value) {
  return escape_steering(value.dump(-1, ' ', false, json::error_handler_t::replace));
}

json speed_of(const Speed& speed) {
  return {{"tokens_per_second", speed.median}, {"best_tokens_per_second", speed.best}};
}

json step_of(const Speed& speed, Index users) {
  json entry = speed_of(speed);
  entry["microseconds_per_step"] = speed.step_microseconds(users);
  return entry;
}

json profile_of(const BenchReport::Profile& profile) {
  json zones = json::array();
  for (const profile::Total& zone : profile.zones) {
    zones.push_back({{"zone", zone.zone},
                     {"calls", zone.calls},
                     {"seconds_per_token", zone.seconds},
                     {"bytes_per_token", zone.bytes},
                     {"flop_per_token", zone.flop}});
  }
  return {{"what", profile.what}, {"seconds_per_token", profile.seconds}, {"zones", zones}};
}

json count_of(const DraftCount& count) {
  return {{"drafted", count.drafted}, {"accepted", count.accepted}};
}

// How often guesses were right, in all, by who made them, and by place in the draft.
void add_drafts(json& object, const GenerationResult& generation,
                const DraftStatistics& statistics) {
  object["drafted"] = generation.drafted;
  object["accepted"] = generation.accepted;
  object["target_passes"] = generation.target_passes;
  object["levels"] = json::array();
  for (const DraftStatistics::Level& level : statistics.levels) {
    json entry = count_of(level.count);
    entry["drafter"] = level.name;
    object["levels"].push_back(std::move(entry));
  }
  object["positions"] = json::array();
  for (const DraftCount& position : statistics.positions) {
    object["positions"].push_back(count_of(position));
  }
}

// Of the tokens of the text, not of one that ended it.
json log_probs_of_tokens(const GenerationResult& generation) {
  json list = json::array();
  for (std::size_t i = 0; i < generation.tokens.size(); ++i) {
    const TokenLogProbs& one = generation.log_probs[i];
    json top = json::array();
    for (const TokenLogProb& other : one.top) {
      top.push_back({{"id", other.token}, {"log_prob", other.log_prob}});
    }
    list.push_back({{"id", one.token}, {"log_prob", one.log_prob}, {"top", top}});
  }
  return list;
}

json sample_of(const Sample& sample) {
  const GenerationResult& generation = sample.generation;
  const double decoded = static_cast<double>(generation.tokens.size());
  json object = {{"prompt_tokens", generation.prompt_tokens},
                 {"tokens", generation.tokens},
                 {"text", generation.text},
                 {"finish_reason", to_string(generation.reason)},
                 {"seed", sample.seed},
                 {"sequence", sample.sequence},
                 {"timings",
                  {{"prompt_seconds", generation.prompt_seconds},
                   {"decode_seconds", generation.decode_seconds},
                   {"decode_tokens_per_second",
                    generation.decode_seconds > 0.0 ? decoded / generation.decode_seconds : 0.0}}}};
  if (sample.drafts) add_drafts(object, generation, *sample.drafts);
  if (sample.score) object["score"] = *sample.score;
  if (sample.has_log_probs) object["logprobs"] = log_probs_of_tokens(generation);
  return object;
}

json top_of(const LogitsRow& row) {
  json top = json::array();
  for (const Candidate& one : row.top) {
    top.push_back({{"id", one.token}, {"logit", one.logit}, {"log_prob", one.log_prob}});
  }
  return top;
}

}  // namespace

std::string to_json(std::span<const Sample> samples) {
  if (samples.size() == 1) return line_of(sample_of(samples.front()));
  json list = json::array();
  for (const Sample& sample : samples) list.push_back(sample_of(sample));
  return line_of({{"samples", list}});
}

std::string to_json(const std::vector<LogitsRow>& rows, bool all, Index tokens, Index vocab) {
  json object = {{"tokens", tokens}, {"vocab", vocab}};
  if (!all) {
    object["top"] = top_of(rows.back());
    return line_of(object);
  }
  object["rows"] = json::array();
  for (const LogitsRow& row : rows) {
    object["rows"].push_back({{"position", row.position}, {"top", top_of(row)}});
  }
  return line_of(object);
}

std::string to_json(std::span<const Token> tokens) { return line_of(tokens); }

std::string to_json(const std::string& text) { return line_of(text); }

std::string text_to_json(const std::string& text) { return line_of({{"text", text}}); }

std::string prompt_to_json(const std::string& prompt, std::span<const Token> tokens) {
  return line_of(
      {{"prompt", prompt}, {"tokens", std::vector<Token>(tokens.begin(), tokens.end())}});
}

std::string to_json(const CheckpointPlan& planned) {
  const auto& [plan, config, checkpoint] = planned;
  json tensors = json::array();
  for (const TensorUse& use : plan.tensors) {
    const auto extents = use.shape.extents();
    tensors.push_back({{"name", use.name},
                       {"shape", std::vector<Index>(extents.begin(), extents.end())},
                       {"dtype", use.form},
                       {"bytes", use.bytes},
                       {"placement", name_of(use.placement)}});
  }
  return line_of({{"path", checkpoint.path},
                  {"family", config.spec.family},
                  {"wrapper", config.wrapper},
                  {"spec", to_string(config.spec)},
                  {"parameters", plan.parameters},
                  {"active_parameters", plan.active_parameters},
                  {"bytes_per_token", plan.bytes_per_token},
                  {"weights_bytes", plan.in_place_bytes + plan.owned_bytes},
                  {"in_place_bytes", plan.in_place_bytes},
                  {"owned_bytes", plan.owned_bytes},
                  {"state_bytes", plan.state_bytes},
                  {"scratch_bytes_per_token", plan.scratch_bytes_per_token},
                  {"cache_bytes_per_token", plan.cache_bytes_per_token},
                  {"trail_bytes_per_token", plan.trail_bytes_per_token},
                  {"tensors", tensors},
                  {"unused_tensors", plan.unused},
                  {"ignored_config_keys", config.ignored}});
}

std::string to_json(const std::vector<ExpertUse>& layers, const std::string& path,
                    const std::string& file, std::size_t tokens) {
  json result = json::array();
  for (const ExpertUse& layer : layers) {
    json experts = json::array();
    for (Index e = 0; e < std::ssize(layer.chosen); ++e) {
      experts.push_back({{"chosen", layer.chosen[static_cast<std::size_t>(e)]},
                         {"share", layer.share(e)},
                         {"mean_gate", layer.mean_gate(e)}});
    }
    result.push_back({{"layer", layer.path},
                      {"tokens", layer.tokens},
                      {"balance", layer.balance()},
                      {"experts", experts}});
  }
  return line_of({{"path", path}, {"file", file}, {"tokens", tokens}, {"layers", result}});
}

std::string to_json(const ScoredText& text) {
  const Perplexity& found = text.perplexity;
  return line_of({{"file", text.file},
                  {"tokens", text.tokens},
                  {"scored_tokens", found.tokens},
                  {"scored_bytes", found.bytes},
                  {"perplexity", found.value()},
                  {"nats_per_token", found.nats_per_token()},
                  {"bits_per_byte", found.bits_per_byte()},
                  {"tokens_per_second", static_cast<double>(found.tokens) / text.seconds}});
}

std::string to_json(const std::vector<DrugPoint>& points, const DrugPlan& plan,
                    const std::string& file, std::size_t tokens) {
  json list = json::array();
  for (const DrugPoint& point : points) {
    list.push_back({{"site", std::string(1, drug_letters[static_cast<std::size_t>(point.site)])},
                    {"dose", point.dose},
                    {"layer", point.layer ? json(*point.layer) : json()},
                    {"kl", point.kl},
                    {"flips", point.flips},
                    {"vergence", point.vergence}});
  }
  const std::string state = plan.state == DrugState::clean ? "clean"
                            : plan.state == DrugState::carry
                                ? "carry"
                                : "shower(" + std::to_string(plan.shower) + ")";
  return line_of({{"file", file},
                  {"tokens", tokens},
                  {"state", state},
                  {"seed", plan.seed},
                  {"direction", plan.direction == DrugDirection::gauss ? "gauss" : "legacy"},
                  {"angle", plan.angle == DrugAngle::uniform ? "uniform" : "halfnormal"},
                  {"group", plan.group},
                  {"points", list}});
}

std::string to_json(const KlDivergence& kl, const std::string& file, const std::string& reference) {
  return line_of({{"file", file},
                  {"reference", reference},
                  {"positions", kl.positions},
                  {"kl", kl.mean},
                  {"kl_largest", kl.largest},
                  {"same_top", kl.same_top}});
}

std::string to_json(const AqlmReport& report, const std::string& scheme,
                    const std::optional<ModelComparison>& held_out, double seconds) {
  json matrices = json::array();
  for (const AqlmMatrixReport& matrix : report.matrices) {
    matrices.push_back(
        {{"name", matrix.name}, {"out", matrix.out}, {"in", matrix.in}, {"error", matrix.error}});
  }
  json object = {{"scheme", scheme},
                 {"bits_per_weight", report.bits_per_weight},
                 {"calibration_tokens", report.calibration_tokens},
                 {"bytes_before", report.bytes_before},
                 {"bytes_after", report.bytes_after},
                 {"matrices", std::move(matrices)},
                 {"seconds", seconds}};
  if (report.tuning) {
    object["tuning"] = {{"first", report.tuning->first}, {"last", report.tuning->last}};
  }
  if (held_out) {
    object["held_out"] = {{"bytes", held_out->model.bytes},
                          {"bits_per_byte_before", held_out->reference.bits_per_byte()},
                          {"bits_per_byte_after", held_out->model.bits_per_byte()},
                          {"kl", held_out->kl.mean}};
  }
  return line_of(object);
}

namespace {

json cut_of(const LaserCut& cut) {
  return {{"layer", cut.layer}, {"matrix", cut.matrix}, {"rank", cut.rank}};
}

json score_of(const LaserScore& score) {
  return {{"before", score.before},
          {"after", score.after},
          {"interval", {score.low, score.high}},
          {"samples", score.samples}};
}

}  // namespace

std::string to_json(const LaserSummary& summary) {
  json cuts = json::array();
  for (const LaserCut& cut : summary.cuts) cuts.push_back(cut_of(cut));
  return line_of({{"cuts", cuts},
                  {"factored", summary.factored},
                  {"bytes_before", summary.bytes_before},
                  {"bytes_after", summary.bytes_after}});
}

std::string to_json(const LaserSearchReport& report) {
  json trials = json::array();
  for (const LaserTrial& trial : report.trials) {
    json entry = cut_of(trial.cut);
    entry.update({{"change", trial.change}, {"error", trial.error}, {"samples", trial.samples}});
    trials.push_back(entry);
  }
  json cuts = json::array();
  for (const auto& [cut, score] : report.cuts) {
    json entry = cut_of(cut);
    entry.update(score_of(score));
    cuts.push_back(entry);
  }
  json result = {{"cuts", cuts},
                 {"test", score_of(report.test)},
                 {"trials", trials},
                 {"complete", report.is_complete},
                 {"bytes_before", report.bytes_before},
                 {"bytes_after", report.bytes_after}};
  if (report.accuracy_before) {
    result["accuracy"] = {{"before", *report.accuracy_before}, {"after", *report.accuracy_after}};
  }
  if (report.uniform) {
    result["uniform"] = score_of(*report.uniform);
    result["uniform"]["bytes"] = report.uniform_bytes;
  }
  return line_of(result);
}

std::string to_json(const QuantizeSummary& summary, const std::string& source,
                    const std::string& destination, const std::string& form) {
  return line_of({{"source", source},
                  {"destination", destination},
                  {"form", form},
                  {"tensors", summary.tensors},
                  {"converted", summary.converted},
                  {"forms", summary.forms},
                  {"bytes_before", summary.bytes_before},
                  {"bytes_after", summary.bytes_after}});
}

std::string to_json(const ConvertSummary& summary, const std::string& source,
                    const std::string& destination) {
  return line_of({{"source", source},
                  {"destination", destination},
                  {"tensors", summary.tensors},
                  {"bytes", summary.bytes},
                  {"files", summary.files},
                  {"left_out", summary.left_out}});
}

std::string to_json(const TrainSummary& summary, const std::string& destination, double seconds) {
  json result = {{"out", destination}, {"steps", summary.steps}, {"seconds", seconds}};
  if (!summary.was_finished) result["loss"] = summary.loss;
  if (summary.pairs) {
    result["rewards/margins"] = summary.pairs->chosen_reward - summary.pairs->rejected_reward;
    result["rewards/accuracies"] = summary.pairs->accuracy;
  }
  return line_of(result);
}

std::string to_json(const TrainMemory& memory) {
  return line_of({{"weights", memory.weights},
                  {"gradients", memory.gradients},
                  {"optimizer", memory.optimizer},
                  {"activations", {{"kept", memory.kept}, {"recomputed", memory.recomputed}}},
                  {"workspaces", memory.forward},
                  {"data", memory.data},
                  {"total", memory.total()},
                  {"mapped", memory.mapped}});
}

std::string to_json(const AnswerComparison& found, const std::string& by,
                    const ComparedModel& model, const ComparedModel& against) {
  const auto estimate = [](const char* name, const Estimate& at) {
    return json{{name, at.value}, {"low", at.low}, {"high", at.high}};
  };
  const auto side = [](const ComparedModel& of, const AnswerMeasures& measures) {
    json result = {{"model", of.model}, {"score", measures.score}, {"length", measures.length}};
    if (of.held_out) {
      result["perplexity"] = of.held_out->value();
      result["bits_per_byte"] = of.held_out->bits_per_byte();
    }
    return result;
  };
  return line_of({{"by", by},
                  {"prompts", found.prompts},
                  {"compared", found.compared},
                  {"unparsable", found.unparsable},
                  {"wins", estimate("rate", found.wins)},
                  {"ties", estimate("rate", found.ties)},
                  {"losses", estimate("rate", found.losses)},
                  {"difference", estimate("mean", found.difference)},
                  {"model", side(model, found.model)},
                  {"against", side(against, found.against)}});
}

std::string to_json(const PairCounts& counts, const std::string& destination) {
  return line_of({{"out", destination},
                  {"kept", counts.kept},
                  {"discarded",
                   {{"tied", counts.tied},
                    {"gap", counts.gap},
                    {"equal_text", counts.equal_text},
                    {"length", counts.length},
                    {"unparsable", counts.unparsable}}}});
}

std::string to_json(const PromptCounts& counts, const std::string& destination) {
  return line_of({{"out", destination},
                  {"kept", counts.kept},
                  {"discarded",
                   {{"duplicate", counts.duplicate},
                    {"length", counts.length},
                    {"similar", counts.similar},
                    {"words", counts.words}}}});
}

std::string file_to_json(const std::string& destination, double seconds) {
  return line_of({{"out", destination}, {"seconds", seconds}});
}

std::string to_json(const MergeSummary& summary, const std::string& destination) {
  return line_of({{"out", destination},
                  {"merged", summary.merged},
                  {"tensors", summary.tensors},
                  {"bytes", summary.bytes}});
}

std::string to_json(const BenchReport& report) {
  json batch = json::array();
  for (const BenchReport::Batch& b : report.batches) {
    json entry = step_of(b.speed, b.users);
    entry["users"] = b.users;
    batch.push_back(entry);
  }
  json profiles = json::array();
  for (const BenchReport::Profile& profile : report.profiles) {
    profiles.push_back(profile_of(profile));
  }
  json verify = json::array();
  for (const BenchReport::Verification& v : report.verifications) {
    verify.push_back({{"tokens", v.tokens}, {"steps", v.steps}, {"keep_steps", v.keep_steps}});
  }
  return line_of({{"model", report.model},
                  {"threads", report.threads},
                  {"isa", to_string(active_isa())},
                  {"prompt_tokens", report.prompt_tokens},
                  {"decode_tokens", report.decode_tokens},
                  {"repeat", report.repeat},
                  {"prefill", speed_of(report.prefill)},
                  {"decode", step_of(report.decode, 1)},
                  {"batch", batch},
                  {"profile", profiles},
                  {"verify", verify},
                  {"roofline", {{"read_gb_s", report.read_gb_s}, {"gflop_s", report.gflop_s}}},
                  {"weights_bytes", report.cost.weights_bytes},
                  {"flop_per_token", report.cost.prompt_flop},
                  {"state_bytes", report.cost.state_bytes},
                  {"peak_rss_bytes", report.peak_rss_bytes}});
}

std::string to_json(const DraftReport& report) {
  json object = {{"model", report.model},
                 {"threads", report.threads},
                 {"isa", to_string(active_isa())},
                 {"prompt_tokens", report.prompt_tokens},
                 {"decode_tokens", report.generation.tokens.size()},
                 {"repeat", report.repeat},
                 {"plain", speed_of(report.plain)},
                 {"draft_prompt_seconds", report.draft_prompt_seconds}};
  add_drafts(object, report.generation, report.statistics);
  object["guesses"] = object["drafted"];
  object["drafted"] = speed_of(report.drafted);
  return line_of(object);
}

}  // namespace krait::cli
