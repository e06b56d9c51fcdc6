#include "krait/decoding/state_io.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "io/content_checksum.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/models/session.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::state_io_test {
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
    parts.metadata = {
        {"format", "krait-state"}, {"format_version", "2"}, {"model", state.layout()->fingerprint},
        {"position", "2"},         {"pending", "1"},        {"unshown", "0"}};
    return parts;
  }
  void write(Parts parts) {
    if (!parts.metadata.contains("checksum")) {
      parts.metadata["checksum"] = content_checksum(parts.tensors, parts.metadata);
    }
    write_safetensors(path("x"), parts.tensors, parts.metadata).value();
  }

  void expect_refused(const Parts& parts, ErrorCode code, std::string_view part) {
    write(parts);
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
  write(parts_of(state));
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
  expect_refused(with("format_version", "1"), ErrorCode::unsupported, "format_version");
  expect_refused(with("model", "0123456789abcdef"), ErrorCode::incompatible_state, "fingerprint");
  expect_refused(with("position", "-1"), ErrorCode::bad_format, "position");
  expect_refused(with("position", "many"), ErrorCode::bad_format, "position");
  expect_refused(with("position", "99999999999999999999"), ErrorCode::bad_format, "position");
  expect_refused(with("position", "9223372036854775807"), ErrorCode::bad_format, "position");
  expect_refused(with("position", "281474976710657"), ErrorCode::bad_format, "position");
  expect_refused(with("pending", "-1"), ErrorCode::bad_format, "pending");
  expect_refused(with("unshown", "-1"), ErrorCode::bad_format, "unshown");
  expect_refused(with("position", "\x1b[31m\n"), ErrorCode::bad_format, "position");
  expect_refused(with("checksum", "0123456789abcdef"), ErrorCode::bad_format, "checksum");
  expect_refused(with("checksum", ""), ErrorCode::bad_format, "checksum");
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

// Whatever bit of a file is another, it is no state, or (spaces of the header) the same one.
TEST_F(StateFile, SeesEveryFlippedBit) {
  SerialExecutor executor;
  Session session(model_, executor);
  Sequence sequence(model_, std::vector<Token>{1, 2, 3, 4});
  session.prefill(std::vector<Token>{1, 2, 3}, sequence.state).value();
  sequence.pending = 1;
  save_state(sequence, path("s")).value();
  const std::string file = test::read_file(path("s"));
  for (std::size_t bit = 0; bit < 8 * file.size(); bit += 3) {
    std::string changed = file;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << (bit % 8)));
    const auto loaded =
        load_state(model_, borrow_bytes(std::as_bytes(std::span(changed)), "changed"));
    if (!loaded) continue;
    EXPECT_TRUE(loaded->state == sequence.state) << "bit " << bit;
    EXPECT_EQ(loaded->tokens, sequence.tokens) << "bit " << bit;
  }
}

TEST_F(StateFile, IsNotMadeOfWhatIsNoState) {
  const auto expect_bad = [&](const Sequence& sequence) {
    const auto saved = save_state(sequence, path("bad"));
    ASSERT_FALSE(saved);
    EXPECT_EQ(saved.error().code, ErrorCode::bad_argument) << saved.error().message;
    EXPECT_FALSE(std::filesystem::exists(path("bad")));
  };
  EXPECT_EQ(save_state(State(), path("bad")).error().code, ErrorCode::bad_argument);
  expect_bad(Sequence());
  Sequence moved(model_, std::vector<Token>{1, 2});
  const Sequence taken = std::move(moved);
  expect_bad(moved);  // NOLINT(bugprone-use-after-move): what is left is no state
  for (const Index pending : {Index{-1}, Index{3}, std::numeric_limits<Index>::max()}) {
    Sequence wrong = taken;
    wrong.pending = pending;
    expect_bad(wrong);
  }
  Sequence wrong = taken;
  wrong.pending = 1;  // a state that has consumed nothing
  expect_bad(wrong);
  wrong = taken;
  wrong.state.set_position(std::numeric_limits<Index>::max());
  expect_bad(wrong);
}

// The last position there is can be saved and loaded, but not passed.
TEST_F(StateFile, PositionsDoNotOverflow) {
  SerialExecutor executor;
  Session session(model_, executor);
  State state = model_.initial_state();
  state.set_position(State::largest_position);
  save_state(state, path("s")).value();
  Sequence loaded = load_state(model_, path("s")).value();
  const auto step = session.step(1, loaded.state);
  ASSERT_FALSE(step);
  EXPECT_EQ(step.error().code, ErrorCode::bad_argument);
  EXPECT_TRUE(loaded.state == state);
  state.set_position(std::numeric_limits<Index>::max());
  EXPECT_FALSE(session.step(1, state));
  state.set_position(-1);
  EXPECT_FALSE(session.step(1, state));
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
}  // namespace krait::state_io_test
