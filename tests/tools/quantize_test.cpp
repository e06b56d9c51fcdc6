#include "krait/tools/quantize.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>

#include "krait/core/thread_pool.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/loading/registry.hpp"
#include "krait/models/random_weights.hpp"
#include "tests/support/byte_form.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::quantize_test {
namespace {

namespace fs = std::filesystem;

constexpr const char* all_forms[] = {"q8", "q4", "bf16", "f16"};

enum class Head { tied, repeated, untied };

struct Source {
  DType dtype = DType::f32;
  Head head = Head::tied;
  bool is_sharded = false;
  std::string sizes = R"("d_model":48,"vocab_size":61,"pad_vocab_size_multiple":1)";
};

std::string config_of(const Source& source) {
  return "{" + source.sizes + R"(,"n_layer":2,"ssm_cfg":{"d_state":5,"dt_rank":3},)" +
         R"("tie_embeddings":)" + (source.head == Head::untied ? "false" : "true") + "}\n";
}

WeightStore weights_of(const Source& source) {
  Checkpoint checkpoint;
  checkpoint.config = config_of(source);
  const ModelConfig config = read_config(checkpoint).value();
  WeightStore weights = random_weights(config.spec, 5, "backbone", source.dtype).value();
  if (source.head == Head::repeated) {
    const TensorView embedding = weights.find("backbone.embedding.weight")->tensor;
    weights.add("lm_head.weight", embedding, nullptr);
  }
  auto steps = std::make_shared<std::vector<std::int64_t>>(3, 7);
  weights.add("optimizer.steps", {steps->data(), DType::i64, {3}}, steps);
  return weights;
}

void write_weights(const fs::path& folder, const WeightStore& weights, bool is_sharded) {
  std::vector<NamedTensor> shards[2];
  std::string map;
  for (const auto& [name, entry] : weights.entries()) {
    const std::size_t i = is_sharded ? name.size() % 2 : 0;
    shards[i].push_back({name, entry.tensor});
    map += (map.empty() ? "\"" : ",\"") + name + "\":\"shard-" + std::to_string(i) + "\"";
  }
  if (!is_sharded) {
    ASSERT_TRUE(write_safetensors((folder / "model.safetensors").string(), shards[0],
                                  {{"format", "pt"}, {"note", "kept"}}));
    return;
  }
  for (const int i : {0, 1}) {
    ASSERT_TRUE(write_safetensors((folder / ("shard-" + std::to_string(i))).string(), shards[i]));
  }
  test::write_file(folder / "model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
}

void expect_same_bytes(const WeightStore& a, const WeightStore& b, const std::string& name) {
  const auto* x = a.find(name);
  const auto* y = b.find(name);
  ASSERT_TRUE(x != nullptr && y != nullptr) << name;
  EXPECT_EQ(x->tensor.dtype, y->tensor.dtype) << name;
  EXPECT_EQ(x->tensor.shape, y->tensor.shape) << name;
  EXPECT_EQ(
      std::memcmp(x->tensor.data, y->tensor.data, static_cast<std::size_t>(x->tensor.bytes())), 0)
      << name;
}

class Quantize : public testing::Test {
 protected:
  Quantize() {
    fs::create_directory(source());
    fs::create_directory(home());
  }

  fs::path source() const { return directory_.path() / "source"; }
  fs::path home() const { return directory_.path() / "home"; }  // holds results and nothing else
  fs::path result() const { return home() / "result"; }

  void write(const Source& what) {
    fs::remove_all(source());
    fs::create_directory(source());
    write_weights(source(), weights_of(what), what.is_sharded);
    test::write_file(source() / "config.json", config_of(what));
    test::write_file(source() / "generation_config.json", "{ \"temperature\": 1 }");
    for (const char* name : {"chat_template.jinja", "special_tokens_map.json", "merges.txt"}) {
      test::write_file(source() / name, std::string("this is ") + name);
    }
    fs::create_directory(source() / "additional_chat_templates");
    test::write_file(source() / "additional_chat_templates/tool_use.jinja", "{{ tools }}");
  }

  // The source with one element of a matrix of f32 changed.
  void write_with(const Source& what, const std::string& name, Index at, float value) {
    const WeightStore weights = weights_of(what);
    const TensorView old = weights.find(name)->tensor;
    std::vector<float> values(static_cast<std::size_t>(old.size()));
    std::memcpy(values.data(), old.data, static_cast<std::size_t>(old.bytes()));
    values[static_cast<std::size_t>(at)] = value;
    WeightStore changed = weights;
    changed.add(name, {values.data(), DType::f32, old.shape}, nullptr);
    write(what);
    write_weights(source(), changed, what.is_sharded);
  }

  Result<QuantizeSummary> quantize(const std::string& form, Progress progress = {}) {
    return quantize_checkpoint(source().string(), result().string(), form, executor_, progress);
  }

  void expect_refused(const Result<QuantizeSummary>& outcome, ErrorCode code,
                      const std::string& part) {
    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().code, code) << outcome.error().message;
    EXPECT_NE(outcome.error().message.find(part), std::string::npos) << outcome.error().message;
    EXPECT_EQ(outcome.error().message.find('\n'), std::string::npos) << outcome.error().message;
  }

  bool nothing_left() const { return fs::is_empty(home()); }

  test::TemporaryDirectory directory_;
  ThreadPool executor_{3};
};

// What the promise of the header says: bits and fingerprint of the source loaded in that form.
void expect_same_model(const fs::path& source, const fs::path& result, const std::string& form) {
  const Model a = load_model(source.string(), {.form = form}).value();
  const Model b = load_model(result.string()).value();
  EXPECT_EQ(a.fingerprint(), b.fingerprint());
  for (const TensorUse& use : b.plan().tensors) {
    if (use.role != TensorRole::matrix) continue;
    EXPECT_EQ(use.form, form) << use.name;
    EXPECT_EQ(use.placement, Placement::in_place) << use.name;
  }
  SerialExecutor executor;
  Session run_a(a, executor);
  Session run_b(b, executor);
  State state_a = a.initial_state();
  State state_b = b.initial_state();
  const auto tokens = test::random_tokens(23, std::min<Index>(61, a.vocab()), 1);
  EXPECT_TRUE(test::same_bits<float>(test::all_logits(run_a, tokens, state_a),
                                     test::all_logits(run_b, tokens, state_b)));
  EXPECT_EQ(state_a, state_b);
}

TEST_F(Quantize, FactorsAreConvertedEach) {
  Checkpoint checkpoint;
  checkpoint.config = config_of({});
  const ModelSpec spec = read_config(checkpoint).value().spec;
  write({});
  write_weights(source(), test::factored_weights(spec, DType::f32), false);
  for (const std::string form : all_forms) {
    const QuantizeSummary summary = quantize(form).value();
    EXPECT_EQ(summary.converted, 18);  // nine matrices
    expect_same_model(source(), result(), form);
    fs::remove_all(result());
  }
}

TEST_F(Quantize, TheResultIsTheSourceLoadedInThatForm) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Head head : {Head::tied, Head::repeated, Head::untied}) {
      for (const bool is_sharded : {false, true}) {
        write({.dtype = dtype, .head = head, .is_sharded = is_sharded});
        for (const std::string form : all_forms) {
          SCOPED_TRACE(std::string(to_string(dtype)) + " to " + std::string(form) + ", head " +
                       std::to_string(static_cast<int>(head)) + (is_sharded ? ", in shards" : ""));
          const auto summary = quantize(form);
          ASSERT_TRUE(summary) << summary.error().message;
          expect_same_model(source(), result(), form);
          // 2 layers of 4 matrices and 6 parameters, the embedding, its norm, and one unused.
          EXPECT_EQ(summary->tensors, 2 * 10 + 3 + (head == Head::untied ? 1 : 0));
          const Index matrices = 9 + (head == Head::untied ? 1 : 0);
          const bool is_same = to_string(dtype) == form;
          EXPECT_EQ(summary->converted, is_same ? 0 : matrices);
          EXPECT_EQ(summary->forms.at(std::string(form)), matrices);
          EXPECT_EQ(summary->forms.at("f32"), 13);
          EXPECT_EQ(summary->forms.at("i64"), 1);
          fs::remove_all(result());
        }
      }
    }
  }
}

// Stacks of experts, experts of their own tensors, and configurations of other names.
TEST_F(Quantize, EveryFamilyIsWritten) {
  for (const char* name : {"moe_mamba", "blackmamba", "hf_mamba2_f32", "codestral", "hf_jamba",
                           "hf_granite_experts", "orig_mamba2attn", "hf_zamba2"}) {
    const fs::path golden = test::data_dir() / "golden" / name;
    for (const std::string form : all_forms) {
      SCOPED_TRACE(std::string(name) + " to " + std::string(form));
      const auto summary = quantize_checkpoint(golden.string(), result().string(), form, executor_);
      ASSERT_TRUE(summary) << summary.error().message;
      expect_same_model(golden, result(), form);
      fs::remove_all(result());
    }
  }
}

// Of blocks, the way to floats is named.
TEST_F(Quantize, BlocksAreToBeDecodedFirst) {
  const std::string source = (test::data_dir() / "golden/gguf/mamba_types.gguf").string();
  const auto refused = quantize_checkpoint(source, result().string(), "q4", executor_);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find(": expected a matrix of floats, found q"),
            std::string::npos)
      << refused.error().message;
  EXPECT_NE(refused.error().message.find(", which krait convert decodes (" + source + ")"),
            std::string::npos)
      << refused.error().message;
  EXPECT_FALSE(fs::exists(result()));
}

TEST_F(Quantize, EverythingElseIsAsItWas) {
  write({.head = Head::repeated});
  ASSERT_TRUE(quantize("q4"));
  EXPECT_EQ(fs::exists(result() / "tokenizer.json"), false);
  for (const char* name :
       {"config.json", "generation_config.json", "chat_template.jinja", "special_tokens_map.json",
        "merges.txt", "additional_chat_templates/tool_use.jinja"}) {
    EXPECT_EQ(test::read_file(result() / name), test::read_file(source() / name));
  }
  const Checkpoint before = open_checkpoint(source().string()).value();
  const Checkpoint after = open_checkpoint(result().string()).value();
  EXPECT_EQ(after.weights.metadata,
            (std::map<std::string, std::string, std::less<>>{{"format", "pt"},
                                                             {"krait.form", "q4"},
                                                             {"krait.format_version", "1"},
                                                             {"note", "kept"}}));
  for (const char* name : {"backbone.layers.0.mixer.A_log", "backbone.layers.1.mixer.conv1d.weight",
                           "backbone.norm_f.weight", "optimizer.steps"}) {
    expect_same_bytes(before.weights, after.weights, name);
  }
  EXPECT_FALSE(after.weights.contains("lm_head.weight"));
  EXPECT_FALSE(after.weights.contains("backbone.embedding.weight"));
  EXPECT_EQ(after.weights.find("backbone.embedding.codes")->tensor.shape, (Shape{4, 2, 256}));
  EXPECT_EQ(after.weights.find("backbone.embedding.scales")->tensor.shape, (Shape{4, 2, 16}));
}

TEST_F(Quantize, TheFileDoesNotDependOnTheThreads) {
  write({});
  SerialExecutor serial;
  for (const std::string form : all_forms) {
    const std::string other = (home() / "other").string();
    ASSERT_TRUE(quantize(form));
    ASSERT_TRUE(quantize_checkpoint(source().string(), other, form, serial));
    EXPECT_EQ(test::read_file(result() / "model.safetensors"),
              test::read_file(other + "/model.safetensors"));
    fs::remove_all(result());
    fs::remove_all(other);
  }
}

// A matrix that is converted in several pieces.
const Source large{.dtype = DType::f32,
                   .head = Head::tied,
                   .is_sharded = false,
                   .sizes = R"("d_model":100,"vocab_size":45003,"pad_vocab_size_multiple":1)"};

TEST_F(Quantize, LargeMatricesAreWrittenInPieces) {
  write(large);
  for (const std::string form : {"q8", "f16"}) {
    std::vector<Index> reports;
    Index total = 0;
    const auto note = [&](Index done, Index all) {
      reports.push_back(done);
      total = all;
      return Flow::go_on;
    };
    ASSERT_TRUE(quantize(form, note));
    EXPECT_EQ(reports.size(), 24U) << "one a tensor, and one more for the embedding";
    EXPECT_TRUE(std::is_sorted(reports.begin(), reports.end()));
    EXPECT_EQ(reports.back(), total);
    expect_same_model(source(), result(), form);
    fs::remove_all(result());
  }
  const Index row = 45001;
  write_with(large, "backbone.embedding.weight", row * 100 + 7,
             std::numeric_limits<float>::infinity());
  expect_refused(quantize("q8"), ErrorCode::bad_format, "(row 45001, column 7)");
}

TEST_F(Quantize, WritesFormsOfAnApplication) {
  const auto form = std::make_shared<test::ByteForm>();
  write(large);
  const auto summary = quantize_checkpoint(source().string(), result().string(), *form, executor_);
  ASSERT_TRUE(summary) << summary.error().message;
  EXPECT_EQ(summary->forms.at("bytes"), summary->converted);
  LoadOptions options{.form = "bytes"};
  options.forms.push_back(form);
  const Model made = load_model(source().string(), options).value();
  options.form = "file";
  const Model written = load_model(result().string(), options).value();
  EXPECT_EQ(made.fingerprint(), written.fingerprint());
  for (const TensorUse& use : written.plan().tensors) {
    if (use.role != TensorRole::matrix) continue;
    EXPECT_EQ(use.form, "bytes") << use.name;
    EXPECT_EQ(use.placement, Placement::in_place) << use.name;
  }
  const auto without = load_model(result().string());
  ASSERT_FALSE(without);
  EXPECT_NE(without.error().message.find("found 'bytes' in the metadata"), std::string::npos)
      << without.error().message;

  fs::remove_all(result());
  write_with(large, "backbone.embedding.weight", Index{45001} * 100 + 7,
             std::numeric_limits<float>::infinity());
  expect_refused(quantize_checkpoint(source().string(), result().string(), *form, executor_),
                 ErrorCode::bad_format, "(row 45001, column 7)");
  EXPECT_TRUE(nothing_left());
}

// A form whose parts are not what `pack` would write block by block.
class Lopsided final : public test::ByteForm {
 public:
  std::vector<WeightPart> parts(Index out, Index in) const override {
    std::vector<WeightPart> parts = ByteForm::parts(out, in);
    parts[1].shape = {out + 1};
    return parts;
  }
};

TEST_F(Quantize, FormsWithPartsOfOtherSizesAreRefused) {
  write({});
  expect_refused(quantize_checkpoint(source().string(), result().string(), Lopsided(), executor_),
                 ErrorCode::bad_argument, "(form bytes)");
  EXPECT_TRUE(nothing_left());
}

TEST_F(Quantize, WeightsThatTheFormCannotRepresentAreNamed) {
  const std::string name = "backbone.layers.1.mixer.in_proj.weight";  // [192, 48]
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::string form : all_forms) {
    write_with({}, name, 17 * 48 + 3, nan);
    const auto outcome = quantize(form);
    expect_refused(outcome, ErrorCode::bad_format, name);
    const bool is_dense = find_form(form)->is_dense();
    expect_refused(outcome, ErrorCode::bad_format,
                   is_dense ? "found nan (element [17,3])" : "(row 17, column 3)");
    EXPECT_TRUE(nothing_left());
    write_with({}, name, 191 * 48 + 47, 3.4e38F);
    expect_refused(quantize(form), ErrorCode::bad_format,
                   is_dense ? "found 3.4e+38 (element [191,47])" : "(row 191, column 47)");
    EXPECT_TRUE(nothing_left());
  }
  write_with({}, name, 100, 65520.0F);
  expect_refused(quantize("f16"), ErrorCode::bad_format,
                 "expected weights that f16 can hold (at most 65504), found 65520 (element [2,4])");
  EXPECT_TRUE(quantize("q8"));
}

TEST_F(Quantize, SourcesMayBeInF64) {
  const WeightStore weights = weights_of({});
  WeightStore wide = weights;
  const auto widen = [&](const std::string& name, double factor) {
    const TensorView stored = weights.find(name)->tensor;
    auto values = std::make_shared<std::vector<double>>();
    for (Index i = 0; i < stored.size(); ++i) {
      values->push_back(static_cast<double>(static_cast<const float*>(stored.data)[i]) * factor);
    }
    wide.add(name, {values->data(), DType::f64, stored.shape}, values);
  };
  for (const auto& [name, entry] : weights.entries()) {
    if (entry.tensor.dtype == DType::f32) widen(name, 1.0);
  }
  write({});
  write_weights(source(), wide, false);
  for (const std::string form : all_forms) {
    const auto outcome = quantize(form);
    ASSERT_TRUE(outcome) << outcome.error().message;
    expect_same_model(source(), result(), form);
    fs::remove_all(result());
  }
  widen("backbone.layers.0.mixer.out_proj.weight", 1e300);
  write_weights(source(), wide, false);
  for (const std::string form : all_forms) {
    expect_refused(quantize(form), ErrorCode::bad_format,
                   "[quantize] backbone.layers.0.mixer.out_proj.weight: expected weights that");
    EXPECT_TRUE(nothing_left());
  }
}

TEST_F(Quantize, SourcesThatAreQuantisedAreRefused) {
  write({});
  for (const std::string first : {"q8", "q4"}) {
    const std::string packed = (directory_.path() / first).string();
    ASSERT_TRUE(quantize_checkpoint(source().string(), packed, first, executor_));
    for (const std::string form : all_forms) {
      expect_refused(quantize_checkpoint(packed, result().string(), form, executor_),
                     ErrorCode::bad_argument, "found " + first);
      EXPECT_TRUE(nothing_left());
    }
  }
  write({});
  expect_refused(quantize("f32"), ErrorCode::bad_argument, "found f32");
  expect_refused(quantize("file"), ErrorCode::bad_argument, "found file");
}

TEST_F(Quantize, SourcesThatCannotBeReadAreRefused) {
  expect_refused(quantize_checkpoint("no/such/folder", result().string(), "q8", executor_),
                 ErrorCode::not_found, "no/such/folder");
  write({});
  std::string file = test::read_file(source() / "model.safetensors");
  file.pop_back();
  test::write_file(source() / "model.safetensors", file);
  expect_refused(quantize("q8"), ErrorCode::bad_format, "model.safetensors");
  EXPECT_TRUE(nothing_left());
}

TEST_F(Quantize, DestinationsInUseAreRefused) {
  write({});
  const auto to = [&](const fs::path& destination) {
    return quantize_checkpoint(source().string(), destination.string(), "q8", executor_);
  };
  expect_refused(to(source()), ErrorCode::bad_argument, "outside the source");
  expect_refused(to(source() / "x"), ErrorCode::bad_argument, "outside the source");
  expect_refused(to(source() / "x" / ".." / "y" / ""), ErrorCode::bad_argument, "source");
  expect_refused(to(source() / "no" / "such" / "folder"), ErrorCode::bad_argument, "source");
  fs::create_directory_symlink(source(), directory_.path() / "link");
  expect_refused(to(directory_.path() / "link" / "x"), ErrorCode::bad_argument, "source");
  expect_refused(to(home() / "no" / "folder"), ErrorCode::not_found, "home/no");
  EXPECT_TRUE(nothing_left());
  test::write_file(home() / "file", "text");
  expect_refused(to(home() / "file"), ErrorCode::bad_argument, "home/file");
  expect_refused(to(home() / "file" / "x"), ErrorCode::not_found, "home/file");
  expect_refused(to(home()), ErrorCode::bad_argument, "not empty");
  EXPECT_EQ(test::read_file(home() / "file"), "text");
  EXPECT_EQ(std::distance(fs::directory_iterator(home()), {}), 1);
  EXPECT_EQ(std::distance(fs::directory_iterator(source()), {}), 7);

  // A name that only begins like the source's, an empty folder, and the file as the source.
  EXPECT_TRUE(to(directory_.path() / "source-q8"));
  fs::create_directory(result());
  EXPECT_TRUE(to(result() / ""));
  expect_same_model(source(), result(), "q8");
  EXPECT_TRUE(quantize_checkpoint((source() / "model.safetensors").string(),
                                  (source() / "q8").string(), "q8", executor_));
}

TEST_F(Quantize, CanBeStopped) {
  write({});
  Index calls = 0;
  const auto stop = [&](Index, Index) { return ++calls == 5 ? Flow::stop : Flow::go_on; };
  expect_refused(quantize("q8", stop), ErrorCode::cancelled, "stopped after");
  EXPECT_EQ(calls, 5);
  EXPECT_TRUE(nothing_left());
}

TEST_F(Quantize, AnotherVersionOfTheLayoutIsNotRead) {
  write({});
  ASSERT_TRUE(quantize("q8"));
  Checkpoint checkpoint = open_checkpoint(result().string()).value();
  checkpoint.weights.metadata["krait.format_version"] = "2";
  const ModelConfig config = read_config(checkpoint).value();
  const auto model = build_model(config.spec, checkpoint.weights, config.prefix);
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().code, ErrorCode::unsupported);
  EXPECT_EQ(model.error().message, "[build] krait.format_version: expected 1, found '2'");
}

}  // namespace
}  // namespace krait::quantize_test
