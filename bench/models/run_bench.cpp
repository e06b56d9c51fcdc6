// Whole models. A run that mixes a chunk of a prompt, single steps and a draft, beside the chunk
// alone: what the others cost where the weights are read anyway. And a step with a hook that does
// nothing, beside one without. Random weights of the shape of mamba-130m, and the bundled models.

#include <chrono>
#include <cstring>
#include <optional>

#include "bench/support.hpp"
#include "krait/core/thread_pool.hpp"
#include "krait/loading/registry.hpp"
#include "krait/models/builder.hpp"
#include "krait/models/random_weights.hpp"
#include "krait/models/session.hpp"

namespace krait::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Logits = RunItem::Logits;

const Model& mamba_130m_model() {
  static const Model model = [] {
    ModelBuilder builder;
    builder.embedding("embedding", {.vocab = 50280, .d_model = 768})
        .repeat(24,
                [](LayerBuilder& layer) {
                  layer.residual("norm", RmsNormSpec{}, "mixer", MambaSpec{});
                })
        .final_norm("norm_f", RmsNormSpec{})
        .tied_head();
    const WeightStore weights = random_weights(builder.spec(), 1, "", DType::bf16).value();
    return builder.build(weights).value();
  }();
  return model;
}

ThreadPool& threads() {
  static ThreadPool pool;
  return pool;
}

std::vector<Token> tokens(Index count, Index vocab, std::uint64_t seed) {
  std::vector<Token> result;
  for (const float value : random_values(count, seed)) {
    result.push_back(static_cast<Token>((value + 1.0F) * 0.5F * static_cast<float>(vocab - 1)));
  }
  return result;
}

template <class Work>
double seconds(Work&& work) {
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::ranges::nth_element(values, middle);
  return *middle;
}

// A sequence that has read a few tokens, and its part in the run.
struct Part {
  State before;
  std::vector<Token> tokens;
  Logits logits = Logits::last;
  bool tentative = false;

  RunItem item(State& state) const {
    return {.tokens = tokens, .state = &state, .logits = logits, .tentative = tentative};
  }
};

std::vector<Part> mixed_parts(const Model& model, Session& session) {
  std::vector<Part> parts;
  const auto add = [&](Index count, Logits logits, bool tentative) {
    const auto seed = static_cast<std::uint64_t>(parts.size());
    parts.push_back(
        {model.initial_state(), tokens(count, model.vocab(), 10 + seed), logits, tentative});
    session.prefill(tokens(20, model.vocab(), 20 + seed), parts.back().before).value();
  };
  add(128, Logits::none, false);
  for (int i = 0; i < 3; ++i) add(1, Logits::last, false);
  add(4, Logits::all, true);
  return parts;
}

// The states that a run begins with, and what it makes of them.
struct Mixture {
  explicit Mixture(std::span<const Part> parts) {
    states.reserve(parts.size());
    for (const Part& part : parts) {
      states.push_back(part.before);
      items.push_back(part.item(states.back()));
    }
  }
  std::vector<State> states;
  std::vector<RunItem> items;
};

bool same_rows(MatrixView<const float> a, MatrixView<const float> b) {
  if (a.rows != b.rows || a.cols != b.cols) return false;
  for (Index row = 0; row < a.rows; ++row) {
    if (std::memcmp(a.row(row).data(), b.row(row).data(), a.row(row).size_bytes()) != 0) {
      return false;
    }
  }
  return true;
}

bool equals_each_alone(const Model& model, const std::vector<Part>& parts, Session& session) {
  Mixture mixture(parts);
  const RunOutput output = session.run(mixture.items).value();
  Session other(model, threads());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    State state = parts[i].before;
    const RunItem item = parts[i].item(state);
    const RunOutput alone = other.run({&item, 1}).value();
    if (!same_rows(output.logits(static_cast<Index>(i)), alone.logits(0))) return false;
    if (!(mixture.states[i] == state)) return false;
  }
  return true;
}

// The time of an iteration is that of the mixed run; `ratio`, to the chunk alone, is the median of
// pairs of runs one after the other.
void run_mixed(benchmark::State& state) {
  const Model& model = mamba_130m_model();
  Session session(model, threads());
  const std::vector<Part> parts = mixed_parts(model, session);
  if (!equals_each_alone(model, parts, session)) {
    return state.SkipWithError("differs from what each gives alone");
  }
  const std::span<const Part> first(parts.data(), 1);
  std::vector<double> alone;
  std::vector<double> ratios;
  for (auto _ : state) {
    Mixture chunk(first);
    alone.push_back(seconds([&] { session.run(chunk.items).value(); }));
    Mixture mixture(parts);
    const double mixed = seconds([&] { session.run(mixture.items).value(); });
    ratios.push_back(mixed / alone.back());
    state.SetIterationTime(mixed);
  }
  state.counters["alone_ms"] = 1e3 * median(alone);
  state.counters["ratio"] = median(ratios);
}

class NoHook final : public ActivationHook {
 public:
  void at(const ActivationPlace& /*place*/, MatrixView<float> /*values*/) noexcept override {
    ++calls_;
  }
  Index calls() const noexcept { return calls_; }

 private:
  Index calls_ = 0;
};

// The steps of a text, in turns without and with the hook; the time of an iteration is that of all
// steps without, `ratio` the median of pairs, `calls` those of a step.
void run_hooked(benchmark::State& state, const Model& model) {
  constexpr Index text = 64;
  NoHook hook;
  Session plain(model, threads());
  Session hooked(model, threads(), {.hook = &hook});
  const std::vector<Token> prompt = tokens(text, model.vocab(), 1);
  State one = model.initial_state();
  State two = one;
  const MatrixView<const float> expected(plain.prefill(prompt, one).value().data(), 1,
                                         model.vocab());
  const MatrixView<const float> seen(hooked.prefill(prompt, two).value().data(), 1, model.vocab());
  if (!same_rows(expected, seen) || !(one == two)) {
    return state.SkipWithError("a hook that does nothing changes something");
  }
  const Index before = hook.calls();
  hooked.step(prompt.front(), two).value();
  state.counters["calls"] = static_cast<double>(hook.calls() - before);

  const State start = one;
  std::vector<double> ratios;
  for (auto _ : state) {
    one = start;
    two = start;
    const auto run = [&](Session& session, State& of) {
      return seconds([&] {
        for (const Token token : prompt) session.step(token, of).value();
      });
    };
    const double without = run(plain, one);
    ratios.push_back(run(hooked, two) / without);
    state.SetIterationTime(without);
  }
  state.counters["steps/s"] =
      benchmark::Counter(text, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["ratio"] = median(ratios);
}

}  // namespace

void register_benchmarks() {
  benchmark::RegisterBenchmark("run/mamba-130m/bf16/128_and_1_1_1_and_draft_4", run_mixed)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->MinTime(3.0);
  for (const char* name : {"krait-bytes-draft", "krait-bytes-2m", "krait-bytes-moe"}) {
    const auto model = load_model(name);
    if (!model) continue;  // not installed
    benchmark::RegisterBenchmark(("hook/" + std::string(name)).c_str(), run_hooked, *model)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond)
        ->MinTime(0.3);
  }
  benchmark::RegisterBenchmark(
      "hook/mamba-130m/bf16",
      [](benchmark::State& state) { run_hooked(state, mamba_130m_model()); })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->MinTime(3.0);
}

}  // namespace krait::bench
