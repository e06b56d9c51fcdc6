// What a mixture of experts costs beside a feed-forward network of the width that is active: models
// of alternating Mamba and feed-forward blocks that differ in nothing but the number of experts.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/rng.hpp"
#include "krait/core/thread_pool.hpp"
#include "krait/models/builder.hpp"
#include "krait/models/random_weights.hpp"
#include "krait/models/session.hpp"

namespace krait::bench {
namespace {

constexpr Index d_model = 512;
constexpr Index d_expert = 1536;
constexpr Index n_layer = 8;
constexpr Index vocab = 256;
constexpr Index prompt = 512;
constexpr Index decoded = 64;
constexpr int rounds = 9;

// Networks of one size that a token chooses among; 1 is a plain network, 0 none at all.
constexpr Index expert_counts[] = {0, 1, 8, 42};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

ModelSpec spec_of(Index n_expert) {
  ModelBuilder builder;
  builder.embedding("embedding", {.vocab = vocab, .d_model = d_model})
      .repeat(
          n_layer,
          [&](LayerBuilder& layer) {
            layer.residual("norm", RmsNormSpec{}, "mixer", MambaSpec{});
            if (n_expert == 1) {
              layer.residual(
                  "norm2", RmsNormSpec{}, "mlp",
                  MlpSpec{.d_hidden = d_expert, .activation = Activation::relu, .gated = false});
            } else if (n_expert > 1) {
              layer.residual("norm2", RmsNormSpec{}, "moe",
                             MoeSpec{.n_expert = n_expert, .top_k = 1, .d_expert = d_expert});
            }
          })
      .final_norm("norm_f", RmsNormSpec{})
      .tied_head();
  return builder.spec();
}

std::string name_of(Index n_expert) {
  if (n_expert == 0) return "no feed-forward";
  return n_expert == 1 ? "dense" : std::to_string(n_expert) + " experts";
}

struct Subject {
  Index n_expert;
  Session session;
  State state;
  std::vector<double> prefill = {};  // seconds per token
  std::vector<double> decode = {};
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Random tokens, so that the routers send them to many experts.
std::vector<Token> random_tokens(Index count, std::uint64_t seed) {
  std::vector<Token> tokens(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<Token>(random_bits({.seed = seed, .position = i})[0] % vocab);
  }
  return tokens;
}

void measure_round(Subject& subject, std::uint64_t seed) {
  const auto tokens = random_tokens(prompt, seed);
  subject.state.reset();
  double begun = now();
  subject.session.prefill(tokens, subject.state).value();
  subject.prefill.push_back((now() - begun) / static_cast<double>(prompt));
  begun = now();
  for (Index i = 0; i < decoded; ++i) {
    subject.session.step(tokens[static_cast<std::size_t>(i)], subject.state).value();
  }
  subject.decode.push_back((now() - begun) / static_cast<double>(decoded));
}

Result<void> run(DType dtype, int threads) {
  ThreadPool pool(threads);
  std::vector<Subject> subjects;
  for (const Index n_expert : expert_counts) {
    const ModelSpec spec = spec_of(n_expert);
    KRAIT_ASSIGN_OR_RETURN(const WeightStore weights, random_weights(spec, 1, "", dtype));
    KRAIT_ASSIGN_OR_RETURN(Model model, build_model(spec, weights));
    State state = model.initial_state();
    subjects.push_back({n_expert, Session(std::move(model), pool), std::move(state)});
  }
  for (int round = 0; round <= rounds; ++round) {
    for (Subject& subject : subjects) measure_round(subject, static_cast<std::uint64_t>(round));
    if (round > 0) continue;
    for (Subject& subject : subjects) subject.prefill.clear(), subject.decode.clear();  // warm now
  }

  const double none_prefill = median(subjects[0].prefill);
  const double none_decode = median(subjects[0].decode);
  const double dense_prefill = median(subjects[1].prefill);
  const double dense_decode = median(subjects[1].decode);
  std::printf("%-16s %10s %8s %8s %8s %10s %8s %8s\n", "", "prefill/s", "/ dense", "ff us",
              "/ dense", "decode/s", "/ dense", "ff us");
  for (const Subject& subject : subjects) {
    const double prefill = median(subject.prefill);
    const double decode = median(subject.decode);
    const double ff = prefill - none_prefill;
    std::printf("%-16s %10.0f %8.2f %8.1f %8.2f %10.0f %8.2f %8.1f\n",
                name_of(subject.n_expert).c_str(), 1.0 / prefill, dense_prefill / prefill, 1e6 * ff,
                subject.n_expert == 0 ? 0.0 : (dense_prefill - none_prefill) / ff, 1.0 / decode,
                dense_decode / decode, 1e6 * (decode - none_decode));
  }
  return {};
}

bool parse(int argc, char** argv, DType& dtype, int& threads) {
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    if (i + 1 == argc) return false;
    const std::string_view value = argv[i + 1];
    if (name == "--threads") {
      threads = std::atoi(argv[i + 1]);
      if (threads < 1 || threads > 4096) return false;
    } else if (name == "--dtype" && (value == "f32" || value == "bf16")) {
      dtype = value == "f32" ? DType::f32 : DType::bf16;
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace krait::bench

int main(int argc, char** argv) {
  krait::DType dtype = krait::DType::f32;
  int threads = krait::available_threads();
  if (!krait::bench::parse(argc, argv, dtype, threads)) {
    std::fprintf(stderr, "usage: krait_experts_bench [--dtype f32|bf16] [--threads N]\n");
    return 2;
  }
  if (const auto done = krait::bench::run(dtype, threads); !done) {
    std::fprintf(stderr, "%s\n", done.error().message.c_str());
    return 1;
  }
  return 0;
}
