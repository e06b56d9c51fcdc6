#include "krait/tools/aqlm.hpp"

#include <fmt/format.h>

#include "command.hpp"
#include "krait/tools/evaluate.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct AqlmFlags {
  SourceAndDestination places;
  std::string scheme = "4x4g8";
  std::string calibration;
  std::string moments;
  std::string save_moments;
  std::string held_out;
  std::string preset = "default";
  std::string weigh = "inputs";
  std::vector<std::string> keep;
  std::vector<std::string> quantize;
  std::optional<Index> tune_tokens;
  std::optional<std::uint64_t> seed;
  int threads = 0;
  bool json = false;
};

// Text that neither calibration nor tuning saw. The model is not kept while another is made of it.
struct HeldOut {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<Token> tokens;

  static Result<HeldOut> read(const std::string& source, const std::string& file) {
    KRAIT_ASSIGN_OR_RETURN(const LanguageModel original, load_language_model(source));
    KRAIT_ASSIGN_OR_RETURN(std::vector<Token> tokens,
                           read_tokens({.argument = {}, .file = file}, "--held-out", original));
    if (tokens.size() < 2) {
      return Error{
          ErrorCode::bad_argument,
          fmt::format("[command] --held-out: expected at least 2 tokens, found {}", tokens.size())};
    }
    return HeldOut{original.tokenizer, std::move(tokens)};
  }

  Result<ModelComparison> compare(const SourceAndDestination& places, Executor& executor) const {
    KRAIT_ASSIGN_OR_RETURN(const Model original, load_model(*places.source));
    KRAIT_ASSIGN_OR_RETURN(const Model made, load_model(*places.destination));
    ProgressLine progress("held out", "tokens");
    return compare_models(original, made, *tokenizer, tokens, executor, progress);
  }
};

Result<void> run(const AqlmFlags& options) {
  options.places.check();
  AqlmOptions aqlm;
  if (const auto scheme = parse_aqlm_scheme(options.scheme)) {
    aqlm.scheme = *scheme;
  } else {
    throw WrongUsage(
        "--scheme",
        "MxBgG, with M codebooks (1 to 16) of B bits (1 to 16) for groups of G weights "
        "(1 to 64)",
        "'" + options.scheme + "'");
  }
  constexpr Index step = 1024;
  if (const Index tokens = options.tune_tokens.value_or(0); tokens > 0 && tokens < step) {
    throw WrongUsage("--tune-tokens", fmt::format("0 or at least {}", step),
                     std::to_string(tokens));
  }
  if (options.tune_tokens.value_or(0) > 0 && options.calibration.empty()) {
    throw WrongUsage("--tune-tokens", "--calibration beside it", "none");
  }
  if (options.weigh == "fisher" && options.calibration.empty()) {
    throw WrongUsage("--weigh", "--calibration beside fisher", "none");
  }
  if (!options.save_moments.empty() && !options.moments.empty()) {
    throw WrongUsage("--save-moments", "no --moments beside it", in_quotes(options.moments));
  }
  if (!options.save_moments.empty() && options.calibration.empty()) {
    throw WrongUsage("--save-moments", "--calibration beside it", "none");
  }
  if (!options.held_out.empty() && options.held_out == options.calibration) {
    throw WrongUsage("--held-out", "another text than that of --calibration",
                     in_quotes(options.held_out));
  }
  aqlm.preset = options.preset;
  aqlm.weigh = options.weigh;
  aqlm.keep = options.keep;
  aqlm.quantize = options.quantize;
  if (!options.moments.empty()) aqlm.moments = options.moments;
  if (!options.save_moments.empty()) aqlm.save_moments = options.save_moments;
  aqlm.seed = options.seed.value_or(0);
  aqlm.tune_tokens = options.tune_tokens;
  if (!options.calibration.empty()) {
    KRAIT_ASSIGN_OR_RETURN(
        aqlm.calibration,
        read_text({.argument = {}, .file = options.calibration}, "--calibration"));
  }
  // What cannot be measured is told before the work.
  std::optional<HeldOut> held_out;
  if (!options.held_out.empty()) {
    KRAIT_ASSIGN_OR_RETURN(held_out, HeldOut::read(*options.places.source, options.held_out));
  }
  const std::unique_ptr<ThreadPool> threads = make_threads(options.threads);
  const double begin = now();
  ProgressLine progress("aqlm", "steps");
  KRAIT_ASSIGN_OR_RETURN(
      const AqlmReport report,
      quantize_aqlm(*options.places.source, *options.places.destination, aqlm, *threads, progress));
  const double seconds = now() - begin;
  std::optional<ModelComparison> comparison;
  if (held_out) {
    KRAIT_ASSIGN_OR_RETURN(comparison, held_out->compare(options.places, *threads));
  }
  if (options.json) {
    return print_json(to_json(report, to_string(aqlm.scheme), comparison, seconds));
  }
  std::string text;
  for (const AqlmMatrixReport& matrix : report.matrices) {
    text += fmt::format("{:<44} {:>6} x {:<6} error {:.4f}\n", shown(matrix.name), matrix.out,
                        matrix.in, matrix.error);
  }
  if (aqlm.moments) {
    text += fmt::format("fitted to the second moments of {} tokens\n", report.calibration_tokens);
  } else if (aqlm.calibration) {
    text += fmt::format("fitted to {} tokens of the calibration text\n", report.calibration_tokens);
  }
  if (report.tuning) {
    text += fmt::format("tuned: divergence {:.4f} -> {:.4f} nats per token\n", report.tuning->first,
                        report.tuning->last);
  }
  if (comparison) {
    text += fmt::format(
        "held out: {:.4f} -> {:.4f} bits per byte, KL divergence {:.4f} nats per token, {} bytes\n",
        comparison->reference.bits_per_byte(), comparison->model.bits_per_byte(),
        comparison->kl.mean, comparison->model.bytes);
  }
  text += fmt::format("{}: {} matrices in {}, {:.3f} bits per weight, {} bytes of {}, {:.0f} s\n",
                      shown(*options.places.destination), report.matrices.size(),
                      to_string(aqlm.scheme), report.bits_per_weight, report.bytes_after,
                      report.bytes_before, seconds);
  return print_all(text);
}

void declare(Command& command, AqlmFlags& options) {
  options.places.add(command);
  command.text("--scheme", options.scheme, "MxBgG: M codebooks of B bits for groups of G weights");
  command.file("--calibration", options.calibration,
               "Text whose activations tell which errors matter; - is standard input");
  command.file("--save-moments", options.save_moments,
               "Where to write the second moments that the calibration gives");
  command.file("--moments", options.moments,
               "Second moments of an earlier call, in place of the calibration's");
  command.file(
      "--held-out", options.held_out,
      "Another text, over which the model is measured before and after: bits per byte, KL");
  command.choice("--preset", options.preset, {"fast", "default", "best"},
                 "How long to search and to tune");
  command.number(
      "--tune-tokens", options.tune_tokens, 0, Index{1} << 40,
      "Tokens over which the quantised model learns from the original, 1024 a step; 0 is off");
  command.choice("--weigh", options.weigh, {"inputs", "fisher"},
                 "What makes an error count: the inputs, or also the outputs' part in the loss");
  command.texts("--keep", options.keep,
                "Leaves matrices and tensors as they are: a pattern such as *.layers.0.*");
  command.texts("--quantize", options.quantize,
                "Quantises more: x_proj, attention, an untied head; a pattern such as *.x_proj");
  command.seed("--seed", options.seed, "Of the search's random numbers");
  add_threads(command, options.threads);
  command.flag("--json", options.json, "One JSON object: bits per weight, errors, seconds");
}

}  // namespace

void add_aqlm(CommandLine& line) {
  line.add<AqlmFlags>(
      "aqlm", "Writes a checkpoint with about 2 bits per weight (additive quantisation)",
      "krait aqlm mamba-130m-hf mamba-130m-aqlm --calibration book.txt", declare, run);
}

}  // namespace krait::cli
