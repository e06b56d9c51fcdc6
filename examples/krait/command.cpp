#include "command.hpp"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>

namespace krait::cli {

void add_threads(CLI::App& app, int& threads) {
  app.add_option("--threads", threads,
                 "Threads; 0: as many as the process may use (affinity and cgroup quota)")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
}

std::unique_ptr<ThreadPool> make_threads(int threads) {
  return std::make_unique<ThreadPool>(threads > 0 ? threads : available_threads());
}

WeightForm weight_form(const std::string& name) {
  static const std::map<std::string, WeightForm> forms = [] {
    std::map<std::string, WeightForm> map;
    for (const WeightForm form : {WeightForm::file, WeightForm::f32, WeightForm::f16,
                                  WeightForm::bf16, WeightForm::q8, WeightForm::q4}) {
      map.emplace(to_string(form), form);
    }
    return map;
  }();
  return forms.at(name);
}

void add_common(CLI::App& app, CommonOptions& options, const std::string& json_help) {
  app.add_option("-m,--model", options.model,
                 "Checkpoint directory, weight file, or the name of a bundled model")
      ->capture_default_str();
  add_threads(app, options.threads);
  app.add_option("--dtype", options.dtype,
                 "Form of the weights in memory; 'file' keeps what is stored")
      ->check(CLI::IsMember({"file", "f32", "bf16", "f16", "q8", "q4"}))
      ->capture_default_str();
  app.add_option("--compute", options.compute,
                 "Activations in matrix products; bf16 is for weights in bf16")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  app.add_option("--weights", options.weights, "Map weight files, or copy them into memory")
      ->check(CLI::IsMember({"map", "copy"}))
      ->capture_default_str();
  if (!json_help.empty()) app.add_flag("--json", options.json, json_help);
}

LoadOptions load_options(const CommonOptions& options) {
  return {.weights = options.weights == "copy" ? WeightsMode::copy : WeightsMode::map,
          .form = weight_form(options.dtype),
          .compute = options.compute == "bf16" ? Compute::bf16 : Compute::f32,
          .progress = ProgressLine("loading", "bytes")};
}

namespace {

Runtime with_session(LanguageModel loaded, const CommonOptions& options,
                     const SessionOptions& session) {
  Runtime runtime{std::move(loaded), make_threads(options.threads), nullptr};
  runtime.session = std::make_unique<Session>(runtime.model(), *runtime.threads, session);
  return runtime;
}

}  // namespace

Result<Runtime> start(const CommonOptions& options, const SessionOptions& session) {
  KRAIT_ASSIGN_OR_RETURN(LanguageModel loaded,
                         load_language_model(options.model, load_options(options)));
  return with_session(std::move(loaded), options, session);
}

Result<Runtime> start_without_tokenizer(const CommonOptions& options,
                                        const SessionOptions& session) {
  KRAIT_ASSIGN_OR_RETURN(Model model, load_model(options.model, load_options(options)));
  return with_session({std::move(model), byte_tokenizer(), {}, {}}, options, session);
}

Result<std::string> read_stream(std::FILE* stream, const std::string& name) {
  std::string text;
  char buffer[1 << 16];
  for (;;) {
    const std::size_t count = std::fread(buffer, 1, sizeof buffer, stream);
    text.append(buffer, count);
    if (count < sizeof buffer) break;
  }
  if (std::ferror(stream) != 0) {
    return Error{ErrorCode::io_failed,
                 "[input] " + name + ": expected readable text, found: " + std::strerror(errno)};
  }
  return text;
}

Result<std::string> read_text(const TextSource& source) {
  if (!source.file.empty() && source.file != "-") return read_text_file(source.file);
  if (source.file == "-" || (source.argument && *source.argument == "-")) {
    return read_stream(stdin, "standard input");
  }
  return source.argument.value_or("");
}

Result<std::string> read_text_part(const std::string& file, std::optional<Index> limit,
                                   const Tokenizer& tokenizer) {
  KRAIT_ASSIGN_OR_RETURN(std::string text, read_text({.argument = {}, .file = file}));
  if (!limit || static_cast<std::size_t>(*limit) >= text.size()) return text;
  text.resize(static_cast<std::size_t>(*limit));
  // Not in the middle of a character, which a tokenizer of text would refuse.
  if (tokenizer.vocab() != 256) {
    while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0xC0U) == 0x80U) {
      text.pop_back();
    }
    if (!text.empty() && (static_cast<unsigned char>(text.back()) & 0x80U) != 0) text.pop_back();
  }
  return text;
}

Result<void> print(std::string_view text) {
  if (!text.empty() && std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) {
    return Error{ErrorCode::io_failed, std::string("[output] standard output: expected to write, "
                                                   "found: ") +
                                           std::strerror(errno)};
  }
  return {};
}

Result<void> flush() {
  if (std::fflush(stdout) != 0) {
    return Error{ErrorCode::io_failed, std::string("[output] standard output: expected to write, "
                                                   "found: ") +
                                           std::strerror(errno)};
  }
  return {};
}

Result<void> print_json(const nlohmann::json& object) {
  KRAIT_RETURN_IF_ERROR(
      print(object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"));
  return flush();
}

namespace {

std::atomic<bool> interrupted_flag{false};

extern "C" void on_interrupt(int signal) {
  interrupted_flag.store(true, std::memory_order_relaxed);
  std::signal(signal, SIG_DFL);
}

}  // namespace

bool is_interrupted() noexcept { return interrupted_flag.load(std::memory_order_relaxed); }

void catch_signals() {
  std::signal(SIGINT, on_interrupt);
  std::signal(SIGTERM, on_interrupt);
  std::signal(SIGXFSZ, SIG_IGN);  // writing fails instead, which leaves nothing behind
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Flow ProgressLine::operator()(Index done, Index total) {
  const bool is_terminal = isatty(STDERR_FILENO) != 0;
  const double time = now();
  if (last_ == 0.0) last_ = time;
  // Nothing for work that is over at once.
  if (time - last_ > (is_terminal ? 0.2 : 10.0) || (shown_ && done == total)) {
    last_ = time;
    shown_ = true;
    std::fprintf(stderr, "%s%s %lld of %lld %s (%.0f %%)%s", is_terminal ? "\r" : "", what_.c_str(),
                 static_cast<long long>(done), static_cast<long long>(total), unit_.c_str(),
                 total > 0 ? 100.0 * static_cast<double>(done) / static_cast<double>(total) : 100.0,
                 is_terminal ? "\033[K" : "\n");
    std::fflush(stderr);
  }
  return is_interrupted() ? Flow::stop : Flow::go_on;
}

ProgressLine::~ProgressLine() {
  if (shown_ && isatty(STDERR_FILENO) != 0) std::fputs("\r\033[K", stderr);
}

int report(const Error& error) {
  if (error.code == ErrorCode::cancelled) {
    std::fputs("krait: interrupted\n", stderr);
    return interrupted;
  }
  std::fprintf(stderr, "krait: %s\n", error.message.c_str());
  return failed;
}

Error interruption() { return {ErrorCode::cancelled, "interrupted"}; }

Result<std::vector<Index>> parse_numbers(std::string_view text, std::string_view option,
                                         Index largest) {
  std::vector<Index> numbers;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
    const std::size_t first = part.find_first_not_of(' ');
    const std::string_view digits = first == std::string_view::npos ? "" : part.substr(first);
    Index number = -1;
    const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (code != std::errc() || end != digits.data() + digits.size() || number < 0 ||
        number > largest) {
      return Error{ErrorCode::bad_argument,
                   "[command] " + std::string(option) + ": expected numbers from 0 to " +
                       std::to_string(largest) + ", found '" + std::string(part) + "'"};
    }
    numbers.push_back(number);
  }
  if (numbers.empty()) {
    return Error{ErrorCode::bad_argument,
                 "[command] " + std::string(option) + ": expected at least one number, found none"};
  }
  return numbers;
}

Result<std::vector<Token>> parse_tokens(std::string_view text, std::string_view option,
                                        Index largest) {
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Index> numbers, parse_numbers(text, option, largest));
  return std::vector<Token>(numbers.begin(), numbers.end());
}

void SamplerFlags::add(CLI::App& app) {
  options.temperature = 0.8;
  app.add_option("--temperature", options.temperature,
                 "Divides the logits; 0 takes the most probable token")
      ->capture_default_str();
  app.add_option("--top-k", options.top_k, "Keep the k most probable tokens; 0: off")
      ->capture_default_str();
  app.add_option("--top-p", options.top_p,
                 "Keep the most probable tokens that together reach p; 1: off")
      ->capture_default_str();
  app.add_option("--min-p", options.min_p,
                 "Keep tokens of at least this part of the best one's probability; 0: off")
      ->capture_default_str();
  app.add_option("--typical-p", options.typical_p,
                 "Keep the most typical tokens that together reach p; 1: off")
      ->capture_default_str();
  app.add_option("--repetition-penalty", options.repetition_penalty,
                 "Divides the positive logits of tokens in the text; 1: off")
      ->capture_default_str();
  app.add_option("--presence-penalty", options.presence_penalty,
                 "Subtracted from the logits of tokens in the text")
      ->capture_default_str();
  app.add_option("--frequency-penalty", options.frequency_penalty,
                 "Subtracted for every occurrence in the text")
      ->capture_default_str();
  app.add_option("--logit-bias", logit_bias, "TOKEN=BIAS, added to a logit; -inf forbids it");
  app.add_flag("--greedy", options.greedy,
               "The most probable token; ignores all other sampling options");
  app.add_option("--seed", seed, "Seed of the random numbers; drawn at random if not given");
}

Result<SamplerOptions> SamplerFlags::resolve(const Model& model) const {
  SamplerOptions resolved = options;
  for (const std::string& entry : logit_bias) {
    const std::size_t equals = entry.find('=');
    char* end = nullptr;
    const std::string value = equals == std::string::npos ? "" : entry.substr(equals + 1);
    const double bias = std::strtod(value.c_str(), &end);
    if (value.empty() || end != value.c_str() + value.size()) {
      return Error{ErrorCode::bad_argument,
                   "[command] --logit-bias: expected TOKEN=BIAS, found '" + entry + "'"};
    }
    KRAIT_ASSIGN_OR_RETURN(const auto tokens, parse_tokens(entry.substr(0, equals), "--logit-bias",
                                                           model.vocab() - 1));
    resolved.logit_bias.emplace_back(tokens.front(), bias);
  }
  resolved.seed = seed ? *seed : std::random_device{}();
  KRAIT_RETURN_IF_ERROR(validate(resolved, model.vocab()));
  return resolved;
}

}  // namespace krait::cli
