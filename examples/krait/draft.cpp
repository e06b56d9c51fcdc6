// Who drafts, and how: the options that commands share.

#include "draft.hpp"

#include <algorithm>
#include <utility>

#include "krait/tools/laser.hpp"

namespace krait::cli {
namespace {

constexpr const char* known_drafters =
    "ngram, maxgram, model:PATH, cascade:PATH,...,ngram, cascade:PATH,...,maxgram, self:q4, "
    "self:laser=RANK, self:laser=LAYER:MATRIX:RANK,..., self:skip=LAYER,...";

constexpr std::string_view laser = "self:laser=";
constexpr std::string_view skip = "self:skip=";

// What --draft says.
struct DraftSpec {
  std::vector<std::string> models;  // paths, the largest first
  std::string bottom;               // "ngram", "maxgram", or none
  std::string self;                 // the model itself: "q4", "laser=" and what is cut, or "skip="
                                    // and what is left out
};

[[noreturn]] void refuse(const std::string& expected, const std::string& text) {
  throw WrongUsage("--draft", expected, in_quotes(text));
}

bool is_statistical(const std::string& name) { return name == "ngram" || name == "maxgram"; }

DraftSpec parse(const std::string& text) {
  DraftSpec spec;
  const std::size_t colon = text.find(':');
  const std::string kind = text.substr(0, colon);
  const std::string rest = colon == std::string::npos ? "" : text.substr(colon + 1);
  if (is_statistical(text)) {
    spec.bottom = text;
  } else if (text == "self:q4" || (text.starts_with(laser) && text.size() > laser.size()) ||
             (text.starts_with(skip) && text.size() > skip.size())) {
    spec.self = rest;
  } else if (kind == "model" && !rest.empty()) {
    spec.models = {rest};
  } else if (kind == "cascade" && !rest.empty()) {
    spec.models = split_list(rest);
    spec.bottom = spec.models.back();
    spec.models.pop_back();
    const auto is_bad = [](const std::string& one) {
      return one.empty() || is_statistical(one) || one.starts_with("cascade:");
    };
    if (!is_statistical(spec.bottom) || spec.models.empty() ||
        std::ranges::any_of(spec.models, is_bad)) {
      refuse("cascade:PATH,...,ngram or cascade:PATH,...,maxgram with at least one model", text);
    }
    for (auto one = spec.models.begin(); one != spec.models.end(); ++one) {
      if (std::find(spec.models.begin(), one, *one) != one) {
        refuse("a cascade that names every drafter once", text);
      }
    }
  } else {
    refuse(std::string("one of ") + known_drafters, text);
  }
  return spec;
}

// A model that drafts, and its tokens.
struct Loaded {
  DraftModelOptions options;
  std::shared_ptr<const Tokenizer> tokenizer;

  bool has_tokens_of(const Model& model, const Tokenizer& other) const {
    return options.model.vocab() == model.vocab() &&
           check_same_tokens(*tokenizer, other, options.name);
  }
};

Result<Loaded> load(const std::string& path, const std::string& name, const LoadOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(const LanguageModel loaded, load_language_model(path, options));
  return Loaded{{loaded.model, name}, loaded.tokenizer};
}

// The model itself, with matrices of lower rank. RANK alone stands for the whole matrices of all
// layers.
Result<Model> load_cut(const std::string& path, const std::string& text, const LoadOptions& options,
                       Executor& executor) {
  KRAIT_ASSIGN_OR_RETURN(const CheckpointPlan plan, plan_checkpoint(path, options));
  const std::vector<LaserMatrix> matrices = laser_matrices(plan);
  std::vector<LaserCut> cuts;
  const auto add = [&](const std::string& cut) {
    const Result<LaserCut> parsed = parse_laser_cut(cut, matrices);
    if (!parsed) throw WrongUsage("--draft", parsed.error());
    cuts.push_back(*parsed);
  };
  if (text.find(':') == std::string::npos) {
    for (const LaserMatrix& matrix : matrices) {
      if (matrix.layer < 0 || !matrix.is_whole() || matrix.is_dense) continue;
      add(std::to_string(matrix.layer) + ":" + matrix.name + ":" + text);
    }
  } else {
    for (const std::string& cut : split_list(text)) add(cut);
  }
  return cut_model(plan, cuts, executor, options.for_weights());
}

// The model itself without some of its layers.
Result<Model> load_shorter(const std::string& path, const std::string& text,
                           const LoadOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(const CheckpointPlan plan, plan_checkpoint(path, options));
  std::vector<Index> layers;
  for (const std::string& layer : split_list(text)) {
    layers.push_back(parse_number(layer, "--draft", 0, std::ssize(plan.config.spec.layers) - 1));
  }
  const Result<ModelSpec> spec = without_layers(plan.config.spec, layers);
  if (!spec && spec.error().code == ErrorCode::unsupported) return spec.error();
  if (!spec) throw WrongUsage("--draft", spec.error());
  return build_model(*spec, plan.checkpoint.weights, plan.config.prefix, options.for_weights());
}

// A cascade in which a model stands twice never ends, or reviews itself.
Result<void> check_distinct(const std::vector<DraftModelOptions>& models, const Model& target) {
  std::vector<std::string> seen = {target.fingerprint()};
  for (const DraftModelOptions& one : models) {
    if (std::ranges::find(seen, one.model.fingerprint()) != seen.end()) {
      return Error{ErrorCode::bad_argument,
                   "[draft] cascade: expected models that differ from each other and from the one "
                   "that is drafted for, found " +
                       printable(one.name) + " twice"};
    }
    seen.push_back(one.model.fingerprint());
  }
  return {};
}

// Models of a cascade review each other's tokens.
Result<void> check_one_vocabulary(const std::vector<Loaded>& models) {
  for (const Loaded& one : models) {
    const Loaded& first = models.front();
    if (one.has_tokens_of(first.options.model, *first.tokenizer)) continue;
    return Error{ErrorCode::bad_argument,
                 "[draft] cascade: expected models of one vocabulary, found those of " +
                     printable(first.options.name) + " and " + printable(one.options.name)};
  }
  return {};
}

Result<std::unique_ptr<Drafter>> bottom_of(const DraftSpec& spec) {
  if (spec.bottom == "ngram") return ngram_drafter();
  if (spec.bottom == "maxgram") return maxgram_drafter();
  return std::unique_ptr<Drafter>();
}

}  // namespace

void DraftFlags::add(Command& command, bool with_acceptance) {
  command.custom(
      "--draft", "SPEC",
      std::string("Who guesses tokens, which the model then verifies together: ") + known_drafters,
      [this](const std::string& text) {
        parse(text);
        spec_ = text;
      });
  const std::string length = "--draft-length";
  command.custom(
      length, "INT|auto", "Tokens of a draft; auto: as many as pay, by measurement",
      [this, length](const std::string& text) {
        is_length_given_ = true;
        length_.reset();
        if (text != "auto") length_ = parse_number(text, length, 1, Speculation::most_tokens);
      },
      "auto");
  if (!with_acceptance) return;
  command.choice("--accept", accept_, {"match", "greedy", "rejection", "coupling"},
                 "When a guess is right: match and greedy give the text of a run without --draft, "
                 "coupling and rejection another one of the same distribution");
}

void DraftFlags::check() const {
  if (is_given()) return;
  if (is_length_given_) throw WrongUsage("--draft-length", "--draft beside it", "none");
  if (accept_ != "match") throw WrongUsage("--accept", "--draft beside it", "none");
}

SessionOptions DraftFlags::session() const {
  if (!is_given()) return {};
  return {.max_verify = 1 + length_.value_or(Speculation::most_chosen)};
}

void DraftFlags::resolve(SamplerOptions& sampler, Acceptance& acceptance) const {
  if (accept_ == "greedy" && !sampler.greedy && sampler.temperature != 0.0) {
    throw WrongUsage("--accept", "--greedy or --temperature 0 beside greedy",
                     "a temperature of " + std::to_string(sampler.temperature));
  }
  if (accept_ == "coupling") sampler.gumbel = true;
  if (accept_ == "rejection") acceptance = Acceptance::rejection;
}

Result<std::shared_ptr<Speculation>> DraftFlags::load_drafter(const Runtime& runtime,
                                                              const CommonOptions& common) const {
  const DraftSpec spec = parse(spec_);
  KRAIT_ASSIGN_OR_RETURN(std::unique_ptr<Drafter> drafter, bottom_of(spec));
  std::vector<Loaded> loaded;
  LoadOptions options = load_options(common, runtime.threads.get());
  options.form = spec.self == "q4" ? "q4" : "file";
  if (spec.self == "q4") {
    KRAIT_ASSIGN_OR_RETURN(Loaded model, load(common.model, spec_, options));
    loaded.push_back(std::move(model));
  }
  options.adapter.clear();  // it is the model's own
  if (spec.self.starts_with("laser=")) {
    KRAIT_ASSIGN_OR_RETURN(
        Model model, load_cut(common.model, spec_.substr(laser.size()), options, *runtime.threads));
    loaded.push_back({{std::move(model), spec_}, runtime.language_model.tokenizer});
  }
  if (spec.self.starts_with("skip=")) {
    KRAIT_ASSIGN_OR_RETURN(Model model,
                           load_shorter(common.model, spec_.substr(skip.size()), options));
    loaded.push_back({{std::move(model), spec_}, runtime.language_model.tokenizer});
  }
  for (const std::string& path : spec.models) {
    KRAIT_ASSIGN_OR_RETURN(Loaded model, load(path, path, options));
    loaded.push_back(std::move(model));
  }
  if (!loaded.empty()) {
    KRAIT_RETURN_IF_ERROR(check_one_vocabulary(loaded));
    const std::shared_ptr<const Tokenizer> tokenizer = loaded.front().tokenizer;
    const bool is_own = loaded.front().has_tokens_of(runtime.model(), runtime.tokenizer());
    std::vector<DraftModelOptions> models;
    for (Loaded& one : loaded) models.push_back(std::move(one.options));
    if (drafter) KRAIT_RETURN_IF_ERROR(check_distinct(models, runtime.model()));
    KRAIT_ASSIGN_OR_RETURN(
        drafter, cascade_drafter(std::move(models), std::move(drafter), *runtime.threads));
    if (!is_own) {
      drafter =
          retokenizing_drafter(std::move(drafter), tokenizer, runtime.language_model.tokenizer);
    }
  }
  KRAIT_ASSIGN_OR_RETURN(Speculation speculation,
                         Speculation::make(std::move(drafter), {.length = length_}));
  return std::make_shared<Speculation>(std::move(speculation));
}

}  // namespace krait::cli
