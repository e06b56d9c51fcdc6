// GGUF models that llama.cpp's gguf-split has cut into several files.

#include <gtest/gtest.h>

#include <fmt/format.h>
#include <filesystem>

#include "io/gguf.hpp"
#include "krait/loading/registry.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/support.hpp"

namespace krait::gguf_split_test {
namespace {

namespace fs = std::filesystem;

std::string golden() { return (test::data_dir() / "golden/gguf/mamba_types.gguf").string(); }

std::vector<float> logits_of(const Model& model) {
  return test::last_logits(model, std::vector<Token>{3, 1, 4, 1, 5, 9, 2, 6});
}

struct GgufSplit : testing::Test {
  std::string part(Index i, Index count = 3) const {
    return (folder.path() / fmt::format("m-{:05}-of-{:05}.gguf", i + 1, count)).string();
  }

  // Writes a part with these tensors; the first has everything else that the whole file says.
  void write(Index i, Index count, std::span<const GgufTensor> tensors,
             std::optional<Index> total = {}) const {
    const GgufFile whole = read_gguf(open_file(golden(), WeightsMode::map).value()).value();
    Metadata::Object members;
    if (i == 0) members = *whole.metadata.object();
    members.push_back({"split.no", Metadata(i)});
    members.push_back({"split.count", Metadata(count)});
    members.push_back({"split.tensors.count", Metadata(total.value_or(std::ssize(whole.tensors)))});
    std::vector<GgufOutput> outputs;
    for (const GgufTensor& tensor : tensors) {
      outputs.push_back({tensor.name, tensor.type, tensor.extents});
    }
    GgufWriter writer = GgufWriter::create(part(i), Metadata(std::move(members)), outputs).value();
    for (const GgufTensor& tensor : tensors) {
      ASSERT_TRUE(writer.write({tensor.data, static_cast<std::size_t>(tensor.bytes)}));
    }
    ASSERT_TRUE(writer.commit());
  }

  // Three parts, the first of which has `first` tensors.
  void split(std::size_t first) const {
    const std::span<const GgufTensor> all = tensors();
    write(0, 3, all.first(first));
    write(1, 3, all.subspan(first, 5));
    write(2, 3, all.subspan(first + 5));
  }

  std::span<const GgufTensor> tensors() const { return file.tensors; }

  std::string refused(const std::string& path) const {
    const auto opened = open_checkpoint(path);
    return opened ? std::string() : opened.error().message;
  }

  GgufFile file = read_gguf(open_file(golden(), WeightsMode::map).value()).value();
  test::TemporaryDirectory folder;
};

TEST_F(GgufSplit, FilesAreOneModel) {
  const std::vector<float> expected = logits_of(load_model(golden()).value());
  for (const std::size_t first : {std::size_t{0}, std::size_t{4}}) {
    split(first);
    EXPECT_TRUE(test::same_bits<float>(logits_of(load_model(part(0)).value()), expected));
    const Checkpoint checkpoint = open_checkpoint(part(0)).value();
    EXPECT_EQ(checkpoint.files, (std::vector{part(0), part(1), part(2)}));
    const CheckpointPlan plan = plan_checkpoint(part(0)).value();
    EXPECT_TRUE(plan.plan.unused.empty());
    EXPECT_TRUE(plan.config.ignored.empty());
  }
  const std::string texts[] = {test::read_file(part(0)), test::read_file(part(1)),
                               test::read_file(part(2))};
  CheckpointBytes bytes;
  for (const std::string& text : texts) bytes.weights.push_back(std::as_bytes(std::span(text)));
  const Checkpoint checkpoint = open_checkpoint(bytes).value();
  EXPECT_EQ(checkpoint.weights.size(), open_checkpoint(golden()).value().weights.size());
  bytes.weights.pop_back();
  EXPECT_EQ(open_checkpoint(bytes).error().message,
            "[checkpoint] weights: expected the 3 files of a model, found 2 (memory)");
  const std::string whole = test::read_file(golden());
  bytes.weights = {std::as_bytes(std::span(whole)), std::as_bytes(std::span(whole))};
  EXPECT_EQ(open_checkpoint(bytes).error().message,
            "[checkpoint] weights: expected the one file of a model, found 2 (memory)");
}

TEST_F(GgufSplit, WhatIsNoModelInPartsIsRefused) {
  split(4);
  EXPECT_EQ(refused(part(1)),
            "[gguf] split.no: expected the first of 3 files, found file 2 (" + part(1) + ")");
  const std::string other = (folder.path() / "other.gguf").string();
  fs::copy(part(0), other);
  EXPECT_EQ(refused(other),
            "[checkpoint] expected the first of 3 files, named …-00001-of-00003.gguf, found "
            "another name (" +
                other + ")");
  fs::rename(part(2), folder.path() / "away");
  EXPECT_NE(refused(part(0)).find(part(2)), std::string::npos);
  fs::copy(part(1), part(2));
  EXPECT_EQ(refused(part(0)),
            "[gguf] split.no: expected 2 (from 0) of 3 files, found 1 of 3 (" + part(2) + ")");
  write(2, 3, tensors().subspan(8));
  EXPECT_EQ(refused(part(0)), "[gguf] " + tensors()[8].name +
                                  ": expected one tensor of that name, found another in a file "
                                  "before (" +
                                  part(2) + ")");
  write(2, 3, tensors().subspan(10));
  EXPECT_EQ(refused(part(0)),
            fmt::format("[gguf] split.tensors.count: expected {} tensors in 3 files, found {} ({})",
                        tensors().size(), tensors().size() - 1, part(0)));
  // The file that has the tensor is the one that is named.
  split(4);
  std::string renamed = test::read_file(part(2));
  const std::size_t at = renamed.find("blk.");
  ASSERT_NE(at, std::string::npos);
  test::write_file(part(2), renamed.replace(at, 5, "blk.7"));
  EXPECT_NE(refused(part(0)).find("found block 7 (" + part(2) + ")"), std::string::npos)
      << refused(part(0));
  test::write_file(part(2), "GGUF");
  EXPECT_NE(refused(part(0)).find(part(2)), std::string::npos);
}

}  // namespace
}  // namespace krait::gguf_split_test
