#include "krait/models/state_io.hpp"

#include <gtest/gtest.h>

#include "krait/io/safetensors.hpp"
#include "krait/models/session.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait {
namespace {

using test::tiny_model;

class StateFile : public testing::Test {
 protected:
  std::string path(const char* name) const { return (directory_.path() / name).string(); }

  // Writes the parts of a state file, one of them changed by the caller.
  struct Parts {
    std::vector<NamedTensor> tensors;
    std::map<std::string, std::string, std::less<>> metadata;
  };
  Parts parts_of(const State& state) const {
    Parts parts;
    for (const StateTensor& tensor : state.layout()->tensors) {
      parts.tensors.push_back(
          {tensor.path, {state.tensor(tensor.path).data(), DType::f32, tensor.shape}});
    }
    parts.tensors.push_back({"tokens", {tokens_, DType::i32, {3}}});
    parts.metadata = {{"format", "krait-state"},
                      {"format_version", "1"},
                      {"model", state.layout()->fingerprint},
                      {"position", "2"},
                      {"pending", "1"}};
    return parts;
  }

  void expect_refused(const Parts& parts, ErrorCode code, std::string_view part) {
    write_safetensors(path("x"), parts.tensors, parts.metadata).value();
    const auto loaded = load_state(model_, path("x"));
    ASSERT_FALSE(loaded);
    EXPECT_EQ(loaded.error().code, code) << loaded.error().message;
    EXPECT_NE(loaded.error().message.find(part), std::string::npos) << loaded.error().message;
    EXPECT_NE(loaded.error().message.find(path("x")), std::string::npos);
    EXPECT_EQ(loaded.error().message.find('\n'), std::string::npos);
  }

  Model model_ = tiny_model();
  test::TemporaryDirectory directory_;
  std::int32_t tokens_[3] = {5, 6, 7};
};

TEST_F(StateFile, KeepsTheSequence) {
  SerialExecutor executor;
  Session session(model_, executor);
  Sequence sequence(model_, std::vector<Token>{1, 2, 3, 4});
  session.prefill(std::vector<Token>{1, 2, 3}, sequence.state).value();
  sequence.pending = 1;
  save_state(sequence, path("s")).value();
  const Sequence loaded = load_state(model_, path("s")).value();
  EXPECT_TRUE(loaded.state == sequence.state);
  EXPECT_EQ(loaded.tokens, sequence.tokens);
  EXPECT_EQ(loaded.pending, 1);
}

TEST_F(StateFile, TakesAWellFormedFile) {
  const State state = model_.initial_state();
  const Parts parts = parts_of(state);
  write_safetensors(path("x"), parts.tensors, parts.metadata).value();
  const Sequence loaded = load_state(model_, path("x")).value();
  EXPECT_EQ(loaded.state.position(), 2);
  EXPECT_EQ(loaded.tokens, (std::vector<Token>{5, 6, 7}));
}

TEST_F(StateFile, RefusesWhatIsNoStateOfThisModel) {
  const State state = model_.initial_state();
  const Parts good = parts_of(state);
  const auto with = [&](const char* key, const char* value) {
    Parts parts = good;
    parts.metadata[key] = value;
    return parts;
  };
  expect_refused(with("format", "something"), ErrorCode::bad_format, "krait-state");
  expect_refused(with("format_version", "2"), ErrorCode::unsupported, "format_version");
  expect_refused(with("model", "0123456789abcdef"), ErrorCode::incompatible_state, "fingerprint");
  expect_refused(with("position", "-1"), ErrorCode::bad_format, "position");
  expect_refused(with("position", "many"), ErrorCode::bad_format, "position");
  expect_refused(with("position", "99999999999999999999"), ErrorCode::bad_format, "position");
  expect_refused(with("position", "0"), ErrorCode::bad_format, "tokens");
  expect_refused(with("pending", "4"), ErrorCode::bad_format, "tokens");
  Parts parts = good;
  parts.tensors.pop_back();
  expect_refused(parts, ErrorCode::bad_format, "tokens");
  parts = good;
  parts.tensors.erase(parts.tensors.begin());
  expect_refused(parts, ErrorCode::bad_format, "conv_state");
  parts = good;
  parts.tensors[0].tensor.shape = {parts.tensors[0].tensor.size()};
  expect_refused(parts, ErrorCode::bad_format, "conv_state");
  tokens_[1] = 64;
  expect_refused(good, ErrorCode::bad_format, "ids");
  tokens_[1] = -1;
  expect_refused(good, ErrorCode::bad_format, "ids");

  EXPECT_EQ(load_state(model_, path("absent")).error().code, ErrorCode::not_found);
  test::write_file(path("text"), "no state at all");
  EXPECT_EQ(load_state(model_, path("text")).error().code, ErrorCode::bad_format);
}

TEST_F(StateFile, IsWrittenWholeOrNotAtAll) {
  const State state = model_.initial_state();
  EXPECT_EQ(save_state(state, path("no/such/folder")).error().code, ErrorCode::io_failed);
  EXPECT_EQ(save_state(state, "/dev/full").error().code, ErrorCode::io_failed);
  save_state(state, path("s")).value();
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory_.path())) {
    EXPECT_EQ(entry.path().filename(), "s");
    ++files;
  }
  EXPECT_EQ(files, 1U) << "no temporary file is left";
}

}  // namespace
}  // namespace krait
