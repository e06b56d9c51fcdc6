#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>

#include "krait/core/thread_pool.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/kernels/softmax.hpp"
#include "krait/loading/registry.hpp"
#include "krait/models/session.hpp"
#include "krait/tools/aqlm.hpp"
#include "krait/tools/convert.hpp"
#include "krait/weights/convert.hpp"
#include "tests/support/relative_difference.hpp"
#include "tests/support/support.hpp"
#include "tools/aqlm/fisher.hpp"
#include "tools/aqlm/own_text.hpp"
#include "tools/aqlm/presets.hpp"
#include "tools/aqlm/tune.hpp"

namespace krait::aqlm_quantize_test {
namespace {

namespace fs = std::filesystem;

struct AqlmQuantize : testing::Test {
  std::string in(const std::string& name) const { return (folder.path() / name).string(); }

  static std::string source(const std::string& name) {
    return (test::bundled_models_dir() / name).string();
  }

  Result<AqlmReport> run(const std::string& model, const std::string& to, AqlmOptions options,
                         Progress progress = {}) const {
    options.preset = "fast";
    ThreadPool pool(2);
    return quantize_aqlm(source(model), in(to), options, pool, progress);
  }

  static std::string text() {
    return test::read_file(test::data_dir() / "data/heldout_64k.txt").substr(0, 2000);
  }

  static constexpr Index few_tokens = 18 << 10;

  test::TemporaryDirectory folder;
};

// The largest difference of logits after a few tokens, over the largest logit.
double difference(const Model& a, const Model& b) {
  SerialExecutor serial;
  Session first(a, serial);
  Session second(b, serial);
  State first_state = a.initial_state();
  State second_state = b.initial_state();
  const std::vector<Token> tokens = {'T', 'h', 'e', ' ', 'c', 'a', 't', ' '};
  const auto x = first.prefill(tokens, first_state).value();
  const auto y = second.prefill(tokens, second_state).value();
  return test::relative_difference(y, x);
}

// Cross-entropy of 4,000 bytes behind the calibration text.
double loss_elsewhere(const Model& model) {
  SerialExecutor serial;
  Session session(model, serial);
  State state = model.initial_state();
  std::vector<Token> tokens;
  for (const char c : test::read_file(test::data_dir() / "data/heldout_64k.txt").substr(2000, 4000))
    tokens.push_back(static_cast<unsigned char>(c));
  std::vector<float> log_probs(tokens.size() - 1);
  EXPECT_TRUE(session.score(tokens, state, log_probs));
  double sum = 0.0;
  for (const float log_prob : log_probs) sum -= static_cast<double>(log_prob);
  return sum / static_cast<double>(log_probs.size());
}

TEST_F(AqlmQuantize, WritesTheLayoutOfHuggingFace) {
  AqlmOptions options{.scheme = {2, 8, 8}, .calibration = text()};
  const AqlmReport report = run("krait-bytes-draft", "new", options).value();
  ASSERT_EQ(report.matrices.size(), 4U);
  EXPECT_EQ(report.matrices.front().name, "backbone.layers.0.mixer.in_proj");
  for (const auto& matrix : report.matrices) {
    EXPECT_GT(matrix.error, 0.0);
    EXPECT_LT(matrix.error, 0.1);
  }
  EXPECT_LT(report.bytes_after, report.bytes_before);
  EXPECT_FALSE(fs::exists(in("new.partial")));

  const Checkpoint made = open_checkpoint(in("new")).value();
  const Checkpoint before = open_checkpoint(source("krait-bytes-draft")).value();
  const auto shape = [&](const std::string& name) {
    const auto* entry = made.weights.find("backbone.layers.0.mixer." + name);
    return entry == nullptr
               ? "none"
               : std::string(to_string(entry->tensor.dtype)) + ' ' + to_string(entry->tensor.shape);
  };
  EXPECT_EQ(shape("in_proj.codes"), "i8 [256,8,2]");
  EXPECT_EQ(shape("in_proj.codebooks"), "f16 [2,256,1,8]");
  EXPECT_EQ(shape("in_proj.scales"), "f16 [256,1,1,1]");
  EXPECT_EQ(shape("in_proj.weight"), "none");
  // Everything else is as it was, to the bit.
  for (const auto& [name, entry] : before.weights.entries()) {
    if (name.ends_with("in_proj.weight") || name.ends_with("out_proj.weight")) continue;
    const auto* copy = made.weights.find(name);
    ASSERT_NE(copy, nullptr) << name;
    EXPECT_EQ(copy->tensor.dtype, entry.tensor.dtype) << name;
    EXPECT_TRUE(test::same_bits(std::span(static_cast<const std::byte*>(copy->tensor.data),
                                          static_cast<std::size_t>(copy->tensor.bytes())),
                                std::span(static_cast<const std::byte*>(entry.tensor.data),
                                          static_cast<std::size_t>(entry.tensor.bytes()))))
        << name;
  }
  EXPECT_NE(made.config.find("\"quant_method\": \"aqlm\""), std::string::npos);
  EXPECT_NE(made.config.find("\"nbits_per_codebook\": 8"), std::string::npos);
  EXPECT_NE(made.config.find("\"backbone.layers.1.mixer.x_proj\""), std::string::npos);
  EXPECT_NE(made.config.find("\"lm_head.weight\""), std::string::npos);
  EXPECT_NE(made.config.find("\"lm_head\""), std::string::npos);
  EXPECT_NE(made.config.find("\"num_hidden_layers\": 2"), std::string::npos);

  const Model original = load_model(source("krait-bytes-draft")).value();
  EXPECT_LT(difference(load_model(in("new")).value(), original), 0.5);
}

// As they are stored, codes of every width are those that the error was measured with.
TEST_F(AqlmQuantize, CodesOfEveryWidthComeBackFromTheFile) {
  const std::string name = "backbone.layers.0.mixer.in_proj";
  const Checkpoint before = open_checkpoint(source("krait-bytes-draft")).value();
  const TensorView& stored = before.weights.find(name + ".weight")->tensor;
  std::vector<float> weights(static_cast<std::size_t>(stored.size()));
  convert_floats(stored, DType::f32, weights.data());
  for (int bits = 1; bits <= 16; ++bits) {
    SCOPED_TRACE(testing::Message() << bits << " bits");
    const AqlmScheme scheme{.codebooks = 1, .bits = bits, .in_group = bits <= 12 ? 4 : 16};
    const std::string to = std::to_string(bits);
    const AqlmReport report =
        run("krait-bytes-draft", to, {.scheme = scheme, .keep = {"*.layers.1.*", "*out_proj*"}})
            .value();
    ASSERT_EQ(report.matrices.size(), 1U);

    const Checkpoint made = open_checkpoint(in(to)).value();
    const TensorView& codes = made.weights.find(name + ".codes")->tensor;
    ASSERT_EQ(codes.dtype, bits <= 8 ? DType::i8 : DType::i16);
    int least = 0;
    int most = 0;
    for (Index i = 0; i < codes.size(); ++i) {
      const int code = bits <= 8 ? int{static_cast<const std::int8_t*>(codes.data)[i]}
                                 : int{static_cast<const std::int16_t*>(codes.data)[i]};
      least = std::min(least, code);
      most = std::max(most, code);
    }
    EXPECT_GE(least, -(1 << (bits - 1)));
    EXPECT_LT(most, 1 << (bits - 1));
    if (bits < 12) {  // both halves of the codebook, where there are more groups than codewords
      EXPECT_LT(least, -(1 << (bits - 1)) / 2);
      EXPECT_GE(most, (1 << (bits - 1)) / 2);
    }

    const TensorView& of_rows = made.weights.find(name + ".scales")->tensor;
    std::vector<float> scales(static_cast<std::size_t>(of_rows.size()));
    convert_floats(of_rows, DType::f32, scales.data());
    std::vector<float> decoded(weights.size());
    kernels::decode_aqlm({.scheme = scheme,
                          .codes = codes.data,
                          .code_type = codes.dtype,
                          .codebooks = made.weights.find(name + ".codebooks")->tensor.data,
                          .codebook_type = DType::f16,
                          .scales = scales.data(),
                          .rows = stored.shape[0],
                          .cols = stored.shape[1]},
                         {0, stored.shape[0]}, decoded.data());
    double error = 0.0;
    double all = 0.0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      error += std::pow(static_cast<double>(decoded[i]) - static_cast<double>(weights[i]), 2);
      all += std::pow(static_cast<double>(weights[i]), 2);
    }
    EXPECT_NEAR(error / all, report.matrices.front().error, 1e-3 * error / all + 1e-7);
  }
}

TEST_F(AqlmQuantize, QuantisesExpertsAndKeepsWhatIsNamed) {
  AqlmOptions options{.scheme = {4, 4, 8},
                      .calibration = text(),
                      .keep = {"*.layers.0.*", "*.layers.1.*", "*.layers.2.*", "*.layers.3.*",
                               "*.layers.4.*", "*.layers.5.mixer.*"}};
  const AqlmReport report = run("krait-bytes-moe", "experts", options).value();
  ASSERT_FALSE(report.matrices.empty());
  for (const auto& matrix : report.matrices) {
    EXPECT_EQ(matrix.name.find("backbone.layers.5.moe."), 0U) << matrix.name;
  }
  options.keep.push_back("*.moe.*.weight");
  EXPECT_EQ(run("krait-bytes-moe", "none", options).error().message,
            "[aqlm] keep: expected a matrix to quantise, found none");
  const Model model = load_model(in("experts")).value();
  Index codes = 0;
  for (const TensorUse& use : model.plan().tensors) codes += use.form == "aqlm" ? 1 : 0;
  EXPECT_EQ(codes, std::ssize(report.matrices));
}

TEST_F(AqlmQuantize, GoesOnAfterAnInterruptionWithTheSameBytes) {
  const AqlmOptions options{.scheme = {4, 4, 8}, .calibration = text(), .seed = 5};
  ASSERT_TRUE(run("krait-bytes-draft", "whole", options));
  const std::string expected = test::read_file(folder.path() / "whole/model.safetensors");
  for (const int stop_after : {1, 3, 7, 12}) {
    int calls = 0;
    const auto stop = [&](Index, Index) { return ++calls > stop_after ? Flow::stop : Flow::go_on; };
    const auto stopped = run("krait-bytes-draft", "parts", options, stop);
    ASSERT_FALSE(stopped);
    EXPECT_EQ(stopped.error().code, ErrorCode::cancelled);
    EXPECT_FALSE(fs::exists(in("parts")));
  }
  EXPECT_TRUE(fs::exists(in("parts.partial")));
  // Another call does not mix its work with this.
  AqlmOptions other = options;
  other.seed = 6;
  const auto refused = run("krait-bytes-draft", "parts", other);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message.find("[aqlm] unfinished work: expected that of the same call"),
            0U);
  // A damaged piece is made again.
  for (const auto& entry : fs::directory_iterator(in("parts.partial"))) {
    if (entry.path().extension() != ".safetensors") continue;
    std::string bytes = test::read_file(entry.path());
    bytes.back() = static_cast<char>(bytes.back() ^ 1);
    test::write_file(entry.path(), bytes);
    break;
  }
  ASSERT_TRUE(run("krait-bytes-draft", "parts/", options));
  EXPECT_EQ(test::read_file(folder.path() / "parts/model.safetensors"), expected);
  EXPECT_FALSE(fs::exists(in("parts.partial")));
}

// The tuned model predicts more as the original does, on the text and elsewhere; an interruption
// in the middle of tuning changes no bytes, nor does how the caller rounds.
TEST_F(AqlmQuantize, TunesTheWholeModel) {
  AqlmOptions options{
      .scheme = {2, 4, 8}, .preset = "best", .calibration = text(), .tune_tokens = few_tokens};
  ThreadPool pool(2);
  SerialExecutor serial;
  const std::string model = source("krait-bytes-draft");
  const AqlmReport tuned = quantize_aqlm(model, in("tuned"), options, pool).value();
  ASSERT_TRUE(tuned.tuning);
  EXPECT_GT(tuned.tuning->first, 0.0);
  EXPECT_LT(tuned.tuning->last, 0.95 * tuned.tuning->first);
  options.tune_tokens = 0;
  const AqlmReport plain = quantize_aqlm(model, in("plain"), options, pool).value();
  EXPECT_FALSE(plain.tuning);
  EXPECT_LT(loss_elsewhere(load_model(in("tuned")).value()),
            loss_elsewhere(load_model(in("plain")).value()));

  options.tune_tokens = few_tokens;
  std::vector<Index> totals;
  int calls = 0;
  const auto stop = [&](Index, Index total) {
    if (totals.empty() || totals.back() != total) totals.push_back(total);
    // Some steps into the last stage, behind the matrices and the text of the model's own.
    return totals.size() == 3 && ++calls > 15 ? Flow::stop : Flow::go_on;
  };
  std::fesetround(FE_UPWARD);
  const auto stopped = quantize_aqlm(model, in("again"), options, serial, stop);
  std::fesetround(FE_TONEAREST);
  ASSERT_FALSE(stopped);
  ASSERT_TRUE(fs::exists(in("again.partial/tuning.safetensors")));
  ASSERT_TRUE(fs::exists(in("again.partial/own_text.0.safetensors")));
  std::fesetround(FE_UPWARD);
  const auto finished = quantize_aqlm(model, in("again"), options, serial);
  EXPECT_EQ(std::fegetround(), FE_UPWARD);
  std::fesetround(FE_TONEAREST);
  const AqlmReport again = finished.value();
  EXPECT_EQ(again.tuning->first, tuned.tuning->first);
  EXPECT_EQ(again.tuning->last, tuned.tuning->last);
  EXPECT_EQ(test::read_file(in("again/model.safetensors")),
            test::read_file(in("tuned/model.safetensors")));
}

TEST_F(AqlmQuantize, TunesLargeModelsLessByDefault) {
  const aqlm::Preset preset = aqlm::preset_of("default").value();
  EXPECT_EQ(preset.tune_tokens(2'000'000), 256 << 10);
  EXPECT_EQ(preset.tune_tokens(22'800'000), 256 << 10);
  EXPECT_EQ(preset.tune_tokens(130'000'000), 46'153);
  EXPECT_GT(preset.tune_tokens(183'000'000), 32 << 10);
  EXPECT_EQ(preset.tune_tokens(184'000'000), 0);
  EXPECT_EQ(aqlm::preset_of("fast")->tune_tokens(1000), 0);
  EXPECT_EQ(aqlm::preset_of("best")->tune_tokens(7'000'000'000), 2 << 20);
}

// Text of the model's own: as surprising to the model as its distributions are uncertain, and the
// same whoever writes how much of it at a time.
TEST_F(AqlmQuantize, TheModelWritesAsItPredicts) {
  const Model model = load_model(source("krait-bytes-draft")).value();
  std::vector<Token> prompt;
  for (const char c : text()) prompt.push_back(static_cast<unsigned char>(c));
  SerialExecutor serial;
  ThreadPool pool(2);
  const auto write = [&](const std::string& name, Index sequences, Executor& executor) {
    const PartialWork work = PartialWork::open("aqlm", in(name), "key").value();
    const aqlm::OwnTextOptions options{
        .tokens = 6000, .prompt_tokens = 100, .continuation_tokens = 1000, .sequences = sequences};
    return aqlm::own_text(model, prompt, options, 7, work, executor, {}).value();
  };
  const std::vector<Token> tokens = write("one", 1, serial);
  ASSERT_EQ(tokens.size(), 6000U);
  EXPECT_EQ(write("four", 4, pool), tokens);
  EXPECT_EQ(write("one", 1, serial), tokens);  // as it was kept

  Session session(model, serial);
  double surprise = 0.0;
  double entropy = 0.0;
  std::vector<float> law(static_cast<std::size_t>(model.vocab()));
  for (std::size_t i = 0; i < 6; ++i) {
    State state = model.initial_state();
    auto logits = session.prefill(std::span(prompt).subspan(1900 * i / 6, 100), state).value();
    for (std::size_t t = 0; t < 1000; ++t) {
      kernels::softmax(logits.first(law.size()), law);
      const Token next = tokens[i * 1000 + t];
      surprise -= std::log(static_cast<double>(law[static_cast<std::size_t>(next)]));
      for (const float p : law) {
        if (p > 0.0F) entropy -= static_cast<double>(p) * std::log(static_cast<double>(p));
      }
      logits = session.step(next, state).value();
    }
  }
  // The deviation of a mean of 6,000 is about 0.02.
  EXPECT_NEAR(surprise / 6000.0, entropy / 6000.0, 0.08);
}

// A quadratic whose gradient leads to another matrix: codebooks and scales alone end farther from
// it than with codes that follow, and what they stand for is what is stored.
TEST_F(AqlmQuantize, CodesFollowWhereGradientsLead) {
  constexpr Index rows = 24;
  constexpr Index cols = 64;
  const std::vector<float> from = test::random_floats(rows * cols, 1);
  const std::vector<float> to = test::random_floats(rows * cols, 2);
  SerialExecutor serial;
  const AqlmMatrix start =
      encode_aqlm({from.data(), rows, cols}, {}, {2, 4, 8}, {.beam = 4, .rounds = 3}, 1, serial)
          .value();
  const auto distance_after = [&](double rate_of_weights) {
    aqlm::TunedMatrix tuned(start);
    std::vector<float> weights(rows * cols);
    std::vector<float> gradient(rows * cols);
    aqlm::AdamStep step;
    constexpr int steps = 300;
    for (int i = 1; i <= steps; ++i) {
      tuned.decode(weights.data());
      for (std::size_t k = 0; k < weights.size(); ++k) gradient[k] = weights[k] - to[k];
      step.rate = 1.0 - static_cast<double>(i) / steps;
      step.unseen1 *= aqlm::Adam::beta1;
      step.unseen2 *= aqlm::Adam::beta2;
      tuned.move(gradient.data(), {.codebooks = 0.02, .weights = rate_of_weights}, step);
      if (i % 8 == 0) tuned.encode(4, serial);
    }
    const AqlmMatrix stored = tuned.stored();
    double sum = 0.0;
    for (Index r = 0; r < rows; ++r) {
      std::vector<float> row(cols);
      stored.row(r, row);
      for (std::size_t k = 0; k < row.size(); ++k) {
        const double far = static_cast<double>(row[k]) -
                           static_cast<double>(to[static_cast<std::size_t>(r * cols) + k]);
        sum += far * far;
      }
    }
    return sum / static_cast<double>(rows * cols);
  };
  const double with_codes = distance_after(0.02);
  EXPECT_LT(with_codes, 0.15);  // of a variance of 1/3
  EXPECT_LT(with_codes, 0.6 * distance_after(0.0));
}

// With "best" norms move with the matrices, but for those that are kept; with "default", and of
// whatever else is not quantised, every bit stays.
TEST_F(AqlmQuantize, TunesNormsAloneBesideTheMatrices) {
  const std::string model = in("in f32");  // where the smallest move is seen
  ASSERT_TRUE(convert_checkpoint(source("krait-bytes-draft"), model, {.dtype = DType::f32}));
  const Checkpoint before = open_checkpoint(model).value();
  const auto moved = [&](const std::string& preset) {
    const AqlmOptions options{.scheme = {2, 4, 8},
                              .preset = preset,
                              .calibration = text(),
                              .keep = {"*.layers.0.*"},
                              .tune_tokens = few_tokens};
    ThreadPool pool(2);
    const AqlmReport report = quantize_aqlm(model, in(preset), options, pool).value();
    EXPECT_LT(report.tuning->last, report.tuning->first);
    const Checkpoint after = open_checkpoint(in(preset)).value();
    std::vector<std::string> names;
    for (const auto& [name, entry] : before.weights.entries()) {
      const WeightStore::Entry* found = after.weights.find(name);
      if (found == nullptr) continue;  // quantised
      EXPECT_EQ(found->tensor.dtype, entry.tensor.dtype);
      if (found->tensor.bytes() != entry.tensor.bytes() ||
          std::memcmp(found->tensor.data, entry.tensor.data,
                      static_cast<std::size_t>(entry.tensor.bytes())) != 0) {
        names.push_back(name);
      }
    }
    return names;
  };
  EXPECT_EQ(moved("best"),
            (std::vector<std::string>{"backbone.layers.1.norm.weight", "backbone.norm_f.weight"}));
  EXPECT_EQ(moved("default"), std::vector<std::string>());
}

// A long text is learned from in rounds, as far as there are tokens to look at; cut between any two
// steps, tuning ends with the same numbers.
TEST_F(AqlmQuantize, TunesInRounds) {
  const CheckpointPlan plan = plan_checkpoint(source("krait-bytes-draft")).value();
  const Model original = load_model(source("krait-bytes-draft")).value();
  const std::string path = "layers.0.mixer.in_proj.weight";
  const std::string moved = "backbone.layers.0.mixer.x_proj.weight";
  const auto& view = plan.checkpoint.weights.find("backbone." + path)->tensor;
  AlignedBuffer<float> weights(view.size());
  convert_floats(view, DType::f32, weights.data());
  ThreadPool pool(2);
  const AqlmMatrix matrix = encode_aqlm({weights.data(), view.shape[0], view.shape[1]}, {},
                                        {1, 4, 8}, {.beam = 4, .rounds = 1}, 1, pool)
                                .value();
  std::vector<Token> tokens;
  for (const char c : text().substr(0, 900)) tokens.push_back(static_cast<unsigned char>(c));
  const auto tuned = [&](const std::string& name, const aqlm::TuneOptions& options, int stop_at,
                         std::vector<Index>& totals) {
    const std::vector<aqlm::TuneTarget> targets = {{"in_proj", path, 0, matrix}};
    const PartialWork work = PartialWork::open("aqlm", in(name), "key").value();
    int calls = 0;
    const auto progress = [&](Index done, Index total) {
      EXPECT_LE(done, total);
      totals.push_back(total);
      return ++calls == stop_at ? Flow::stop : Flow::go_on;
    };
    auto found =
        aqlm::tune(plan, original, tokens, targets, {moved}, options, work, pool, progress);
    EXPECT_EQ(found.has_value(), calls != stop_at);
    EXPECT_TRUE(!found || found->last < found->first);
    if (!found) return std::string();
    EXPECT_EQ(work.read(aqlm::tuned_dense)->entries().size(), 1U);
    return fmt::format("{}", found->last) +
           test::read_file(in(name + ".partial/in_proj.tuned.safetensors")) +
           test::read_file(in(name + ".partial/dense.tuned.safetensors"));
  };
  // 28 rows, of which 7 are held out: epochs of 11 steps in rounds of 4.
  const aqlm::TuneOptions options{
      .tokens = 1920, .steps_per_round = 4, .row_tokens = 32, .rows_per_step = 2};
  std::vector<Index> totals;
  const std::string whole = tuned("whole", options, -1, totals);
  EXPECT_EQ(totals.size(), 30U);  // 1920 tokens, less than three epochs
  EXPECT_EQ(totals.front(), 30);
  for (const int stop_at : {1, 4, 5, 13, 29}) {
    const std::string name = "cut" + std::to_string(stop_at);
    tuned(name, options, stop_at, totals);
    EXPECT_EQ(tuned(name, options, -1, totals), whole) << stop_at;
  }
}

TEST_F(AqlmQuantize, OutputWeightsAreKept) {
  AqlmOptions options{.scheme = {4, 4, 8}, .calibration = text(), .weigh = "fisher"};
  ASSERT_TRUE(run("krait-bytes-draft", "whole", options));
  for (const int stop_at : {1, 9}) {  // in the first pass over the text, and behind all eight
    int calls = 0;
    const auto stop = [&](Index, Index) { return ++calls == stop_at ? Flow::stop : Flow::go_on; };
    const auto stopped = run("krait-bytes-draft", "cut", options, stop);
    ASSERT_FALSE(stopped);
    EXPECT_EQ(stopped.error().code, ErrorCode::cancelled);
    EXPECT_EQ(fs::exists(in("cut.partial/output-weights.safetensors")), stop_at > 8);
  }
  Index first = -1;
  const auto note = [&](Index done, Index) {
    if (first < 0) first = done;
    return Flow::go_on;
  };
  ASSERT_TRUE(run("krait-bytes-draft", "cut", options, note));
  EXPECT_GT(first, 0);
  EXPECT_EQ(test::read_file(in("cut/model.safetensors")),
            test::read_file(in("whole/model.safetensors")));
}

// What nothing reads has no part in the loss; what is read has, with a mean of 1 over the outputs.
TEST_F(AqlmQuantize, FisherFindsOutputsWithoutEffect) {
  const std::string from = source("krait-bytes-draft");
  fs::copy(from, in("dead"));
  const std::string file = in("dead") + "/model.safetensors";
  {
    const Checkpoint checkpoint = open_checkpoint(from).value();
    const auto& view = checkpoint.weights.find("backbone.layers.1.mixer.out_proj.weight")->tensor;
    std::vector<bf16> weights(static_cast<std::size_t>(view.size()));
    std::memcpy(weights.data(), view.data, weights.size() * sizeof(bf16));
    for (std::size_t row = 0; row < 64; ++row) weights[row * 128 + 5] = bf16{};  // of channel 5
    std::vector<NamedTensor> tensors;
    for (const auto& [name, entry] : checkpoint.weights.entries()) {
      tensors.push_back({name, entry.tensor});
      if (entry.tensor.data == view.data) tensors.back().tensor.data = weights.data();
    }
    ASSERT_TRUE(write_safetensors(file, tensors));
  }
  const CheckpointPlan plan = plan_checkpoint(in("dead")).value();
  std::vector<Token> tokens;
  for (const char c : text()) tokens.push_back(static_cast<unsigned char>(c));
  const std::vector<aqlm::FisherPlace> places = {{"layers.1.mixer.in_proj.weight", 0, 256, 64},
                                                 {"layers.1.mixer.out_proj.weight", 0, 64, 128}};
  ThreadPool pool(2);
  SerialExecutor serial;
  const auto found = aqlm::output_fisher(plan, tokens, places, serial).value();
  EXPECT_EQ(found, aqlm::output_fisher(plan, tokens, places, pool).value());
  ASSERT_EQ(found.size(), 2U);
  EXPECT_GT(found[0][5], 0.1F);              // x of the channel, which x_proj reads, too
  EXPECT_FLOAT_EQ(found[0][128 + 5], 0.1F);  // its z
  for (const auto& weights : found) {
    double sum = 0.0;
    for (const float weight : weights) sum += static_cast<double>(weight);
    EXPECT_NEAR(sum / static_cast<double>(weights.size()), 1.0, 1e-5);
    EXPECT_GT(std::ranges::max(weights), 1.5F);
  }
}

// A head of its own, though the configuration ties it, and one matrix under the head's name:
// weighed and tuned is what inference uses.
TEST_F(AqlmQuantize, SeesTheHeadThatInferenceUses) {
  const std::string from = source("krait-bytes-draft");
  const Checkpoint checkpoint = open_checkpoint(from).value();
  std::vector<NamedTensor> tensors;
  for (const auto& [name, entry] : checkpoint.weights.entries()) {
    tensors.push_back({name, entry.tensor});
  }
  const auto embedding =
      std::ranges::find(tensors, "backbone.embeddings.weight", &NamedTensor::name);
  ASSERT_NE(embedding, tensors.end());
  std::vector<bf16> head(static_cast<std::size_t>(embedding->tensor.size()));
  std::memcpy(head.data(), embedding->tensor.data, head.size() * sizeof(bf16));
  std::vector<NamedTensor> renamed = tensors;
  renamed[static_cast<std::size_t>(embedding - tensors.begin())].name = "lm_head.weight";
  for (std::size_t i = 0; i < head.size(); i += 64) head[i] = to_bf16(0.5F);
  tensors.push_back({"lm_head.weight", {head.data(), DType::bf16, embedding->tensor.shape}});

  const std::string tied = checkpoint.config;
  std::string untied = tied;
  const std::string_view key = "\"tie_word_embeddings\": true";
  untied.replace(untied.find(key), key.size(), "\"tie_word_embeddings\": false");
  const auto write = [&](const char* name, const std::vector<NamedTensor>& all,
                         const std::string& config) {
    fs::create_directory(in(name));
    test::write_file(in(name) + "/config.json", config);
    ASSERT_TRUE(write_safetensors(in(name) + "/model.safetensors", all));
  };
  write("tied", tensors, tied);
  write("untied", tensors, untied);
  write("renamed", renamed, tied);
  ThreadPool pool(2);
  const std::vector<std::pair<std::string, std::string>> equal = {{in("tied"), in("untied")},
                                                                  {in("renamed"), from}};
  int count = 0;
  for (const auto& [a, b] : equal) {
    for (const auto& [weigh, tokens] : {std::pair("fisher", Index{0}), {"inputs", few_tokens}}) {
      const AqlmOptions options{.scheme = {1, 4, 8},
                                .preset = "fast",
                                .calibration = text(),
                                .weigh = weigh,
                                .tune_tokens = tokens};
      const auto codes = [&](const std::string& model) {
        const std::string to = in("made of") + std::to_string(count++);
        const auto report = quantize_aqlm(model, to, options, pool);
        EXPECT_TRUE(report) << report.error().message;
        std::string all = report->tuning ? fmt::to_string(report->tuning->last) : "";
        const Checkpoint made = open_checkpoint(to).value();
        for (const auto& [name, entry] : made.weights.entries()) {
          if (!name.ends_with(".codes")) continue;
          all.append(static_cast<const char*>(entry.tensor.data),
                     static_cast<std::size_t>(entry.tensor.bytes()));
        }
        return all;
      };
      EXPECT_EQ(codes(a), codes(b)) << a << " " << weigh;
    }
  }
}

// With outputs weighed, other codes; the weights that they stand for are those of the matrix, not
// of the one whose rows were scaled.
TEST_F(AqlmQuantize, WeighsOutputs) {
  AqlmOptions options{.scheme = {2, 8, 8}, .calibration = text()};
  ASSERT_TRUE(run("krait-bytes-draft", "inputs", options));
  options.weigh = "fisher";
  ASSERT_TRUE(run("krait-bytes-draft", "fisher", options));
  EXPECT_NE(test::read_file(folder.path() / "fisher/model.safetensors"),
            test::read_file(folder.path() / "inputs/model.safetensors"));
  const Model original = load_model(source("krait-bytes-draft")).value();
  EXPECT_LT(difference(load_model(in("fisher")).value(), original), 0.5);
}

TEST_F(AqlmQuantize, IsNotDoneTwiceAtOnce) {
  const AqlmOptions options{.scheme = {4, 4, 8}};
  bool was_tried = false;
  const auto meanwhile = [&](Index, Index) {
    if (!was_tried) {
      was_tried = true;
      const auto second = run("krait-bytes-draft", "new", options);
      EXPECT_FALSE(second);
      if (!second) {
        EXPECT_EQ(second.error().message.find(
                      "[aqlm] unfinished work: expected none that runs, found another"),
                  0U);
      }
    }
    return Flow::go_on;
  };
  EXPECT_TRUE(run("krait-bytes-draft", "new", options, meanwhile));
  EXPECT_TRUE(was_tried);
}

TEST_F(AqlmQuantize, GoesOnWhereACallGotNoFurtherThanItsFolder) {
  const AqlmOptions options{.scheme = {4, 4, 8}};
  fs::create_directory(in("new.partial"));
  test::write_file(in("new.partial/key.123-0.tmp"), "krait a");
  EXPECT_TRUE(run("krait-bytes-draft", "new", options));
  EXPECT_FALSE(fs::exists(in("new.partial")));
  // A folder of somebody else's is left alone.
  fs::create_directory(in("other.partial"));
  test::write_file(in("other.partial/notes"), "mine");
  EXPECT_FALSE(run("krait-bytes-draft", "other", options));
  EXPECT_EQ(test::read_file(in("other.partial/notes")), "mine");
}

// The same model, altered: its configuration, and one tensor, which gets a byte all over.
std::string altered(const std::string& source, const std::string& to,
                    const std::function<void(std::string& config)>& edit,
                    const std::string& filled = "", std::byte fill = {}) {
  const Checkpoint checkpoint = open_checkpoint(source).value();
  fs::create_directory(to);
  std::string config = checkpoint.config;
  edit(config);
  test::write_file(to + "/config.json", config);
  std::vector<NamedTensor> tensors;
  std::vector<std::byte> bytes;
  for (const auto& [name, entry] : checkpoint.weights.entries()) {
    tensors.push_back({name, entry.tensor});
    if (name != filled) continue;
    bytes.assign(static_cast<std::size_t>(entry.tensor.bytes()), fill);
    tensors.back().tensor.data = bytes.data();
  }
  EXPECT_TRUE(write_safetensors(to + "/model.safetensors", tensors));
  return to;
}

TEST_F(AqlmQuantize, ReplacesANoteThatNothingIsQuantised) {
  constexpr std::string_view key = "\"quantization_config\"";
  ThreadPool pool(2);
  for (const bool is_last : {false, true}) {
    const std::string name = is_last ? "last" : "first";
    const std::string model =
        altered(source("krait-bytes-draft"), in(name), [&](std::string& config) {
          if (is_last) {
            config.insert(config.rfind('}'), fmt::format(",\n {} :\n null\n", key));
          } else {
            config.insert(config.find('{') + 1, fmt::format("{}: null ,", key));
          }
        });
    ASSERT_TRUE(quantize_aqlm(model, in("new_" + name), {.preset = "fast"}, pool));
    const auto made = load_model(in("new_" + name));
    EXPECT_TRUE(made) << made.error().message;
  }
}

// With an in_proj of zeros, out_proj sees nothing but zeros.
TEST_F(AqlmQuantize, AMatrixOfDeadInputsIsFittedToItsWeights) {
  const std::string model = altered(
      source("krait-bytes-draft"), in("dead"), [](std::string&) {},
      "backbone.layers.1.mixer.in_proj.weight");
  ThreadPool pool(2);
  for (const char* preset : {"fast", "default"}) {
    const AqlmOptions options{
        .scheme = {4, 4, 8}, .preset = preset, .calibration = text(), .tune_tokens = 0};
    const auto report = quantize_aqlm(model, in(preset), options, pool);
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_EQ(report->matrices.back().name, "backbone.layers.1.mixer.out_proj");
    EXPECT_GT(report->matrices.back().error, 0.0);
    EXPECT_LT(report->matrices.back().error, 0.1);
  }
}

// Also those that would be copied as they are.
TEST_F(AqlmQuantize, WeightsThatAreNotFiniteAreNamedBeforeTheWork) {
  ThreadPool pool(2);
  int number = 0;
  for (const std::string part : {"A_log", "x_proj.weight", "in_proj.weight", "conv1d.bias"}) {
    const std::string tensor = "backbone.layers.1.mixer." + part;
    const std::string model = altered(
        source("krait-bytes-draft"), in(fmt::to_string(number++)), [](std::string&) {}, tensor,
        std::byte{0xFF});
    const auto report = quantize_aqlm(
        model, in("bad"), {.preset = "fast", .calibration = text()}, pool,
        [](Index, Index) -> Flow { return ADD_FAILURE() << "work began", Flow::stop; });
    ASSERT_FALSE(report);
    EXPECT_EQ(report.error().code, ErrorCode::not_finite);
    EXPECT_EQ(report.error().message.find("[aqlm] " + tensor +
                                          ": expected finite weights, found nan (element [0"),
              0U)
        << report.error().message;
    EXPECT_FALSE(fs::exists(in("bad")));
    EXPECT_FALSE(fs::exists(in("bad.partial")));
  }
}

TEST_F(AqlmQuantize, AModelWithoutItsMatricesIsNotBlamedOnPatterns) {
  ThreadPool pool(2);
  const std::string llama = (test::data_dir() / "golden/hf_llama").string();
  EXPECT_EQ(quantize_aqlm(llama, in("bad"), {}, pool).error().message,
            "[aqlm] model: expected in_proj or out_proj of a mixer, or experts, found none (" +
                llama + ")");
  EXPECT_FALSE(fs::exists(in("bad")));
}

TEST_F(AqlmQuantize, WhatCannotBeDoneLeavesNothing) {
  const auto message = [&](const AqlmOptions& options, const std::string& to = "bad") {
    const auto result = run("krait-bytes-draft", to, options);
    EXPECT_FALSE(fs::exists(in("bad")));
    EXPECT_FALSE(fs::exists(in("bad.partial")));
    return result ? std::string("none") : result.error().message;
  };
  EXPECT_EQ(message({.scheme = {4, 4, 7}}),
            "[aqlm] backbone.layers.0.mixer.in_proj: expected inputs in groups of 7, found 64 "
            "inputs");
  EXPECT_EQ(message({.scheme = {0, 4, 8}}).find("[aqlm] scheme: expected MxBgG"), 0U);
  EXPECT_EQ(message({.calibration = ""}), "[aqlm] calibration: expected text, found none");
  EXPECT_EQ(message({.calibration = text().substr(0, 255)}),
            "[aqlm] calibration: expected at least 256 tokens, found 255");
  EXPECT_EQ(message({.keep = {"*"}}), "[aqlm] keep: expected a matrix to quantise, found none");
  EXPECT_EQ(message({.keep = {"*.layers.0.*", "*.layer.1.*"}}),
            "[aqlm] keep: expected a pattern that fits a module, such as *.layers.0.*, found "
            "'*.layer.1.*', which fits none");
  EXPECT_EQ(message({.calibration = text(), .tune_tokens = -1}),
            "[aqlm] tune_tokens: expected 0 or at least 1024, found -1");
  EXPECT_EQ(message({.calibration = text(), .tune_tokens = 1023}),
            "[aqlm] tune_tokens: expected 0 or at least 1024, found 1023");
  EXPECT_EQ(message({.tune_tokens = 4096}),
            "[aqlm] tune_tokens: expected a calibration text beside it, found none");
  EXPECT_EQ(message({.weigh = "fisher"}),
            "[aqlm] weigh: expected a calibration text for fisher, found none");
  EXPECT_EQ(message({.calibration = text(), .weigh = "outputs"}),
            "[aqlm] weigh: expected inputs or fisher, found 'outputs'");
  EXPECT_NE(message({}, "missing/folder/bad"), "none");
  ThreadPool pool(2);
  EXPECT_EQ(quantize_aqlm(source("krait-bytes-draft"), in("bad"), {.preset = "slow"}, pool)
                .error()
                .message,
            "[aqlm] preset: expected fast, default or best, found 'slow'");
  EXPECT_FALSE(fs::exists(in("bad.partial")));
}

}  // namespace
}  // namespace krait::aqlm_quantize_test
