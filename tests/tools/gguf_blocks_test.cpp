// Whole models whose matrices are in each of the block formats of GGUF.

#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <set>

#include "core/block_format.hpp"
#include "krait/core/thread_pool.hpp"
#include "krait/loading/registry.hpp"
#include "krait/tools/convert.hpp"
#include "tests/io/builders.hpp"
#include "tests/support/gguf_blocks.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/relative_difference.hpp"
#include "tests/support/support.hpp"

namespace krait::gguf_blocks_test {
namespace {

using test::gguf_number;
using test::gguf_tensor;
using test::gguf_text;

constexpr Index d_model = 256;
constexpr Index d_inner = 256;
constexpr Index d_state = 8;
constexpr Index dt_rank = 16;
constexpr Index vocab = 48;

// The number of a format in files.
unsigned type_of(BlockFormat format) {
  constexpr std::array<unsigned, block_formats.size()> types = {2,  3,  6,  7,  8,  10, 11,
                                                                12, 13, 14, 20, 23, 39};
  return types[static_cast<std::size_t>(format)];
}

// A Mamba of two layers. Matrix i of a layer has format formats[i mod size]: embedding, in_proj,
// x_proj, out_proj.
std::string file_of(const std::vector<BlockFormat>& formats) {
  std::vector<std::string> tensors;
  std::string data;
  const auto begin = [&](const std::string& name, const std::vector<std::uint64_t>& extents,
                         unsigned type) {
    data.resize((data.size() + 31) / 32 * 32);
    tensors.push_back(gguf_tensor(name, extents, type, data.size()));
  };
  const auto floats = [&](const std::string& name, const std::vector<std::uint64_t>& extents,
                          float center, float scale) {
    Index count = 1;
    for (const std::uint64_t extent : extents) count *= static_cast<Index>(extent);
    std::vector<float> values = test::random_floats(count, tensors.size(), scale);
    for (float& value : values) value += center;
    begin(name, extents, 0);
    data.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  };
  std::size_t next = 0;
  const auto blocks = [&](const std::string& name, Index in, Index out) {
    const BlockFormat format = formats[next++ % formats.size()];
    // Weights of some hundredths: a sixth bit and the parts' own scales make codes up to 2,000.
    const int high = info_of(format).elements == 256 ? 0x04 : 0x14;
    std::vector<std::byte> bytes = test::random_blocks(info_of(format), out, in, high);
    if (format == BlockFormat::mxfp4) {
      for (std::size_t i = 0; i < bytes.size(); i += 17) bytes[i] = std::byte{122};
    }
    begin(name, {static_cast<std::uint64_t>(in), static_cast<std::uint64_t>(out)}, type_of(format));
    data.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  blocks("token_embd.weight", d_model, vocab);
  floats("output_norm.weight", {d_model}, 1.0F, 0.1F);
  for (const std::string& layer : {std::string("blk.0."), std::string("blk.1.")}) {
    floats(layer + "attn_norm.weight", {d_model}, 1.0F, 0.1F);
    blocks(layer + "ssm_in.weight", d_model, 2 * d_inner);
    floats(layer + "ssm_conv1d.weight", {4, d_inner}, 0.0F, 0.5F);
    floats(layer + "ssm_conv1d.bias", {d_inner}, 0.0F, 0.1F);
    blocks(layer + "ssm_x.weight", d_inner, dt_rank + 2 * d_state);
    floats(layer + "ssm_dt.weight", {dt_rank, d_inner}, 0.0F, 0.1F);
    floats(layer + "ssm_dt.bias", {d_inner}, -4.0F, 1.0F);
    floats(layer + "ssm_a", {d_state, d_inner}, -4.0F, 3.0F);
    floats(layer + "ssm_d", {d_inner}, 1.0F, 0.1F);
    blocks(layer + "ssm_out.weight", d_inner, d_model);
  }
  return test::gguf(
      {gguf_text("general.architecture", "mamba"), gguf_number("mamba.embedding_length", d_model),
       gguf_number("mamba.block_count", 2), gguf_number("mamba.ssm.state_size", d_state),
       gguf_number("mamba.ssm.conv_kernel", 4), gguf_number("mamba.ssm.inner_size", d_inner),
       gguf_number("mamba.ssm.time_step_rank", dt_rank)},
      tensors, data);
}

std::vector<float> logits_of(const Model& model) {
  ThreadPool pool(2);
  return test::all_logits(model, std::vector<Token>{3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 8, 9}, pool);
}

struct GgufBlocks : testing::Test {
  // That the file runs on its blocks as on their values, and as what it is converted to.
  void expect_exact(const std::vector<BlockFormat>& formats) const {
    const std::string file = (folder.path() / "model.gguf").string();
    test::write_file(file, file_of(formats));
    std::set<std::string> expected = {"f32"};  // dt_proj
    for (const BlockFormat format : formats) expected.emplace(info_of(format).name);
    std::set<std::string> forms;
    for (const TensorUse& use : plan_checkpoint(file).value().plan.tensors) {
      if (use.role == TensorRole::matrix) forms.insert(use.form);
    }
    EXPECT_EQ(forms, expected);
    const std::vector<float> stored = logits_of(load_model(file).value());
    const std::vector<float> values = logits_of(load_model(file, {.form = "f32"}).value());
    EXPECT_TRUE(test::same_bits<float>(stored, values));
    const double largest = test::largest_size(stored);
    EXPECT_GT(largest, 0.01);
    EXPECT_LT(largest, 1000.0);
    const std::string converted = (folder.path() / "converted").string();
    ASSERT_TRUE(convert_checkpoint(file, converted, {.dtype = DType::f32}));
    EXPECT_TRUE(test::same_bits<float>(logits_of(load_model(converted).value()), stored));
    std::filesystem::remove_all(converted);
  }

  test::TemporaryDirectory folder;
};

TEST_F(GgufBlocks, RunAsTheirValues) {
  for (const BlockFormatInfo& info : block_formats) {
    SCOPED_TRACE(info.name);
    expect_exact({info.format});
  }
}

// As llama.cpp mixes them: more bits for some matrices.
TEST_F(GgufBlocks, OfSeveralFormatsRunAsTheirValues) {
  expect_exact({BlockFormat::q6_k, BlockFormat::q4_k, BlockFormat::q5_k});
  expect_exact({BlockFormat::q8_0, BlockFormat::iq4_xs, BlockFormat::q2_k, BlockFormat::q3_k,
                BlockFormat::q5_0});
}

}  // namespace
}  // namespace krait::gguf_blocks_test
