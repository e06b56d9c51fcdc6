#include "kernels/gguf_blocks.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "krait/core/thread_pool.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/kernels/ref/matvec.hpp"
#include "tests/support/gguf_blocks.hpp"
#include "tests/support/kernel_support.hpp"

namespace krait::gguf_blocks_test {
namespace {

using kernels::BlockWeights;
using test::for_each_isa;
using test::random_blocks;
using test::random_floats;
using test::same_bits;

// Blocks with their values by the `gguf` package (tests/golden/gguf_blocks.py).
const WeightStore& golden() {
  static const WeightStore store = [] {
    WeightStore made;
    const std::string path = (test::data_dir() / "golden/gguf_blocks.safetensors").string();
    EXPECT_TRUE(read_safetensors(open_file(path).value(), made));
    return made;
  }();
  return store;
}

TEST(GgufBlocks, ValuesEqualThoseOfTheGgufPackage) {
  for (const BlockFormatInfo& info : block_formats) {
    SCOPED_TRACE(info.name);
    const TensorView blocks = golden().find(std::string(info.name) + ".blocks")->tensor;
    const TensorView values = golden().find(std::string(info.name) + ".values")->tensor;
    ASSERT_EQ(blocks.shape[1], info.bytes);
    ASSERT_EQ(values.shape[1], info.elements);
    const std::span expected(static_cast<const float*>(values.data),
                             static_cast<std::size_t>(values.size()));
    for_each_isa([&](Isa) {
      std::vector<float> decoded(expected.size());
      kernels::decode_blocks(info.format, static_cast<const std::byte*>(blocks.data), decoded);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        ASSERT_TRUE(same_bits<float>({&decoded[i], 1}, expected.subspan(i, 1)))
            << i << ": " << decoded[i] << " instead of " << expected[i];
      }
    });
  }
}

TEST(GgufBlocks, ProductsHaveTheBitsOfThoseOfTheDecodedMatrix) {
  ThreadPool threads(3);
  for (const BlockFormatInfo& info : block_formats) {
    SCOPED_TRACE(info.name);
    const Index rows = 37;
    const Index cols = info.elements == 256 ? 512 : 288;
    const std::vector<std::byte> bytes = random_blocks(info, rows, cols);
    const BlockWeights W{info.format, bytes.data(), rows, cols};
    std::vector<float> decoded(static_cast<std::size_t>(rows * cols));
    kernels::decode_blocks(info.format, bytes.data(), decoded);
    const auto bias = random_floats(rows, 2);
    for (const Index tokens : {Index{1}, Index{3}, Index{8}, Index{13}, Index{64}}) {
      const auto x = random_floats(tokens * cols, 3);
      std::vector<float> expected(static_cast<std::size_t>(tokens * rows));
      for (Index t = 0; t < tokens; ++t) {
        ref::matvec({.W = {decoded.data(), DType::f32, rows, cols},
                     .x = x.data() + t * cols,
                     .bias = bias.data(),
                     .y = expected.data() + t * rows,
                     .outputs = {0, rows}});
      }
      for_each_isa([&](Isa) {
        // Without and with room to decode many rows at once.
        for (const Index room : {Index{0}, kernels::product_blocks_workspace(cols) * tokens}) {
          std::vector<float> workspace(static_cast<std::size_t>(room));
          std::vector<float> y(expected.size());
          kernels::product(
              {threads, workspace}, W,
              {.x = {x.data(), tokens, cols}, .bias = bias.data(), .y = {y.data(), tokens, rows}});
          ASSERT_TRUE(same_bits<float>(y, expected)) << tokens << " tokens, room " << room;
        }
      });
    }
  }
}

// Any bytes: scales that are subnormal, infinite or no numbers, and every code. Vectors give what
// plain loops give.
TEST(GgufBlocks, EveryInstructionSetDecodesAnyBytesAlike) {
  for (const BlockFormatInfo& info : block_formats) {
    SCOPED_TRACE(info.name);
    const Index n = 400 * info.elements;
    std::vector<std::byte> bytes(static_cast<std::size_t>(n / info.elements * info.bytes));
    const auto numbers = random_floats(std::ssize(bytes), 7, 128.0F);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<std::byte>(static_cast<int>(numbers[i]) & 0xFF);
    }
    std::vector<float> expected;
    for_each_isa([&](Isa isa) {
      std::vector<float> decoded(static_cast<std::size_t>(n));
      kernels::decode_blocks(info.format, bytes.data(), decoded);
      if (isa == Isa::scalar) expected = decoded;
      EXPECT_TRUE(same_bits<float>(decoded, expected));
    });
  }
}

// One token, which meets the weights in registers: every number of rows beside the whole tiles, and
// every length behind the whole chunks.
TEST(GgufBlocks, OneTokenMeetsAnyNumberOfRowsAndBlocks) {
  SerialExecutor serial;
  for (const BlockFormatInfo& info : block_formats) {
    SCOPED_TRACE(info.name);
    for (Index blocks = 1; blocks <= (info.elements == 256 ? 3 : 17); ++blocks) {
      const Index rows = 1 + blocks % 9;
      const Index cols = blocks * info.elements;
      const std::vector<std::byte> bytes = random_blocks(info, rows, cols);
      std::vector<float> decoded(static_cast<std::size_t>(rows * cols));
      kernels::decode_blocks(info.format, bytes.data(), decoded);
      const auto x = random_floats(cols, 3);
      std::vector<float> expected(static_cast<std::size_t>(rows));
      ref::matvec({.W = {decoded.data(), DType::f32, rows, cols},
                   .x = x.data(),
                   .y = expected.data(),
                   .outputs = {0, rows}});
      for_each_isa([&](Isa) {
        std::vector<float> y(expected.size());
        kernels::product({serial, {}}, {info.format, bytes.data(), rows, cols},
                         {.x = {x.data(), 1, cols}, .y = {y.data(), 1, rows}});
        ASSERT_TRUE(same_bits<float>(y, expected)) << rows << " rows of " << cols;
      });
    }
  }
}

// q8_0 and q4_0 are q8 and q4 in another order, the code -128 included.
TEST(GgufBlocks, KeepTheirValuesAsGroups) {
  for (const auto format : {BlockFormat::q8_0, BlockFormat::q4_0}) {
    const BlockFormatInfo& info = info_of(format);
    ASSERT_TRUE(kernels::is_grouped(format));
    const Index rows = 35;
    const Index cols = 96;
    std::vector<std::byte> bytes = random_blocks(info, rows, cols);
    bytes[2] = std::byte{0x80};
    kernels::GroupedWeights W{
        .form = format == BlockFormat::q8_0 ? kernels::GroupedForm::q8 : kernels::GroupedForm::q4,
        .rows = rows,
        .cols = cols};
    std::vector<std::uint8_t> codes(
        static_cast<std::size_t>(W.row_blocks() * W.groups() * block_bytes(W.form)), 0xAA);
    std::vector<f16> scales(
        static_cast<std::size_t>(W.row_blocks() * W.groups() * kernels::row_block));
    kernels::regroup_blocks({format, bytes.data(), rows, cols}, {0, W.row_blocks()}, codes.data(),
                            scales.data());
    W.codes = codes.data();
    W.scales = scales.data();
    std::vector<float> decoded(static_cast<std::size_t>(rows * cols));
    kernels::decode_blocks(format, bytes.data(), decoded);
    std::vector<float> row(static_cast<std::size_t>(cols));
    for (Index r = 0; r < rows; ++r) {
      kernels::dequantize_row(W, r, row);
      EXPECT_TRUE(same_bits<float>(
          row, std::span(decoded).subspan(static_cast<std::size_t>(r * cols), row.size())));
    }
    // The product takes that code as any other.
    const auto x = random_floats(cols, 3);
    std::vector<float> workspace(
        static_cast<std::size_t>(kernels::product_grouped_workspace(cols)));
    SerialExecutor serial;
    std::vector<std::vector<float>> results;
    for_each_isa([&](Isa) {
      std::vector<float> y(static_cast<std::size_t>(rows));
      kernels::product({serial, workspace}, W,
                       {.x = {x.data(), 1, cols}, .y = {y.data(), 1, rows}});
      results.push_back(y);
      EXPECT_TRUE(same_bits<float>(y, results.front()));
    });
    double exact = 0.0;
    for (Index k = 0; k < cols; ++k) {
      exact += static_cast<double>(decoded[static_cast<std::size_t>(k)]) *
               static_cast<double>(x[static_cast<std::size_t>(k)]);
    }
    EXPECT_NEAR(static_cast<double>(results.front()[0]), exact, 0.02 * std::abs(exact) + 0.5);
  }
}

}  // namespace
}  // namespace krait::gguf_blocks_test
