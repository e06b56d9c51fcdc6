#include "training/conv_backward.hpp"

#include <algorithm>

#include "krait/kernels/conv1d.hpp"
#include "training/products.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {
namespace {

constexpr Index channel_block = 64;

// Inputs with those of the state in front of them: row i is that of token i - (d_conv - 1).
class Inputs {
 public:
  explicit Inputs(const ConvBackward& args) : args_(args) {}

  // The row from channel c on; null where it is all zeros.
  const float* row(Index i, Index c) const {
    const Index before = args_.d_conv - 1;
    if (i >= before) return args_.x.row_data(i - before) + c;
    return args_.state == nullptr ? nullptr : args_.state + i * args_.x.cols + c;
  }

 private:
  const ConvBackward& args_;
};

// dp = dy · silu'(p), or dy without silu, for the channels of one block, p by the taps [d_conv,
// channels].
void pre_activation_backward(const ConvBackward& args, const float* taps, const float* bias,
                             Range channels, MatrixView<float> dp) {
  const Inputs inputs(args);
  const Index width = channels.size();
  float p[channel_block];
  for (Index t = 0; t < args.x.rows; ++t) {
    if (!args.silu) {
      std::copy_n(args.dy.row_data(t) + channels.begin, width, dp.row_data(t) + channels.begin);
      continue;
    }
    for (Index c = 0; c < width; ++c) p[c] = bias == nullptr ? 0.0F : bias[channels.begin + c];
    for (Index k = 0; k < args.d_conv; ++k) {
      const float* x = inputs.row(t + k, channels.begin);
      const float* tap = taps + k * args.x.cols + channels.begin;
      for (Index c = 0; x != nullptr && c < width; ++c) p[c] += tap[c] * x[c];
    }
    const auto size = static_cast<std::size_t>(width);
    silu_backward({p, size}, {args.dy.row_data(t) + channels.begin, size},
                  {dp.row_data(t) + channels.begin, size});
  }
}

// The gradients of inputs and of those in the state, for the channels of one block.
void inputs_backward(const ConvBackward& args, const float* taps, Range channels,
                     MatrixView<const float> dp, MatrixView<float> dstate) {
  const Index before = args.d_conv - 1;
  const Index tokens = args.x.rows;
  const Index width = channels.size();
  for (Index i = 0; i < before + tokens; ++i) {
    float sum[channel_block] = {};
    for (Index k = 0; k < args.d_conv; ++k) {
      const Index t = i - k;
      if (t < 0 || t >= tokens) continue;
      const float* from = dp.row_data(t) + channels.begin;
      const float* tap = taps + k * args.x.cols + channels.begin;
      for (Index c = 0; c < width; ++c) sum[c] += tap[c] * from[c];
    }
    if (args.dstate != nullptr && i >= tokens) {
      const float* last = args.dstate + (i - tokens) * args.x.cols + channels.begin;
      for (Index c = 0; c < width; ++c) sum[c] += last[c];
    }
    float* to = i < before ? dstate.row_data(i) : args.dx.row_data(i - before);
    std::copy_n(sum, width, to + channels.begin);
  }
}

// The gradients of taps, for the channels of one block.
void taps_backward(const ConvBackward& args, Range channels, MatrixView<const float> dp,
                   float* dweight) {
  const Inputs inputs(args);
  const Index width = channels.size();
  for (Index k = 0; k < args.d_conv; ++k) {
    float sum[channel_block] = {};
    for (Index t = 0; t < args.x.rows; ++t) {
      const float* x = inputs.row(t + k, channels.begin);
      const float* from = dp.row_data(t) + channels.begin;
      for (Index c = 0; x != nullptr && c < width; ++c) sum[c] += from[c] * x[c];
    }
    for (Index c = 0; c < width; ++c) dweight[(channels.begin + c) * args.d_conv + k] += sum[c];
  }
}

// [d_conv, channels] from [channels, 1, d_conv].
std::span<float> taps_of(const Work& work, const float* weight, Index channels, Index d_conv) {
  const std::span<float> taps = work.memory.floats(channels * d_conv);
  transpose(work, {weight, channels, d_conv}, {taps.data(), d_conv, channels});
  return taps;
}

template <class Body>
void for_channel_blocks(const Work& work, Index channels, Index tokens, Body body) {
  parallel_for(work.executor, channels, channel_block, ItemCost::of(0, 60 * tokens),
               [&](Range range) {
                 for (Index first = range.begin; first < range.end; first += channel_block) {
                   body(Range{first, std::min(range.end, first + channel_block)});
                 }
               });
}

}  // namespace

void conv_backward(const Work& work, const ParameterScope& conv, const ConvBackward& args) {
  const Workspace::Frame frame(work.memory);
  const Index channels = args.x.cols;
  const std::span<float> taps = taps_of(work, conv.value("weight"), channels, args.d_conv);
  const float* bias = conv.contains("bias") ? conv.value("bias") : nullptr;
  const MatrixView<float> dp = work.memory.matrix(args.x.rows, channels);
  const MatrixView<float> dstate = work.memory.matrix(args.d_conv - 1, channels);
  float* dweight = conv.gradient("weight");
  for_channel_blocks(work, channels, args.x.rows, [&](Range block) {
    pre_activation_backward(args, taps.data(), bias, block, dp);
    inputs_backward(args, taps.data(), block, dp, dstate);
    if (dweight != nullptr) taps_backward(args, block, dp, dweight);
  });
  if (bias != nullptr && conv.gradient("bias") != nullptr) {
    add_column_sums(work, dp, {}, conv.gradient("bias"));
  }
  if (args.dstate != nullptr) {
    std::copy_n(dstate.data, (args.d_conv - 1) * channels, args.dstate);
  }
}

void conv_forward(const Work& work, const ParameterScope& conv, const ConvBackward& args,
                  MatrixView<float> y) {
  const Workspace::Frame frame(work.memory);
  const Index channels = args.x.cols;
  const Index before = (args.d_conv - 1) * channels;
  const std::span<float> taps = taps_of(work, conv.value("weight"), channels, args.d_conv);
  const std::span<float> state = work.memory.floats(before);
  if (args.state == nullptr) {
    std::ranges::fill(state, 0.0F);
  } else {
    std::copy_n(args.state, before, state.data());
  }
  for_channel_blocks(work, channels, args.x.rows, [&](Range block) {
    kernels::conv1d_silu({.x = args.x,
                          .weight = taps.data(),
                          .bias = conv.contains("bias") ? conv.value("bias") : nullptr,
                          .d_conv = args.d_conv,
                          .state = state.data(),
                          .y = y,
                          .channels = block,
                          .silu = args.silu});
  });
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
