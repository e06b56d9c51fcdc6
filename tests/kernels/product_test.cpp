// The entry to all products: whichever kernel it chooses, with or without memory for packing, the
// bits are those of the scalar models.

#include "krait/kernels/product.hpp"

#include <gtest/gtest.h>

#include "krait/kernels/matmul_bf16.hpp"
#include "krait/kernels/ref/matmul.hpp"
#include "krait/kernels/ref/matmul_bf16.hpp"
#include "krait/kernels/ref/matmul_grouped.hpp"
#include "krait/kernels/ref/quant.hpp"
#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/grouped.hpp"
#include "tests/support/weights.hpp"

namespace krait::product_test {
namespace {

using test::for_each_isa;
using test::random_floats;
using test::same_bits;
using test::StoredMatrix;

constexpr Index token_counts[] = {1, 2, 5, 8, 24, 64};

struct Size {
  Index out;
  Index in;
};
constexpr Size sizes[] = {{1, 1}, {7, 33}, {48, 80}, {5, 300}, {131, 257}};

std::vector<float> floats(Index count) {
  return std::vector<float>(static_cast<std::size_t>(count));
}

// Compares `product(ctx, args)` with `expected(x, bias, y)` for every number of tokens and
// threads, with the memory that is booked and, if `also_without`, with none.
template <class Product, class Expected>
void compare(const Size& size, Index workspace_per_token, bool also_without, Product&& product,
             Expected&& expected) {
  SerialExecutor serial;
  test::EagerThreadPool three(3);
  const std::vector<float> values = random_floats(64 * size.in, 3);
  const std::vector<float> bias = random_floats(size.out, 2);
  for (const Index tokens : token_counts) {
    const MatrixView<const float> x(values.data(), tokens, size.in);
    for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
      std::vector<float> model = floats(tokens * size.out);
      expected(x, b, MatrixView<float>(model.data(), tokens, size.out));
      for (Executor* executor : {static_cast<Executor*>(&serial), static_cast<Executor*>(&three)}) {
        for (const Index per_token : {workspace_per_token, Index{0}}) {
          if (per_token == 0 && !also_without && workspace_per_token != 0) continue;
          AlignedBuffer<float> workspace(per_token * tokens);
          const ProductContext ctx{.executor = *executor, .workspace = workspace.span()};
          std::vector<float> y = floats(tokens * size.out);
          product(ctx, {.x = x, .bias = b, .y = MatrixView<float>(y.data(), tokens, size.out)});
          ASSERT_TRUE(same_bits<float>(model, y))
              << size.out << "x" << size.in << " tokens=" << tokens
              << " threads=" << executor->width() << " workspace=" << per_token;
        }
      }
    }
  }
}

TEST(Product, GivesTheBitsOfMatmul) {
  for (const Size& size : sizes) {
    for (const DType dtype : test::weight_types) {
      StoredMatrix W(dtype, random_floats(size.out * size.in, 1), size.out, size.in);
      for_each_isa([&](Isa) {
        compare(
            size, kernels::product_workspace(size.in), true,
            [&](const ProductContext& ctx, const ProductArgs& args) {
              kernels::product(ctx, W.view(), args);
            },
            [&](MatrixView<const float> x, const float* bias, MatrixView<float> y) {
              ref::matmul({.W = W.view(), .x = x, .bias = bias, .y = y, .outputs = {0, y.cols}});
            });
      });
    }
  }
}

TEST(Product, GivesTheBitsOfMatmulInBf16) {
  for (const Size& size : sizes) {
    StoredMatrix W(DType::bf16, random_floats(size.out * size.in, 1), size.out, size.in);
    for_each_isa([&](Isa) {
      compare(
          size, kernels::product_bf16_workspace(size.in), false,
          [&](const ProductContext& ctx, const ProductArgs& args) {
            kernels::product_bf16(ctx, W.view(), args);
          },
          [&](MatrixView<const float> x, const float* bias, MatrixView<float> y) {
            AlignedBuffer<float> memory(x.rows *
                                        kernels::Bf16Activations::floats_per_token(x.cols));
            const kernels::Bf16Activations a(memory.data(), x.cols);
            ref::round_activations(x, {0, x.rows}, a);
            ref::matmul_bf16({.W = W.view(), .x = a, .bias = bias, .y = y, .outputs = {0, y.cols}});
          });
    });
  }
}

TEST(Product, GivesTheBitsOfMatmulOfGroups) {
  for (const Size& size : sizes) {
    for (const kernels::GroupedForm form : test::grouped_forms) {
      const test::GroupedMatrix W(form, random_floats(size.out * size.in, 1), size.out, size.in);
      for_each_isa([&](Isa) {
        compare(
            size, kernels::product_grouped_workspace(size.in), false,
            [&](const ProductContext& ctx, const ProductArgs& args) {
              kernels::product(ctx, W.view(), args);
            },
            [&](MatrixView<const float> x, const float* bias, MatrixView<float> y) {
              AlignedBuffer<float> memory(x.rows *
                                          kernels::Int8Activations::floats_per_token(x.cols));
              const kernels::Int8Activations a(memory.data(), x.rows, x.cols);
              ref::quantize_activations(x, {0, x.rows}, a);
              ref::matmul_grouped(
                  {.W = W.view(), .x = a, .bias = bias, .y = y, .outputs = {0, y.cols}});
            });
      });
    }
  }
}

}  // namespace
}  // namespace krait::product_test
