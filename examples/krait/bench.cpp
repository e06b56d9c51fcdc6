#include <sys/resource.h>

#include <fmt/format.h>

#include <algorithm>

#include "bench_draft.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct BenchFlags {
  CommonOptions common;
  Index prompt = 256;
  std::optional<Index> tokens;
  std::vector<Index> users;
  std::vector<Index> verify;
  Index repeat = 5;
  bool roofline = true;
  bool profile = false;
  DraftFlags draft;
  std::string text;

  Index decoded() const { return tokens.value_or(64); }
};

// Tokens per second of `repeat` runs of a body that handles `tokens` tokens.
template <class Body>
Result<Speed> measure(Index repeat, double tokens, Body body) {
  std::vector<double> speeds;
  for (Index i = 0; i < repeat; ++i) {
    if (is_interrupted()) return interruption();
    const double begun = now();
    body();
    speeds.push_back(tokens / (now() - begun));
  }
  std::sort(speeds.begin(), speeds.end());
  return Speed{speeds.back(), speeds[speeds.size() / 2]};
}

// A list of numbers, which may be empty.
void add_list(Command& command, const std::string& name, std::vector<Index>& value,
              const std::string& preset, const std::string& help) {
  constexpr Index largest = 256;
  value = parse_numbers(preset, name, largest);
  command.custom(
      name, "LIST", help,
      [&value, name](const std::string& text) { value = parse_numbers(text, name, largest); },
      preset);
}

std::vector<Token> varied_tokens(Index count, Index vocab) {
  std::vector<Token> tokens(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<Token>(random_bits({.seed = 1, .position = i})[0] %
                                   static_cast<std::uint32_t>(vocab));
  }
  return tokens;
}

Result<BenchReport::Verification> measure_verification(Index repeat, Index count,
                                                       double step_seconds, const State& state,
                                                       Session& session) {
  const auto tokens = varied_tokens(count, session.model().vocab());
  std::vector<double> verify;
  std::vector<double> keep;
  State kept = state;
  for (Index i = 0; i < repeat; ++i) {
    if (is_interrupted()) return interruption();
    kept.copy_from(state);
    const double begun = now();
    session.verify(tokens, kept).value();
    const double verified = now();
    session.keep(count - 1, kept).value();
    keep.push_back(now() - verified);
    verify.push_back(verified - begun);
  }
  const auto median = [](std::vector<double>& seconds) {
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
  };
  return BenchReport::Verification{count, median(verify) / step_seconds,
                                   median(keep) / step_seconds};
}

Result<void> measure_all(const BenchFlags& options, Runtime& runtime, BenchReport& report) {
  Session& session = *runtime.session;
  const Model& model = runtime.model();
  const auto prompt = varied_tokens(options.prompt, model.vocab());
  State state = model.initial_state();
  session.prefill(prompt, state).value();  // warms caches and page tables
  KRAIT_ASSIGN_OR_RETURN(report.prefill,
                         measure(options.repeat, static_cast<double>(options.prompt), [&] {
                           state.reset();
                           session.prefill(prompt, state).value();
                         }));
  KRAIT_ASSIGN_OR_RETURN(
      report.decode, measure(options.repeat, static_cast<double>(options.decoded()), [&] {
        Token token = prompt.front();
        for (Index i = 0; i < options.decoded(); ++i) {
          token = static_cast<Token>(kernels::argmax(
              session.step(token, state).value().first(static_cast<std::size_t>(model.vocab()))));
        }
      }));
  for (const Index count : options.users) {
    if (count == 0) continue;
    std::vector<State> states(static_cast<std::size_t>(count), state);
    std::vector<State*> pointers;
    for (State& s : states) pointers.push_back(&s);
    const auto tokens = varied_tokens(count, model.vocab());
    KRAIT_ASSIGN_OR_RETURN(
        const Speed speed,
        measure(options.repeat, static_cast<double>(options.decoded() * count), [&] {
          for (Index i = 0; i < options.decoded(); ++i)
            session.step_batch(tokens, pointers).value();
        }));
    report.batches.push_back({count, speed});
  }
  for (const Index count : options.verify) {
    if (count == 0) continue;
    KRAIT_ASSIGN_OR_RETURN(
        const BenchReport::Verification verification,
        measure_verification(options.repeat * std::max<Index>(1, options.decoded() / count), count,
                             1.0 / report.decode.median, state, session));
    report.verifications.push_back(verification);
  }
  return {};
}

// Runs the body `repeat` times and keeps the zones of the fastest run.
template <class Body>
Result<BenchReport::Profile> profile_of(std::string what, Index repeat, double tokens, Body body) {
  BenchReport::Profile fastest;
  fastest.what = std::move(what);
  for (Index i = 0; i < repeat; ++i) {
    if (is_interrupted()) return interruption();
    profile::reset();
    const double begun = now();
    body();
    const double seconds = (now() - begun) / tokens;
    if (i > 0 && seconds >= fastest.seconds) continue;
    fastest.seconds = seconds;
    fastest.zones.assign(profile::totals().begin(), profile::totals().end());
    for (profile::Total& zone : fastest.zones) {
      zone.seconds /= tokens;
      zone.bytes /= tokens;
      zone.flop /= tokens;
    }
  }
  return fastest;
}

Result<void> profile_all(const BenchFlags& options, Runtime& runtime, BenchReport& report) {
  Session& session = *runtime.session;
  State state = runtime.model().initial_state();
  const auto prompt = varied_tokens(options.prompt, runtime.model().vocab());
  const auto profile = [&](std::string what, Index tokens, auto body) -> Result<void> {
    KRAIT_ASSIGN_OR_RETURN(
        BenchReport::Profile done,
        profile_of(std::move(what), options.repeat, static_cast<double>(tokens), body));
    report.profiles.push_back(std::move(done));
    return {};
  };
  KRAIT_RETURN_IF_ERROR(profile(fmt::format("prefill {}", options.prompt), options.prompt, [&] {
    state.reset();
    session.prefill(prompt, state).value();
  }));
  return profile("decode", options.decoded(), [&] {
    for (Index i = 0; i < options.decoded(); ++i) session.step(prompt.front(), state).value();
  });
}

std::string to_table(const BenchReport::Profile& profile) {
  std::string text = fmt::format("\n{:<12} {:>8} {:>10} {:>7} {:>10} {:>8} {:>10}\n", profile.what,
                                 "calls", "ms/token", "%", "MB/token", "GB/s", "GFLOP/s");
  double rest = profile.seconds;
  for (const profile::Total& zone : profile.zones) {
    rest -= zone.seconds;
    text += fmt::format("{:<12} {:>8} {:>10.4f} {:>7.1f}", zone.zone, zone.calls,
                        1e3 * zone.seconds, 100.0 * zone.seconds / profile.seconds);
    if (zone.bytes > 0.0) {
      text += fmt::format(" {:>10.3f} {:>8.1f} {:>10.1f}", zone.bytes / 1e6,
                          zone.bytes / zone.seconds / 1e9, zone.flop / zone.seconds / 1e9);
    }
    text += '\n';
  }
  return text + fmt::format("{:<12} {:>8} {:>10.4f} {:>7.1f}\n", "(no zone)", "", 1e3 * rest,
                            100.0 * rest / profile.seconds);
}

Result<void> print_table(const BenchReport& report) {
  const auto percent_of = [](double part, double whole, const char* limit) {
    return whole > 0.0 ? fmt::format(", {:.0f} % of {}", 100.0 * part / whole, limit) : "";
  };
  const double read = report.decode.median * static_cast<double>(report.cost.weights_bytes) / 1e9;
  const double gflop = report.prefill.median * report.cost.prompt_flop / 1e9;
  std::string text = fmt::format("{}, {} threads, {}\n{:<22} {:>12} {:>12}\n", shown(report.model),
                                 report.threads, to_string(active_isa()), "", "median", "best");
  const auto add = [&](const std::string& what, const Speed& speed, const std::string& more) {
    text += fmt::format("{:<22} {:>12.1f} {:>12.1f}  tokens/s{}\n", what, speed.median, speed.best,
                        more);
  };
  add(fmt::format("prefill {}", report.prompt_tokens), report.prefill,
      fmt::format(", {:.1f} GFLOP/s{}", gflop, percent_of(gflop, report.gflop_s, "FMA peak")));
  add("decode", report.decode,
      fmt::format(", {:.1f} µs/step, {:.1f} GB/s{}", report.decode.step_microseconds(1), read,
                  percent_of(read, report.read_gb_s, "read bandwidth")));
  for (const BenchReport::Batch& batch : report.batches) {
    add(fmt::format("decode, {} {}", batch.users, batch.users == 1 ? "user" : "users"), batch.speed,
        fmt::format(" in all, {:.1f} µs/step", batch.speed.step_microseconds(batch.users)));
  }
  for (const BenchReport::Verification& v : report.verifications) {
    text +=
        fmt::format("{:<22} {:>12.2f} {:>12}  steps, and {:.3f} to keep {} of them\n",
                    fmt::format("verify {}", v.tokens), v.steps, "", v.keep_steps, v.tokens - 1);
  }
  if (report.read_gb_s > 0.0) {
    text += fmt::format("roofline: {:.1f} GB/s read, {:.1f} GFLOP/s\n", report.read_gb_s,
                        report.gflop_s);
  }
  text += fmt::format(
      "weights read per token {:.1f} MB, state {:.2f} MB, peak resident memory {:.1f} MB\n",
      static_cast<double>(report.cost.weights_bytes) / 1e6,
      static_cast<double>(report.cost.state_bytes) / 1e6,
      static_cast<double>(report.peak_rss_bytes) / 1e6);
  for (const BenchReport::Profile& profile : report.profiles) text += to_table(profile);
  return print_all(text);
}

Result<void> run(const BenchFlags& options) {
  options.draft.check();
  if (options.draft.is_given() != !options.text.empty()) {
    throw WrongUsage(options.text.empty() ? "--text" : "--draft", "both --draft and --text",
                     "one of them");
  }
  if (options.draft.is_given()) {
    return bench_draft(options.common, options.draft, options.text, options.tokens, options.repeat);
  }
  if (options.profile && !profile::is_enabled) {
    return Error{ErrorCode::unsupported,
                 "[bench] --profile: expected a krait built with the CMake option "
                 "KRAIT_PROFILE=ON, found one without"};
  }
  const auto largest = [](const std::vector<Index>& list) {
    return list.empty() ? 0 : *std::max_element(list.begin(), list.end());
  };
  KRAIT_ASSIGN_OR_RETURN(
      Runtime runtime,
      start_without_tokenizer(options.common, {.max_batch = largest(options.users),
                                               .max_verify = largest(options.verify)}));
  BenchReport report;
  report.model = options.common.model;
  report.threads = runtime.threads->width();
  report.prompt_tokens = options.prompt;
  report.decode_tokens = options.decoded();
  report.repeat = options.repeat;
  report.cost = token_cost(runtime.model());
  KRAIT_RETURN_IF_ERROR(measure_all(options, runtime, report));
  if (options.profile) KRAIT_RETURN_IF_ERROR(profile_all(options, runtime, report));
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  report.peak_rss_bytes = usage.ru_maxrss * 1024L;
  if (options.roofline) {
    // After the memory was read off: the measurement uses buffers far larger than the caches.
    KRAIT_ASSIGN_OR_RETURN(const MachineMemory memory,
                           MachineMemory::create(MemoryKind::file, 8 * last_level_cache_bytes()));
    report.read_gb_s = read_bandwidth(memory, *runtime.threads);
    report.gflop_s = fma_peak(active_isa(), *runtime.threads);
  }
  if (options.common.json) return print_json(to_json(report));
  return print_table(report);
}

void declare(Command& command, BenchFlags& options) {
  command.number("--prompt", options.prompt, 1, Index{1} << 24, "Tokens of the prompt");
  command.number("--tokens", options.tokens, 1, Index{1} << 24,
                 "Tokens decoded in a run; 64, with --draft as many as half of the text has");
  add_list(command, "--users", options.users, "1,2,4,8",
           "Numbers of sequences decoded together; may be empty");
  add_list(command, "--verify", options.verify, "1,2,4,8",
           "Numbers of tokens verified in one pass, in steps of decoding; may be empty");
  command.number("--repeat", options.repeat, 1, 1000, "Runs, of which the median is reported");
  command.flag("--no-roofline", options.roofline, "Leave the machine's limits unmeasured", false);
  command.flag("--profile", options.profile,
               "Also where the time goes; needs a build with KRAIT_PROFILE=ON");
  options.draft.add(command, false);
  command.file("--text", options.text,
               "With --draft: decodes behind the first half of this text, with drafts and without, "
               "and measures nothing else");
  add_common(command, options.common, "One JSON object");
}

}  // namespace

void add_bench(CommandLine& line) {
  line.add<BenchFlags>(
      "bench",
      "Measures prefill, decode, batch and verification speed, memory, the machine's limits",
      "krait bench --threads 2 --users 1,4", declare, run);
}

}  // namespace krait::cli
