// The convolution's backward pass against plain loops in double.

#include "training/conv_backward.hpp"

#include "tests/training/backward_kernels.hpp"

namespace krait::conv_backward_test {
namespace {

using test::at;
using test::Oracle;
using test::random_floats;
using test::SpacedMatrix;
using test::wide;
using training::ConvBackward;

struct Case {
  Index tokens;
  Index channels;
  Index d_conv;
  bool has_bias;
  bool has_state;
};

Parameters parameters_of(const Case& c) {
  const auto use = [](const char* name, const Shape& shape) {
    TensorUse tensor;
    tensor.name = tensor.path = name;
    tensor.shape = shape;
    return tensor;
  };
  std::vector<TensorUse> uses = {use("weight", {c.channels, 1, c.d_conv})};
  if (c.has_bias) uses.push_back(use("bias", {c.channels}));
  return Parameters(uses);
}

void expect_conv_backward(const Case& c) {
  const Index before = c.d_conv - 1;
  const Parameters parameters = parameters_of(c);
  const std::vector<float> values = random_floats(parameters.floats(), 1);
  const std::vector<float> gradients_before = random_floats(parameters.floats(), 2);
  const float* weight = values.data();
  const float* bias = c.has_bias ? values.data() + parameters.find("bias")->offset : nullptr;
  SpacedMatrix x(c.tokens, c.channels, 3);
  SpacedMatrix dy(c.tokens, c.channels, 4);
  const std::vector<float> state = random_floats(before * c.channels, 5);
  const std::vector<float> dstate_after = random_floats(before * c.channels, 6);

  // y, dx and the gradients of the state before, of taps and biases.
  const std::vector<float> found = test::same_everywhere([&](const Work& work) {
    std::vector<float> gradients = gradients_before;
    std::vector<float> dstate = dstate_after;
    SpacedMatrix y(c.tokens, c.channels, 0);
    SpacedMatrix dx(c.tokens, c.channels, 0);
    const ParameterScope scope(parameters, values.data(), gradients.data());
    const ConvBackward args{.x = x.view(),
                            .dy = dy.view(),
                            .dx = dx.view(),
                            .state = c.has_state ? state.data() : nullptr,
                            .dstate = c.has_state ? dstate.data() : nullptr,
                            .d_conv = c.d_conv};
    conv_forward(work, scope, args, y.view());
    conv_backward(work, scope, args);
    std::vector<float> all;
    y.append_to(all);
    dx.append_to(all);
    // Inputs alone have the same gradients.
    dx = SpacedMatrix(c.tokens, c.channels, 0);
    std::vector<float> own_dstate = dstate_after;
    ConvBackward inputs = args;
    inputs.dx = dx.view();
    if (c.has_state) inputs.dstate = own_dstate.data();
    conv_backward(work, {parameters, values.data(), nullptr}, inputs);
    std::vector<float> again(all.begin(), all.begin() + c.tokens * c.channels);
    dx.append_to(again);
    EXPECT_TRUE(test::same_bits<float>(all, again));
    EXPECT_TRUE(!c.has_state || test::same_bits<float>(dstate, own_dstate));

    if (c.has_state) all.insert(all.end(), dstate.begin(), dstate.end());
    for (const Parameter& parameter : parameters.all()) {
      const auto first = gradients.begin() + parameter.offset;
      all.insert(all.end(), first, first + parameter.shape.size());
    }
    return all;
  });

  const auto input = [&](Index i, Index channel) {  // of token i - before
    if (i >= before) return wide(x(i - before, channel));
    return c.has_state ? wide(state[at(i * c.channels + channel)]) : 0.0;
  };
  const auto tap = [&](Index k, Index channel) { return wide(weight[channel * c.d_conv + k]); };
  std::vector<Oracle> y(at(c.tokens * c.channels));
  std::vector<Oracle> dinput(at((before + c.tokens) * c.channels));
  std::vector<Oracle> dtaps(at(c.channels * c.d_conv));
  std::vector<Oracle> dbias(at(c.has_bias ? c.channels : 0));
  for (std::size_t i = 0; i < dtaps.size(); ++i) dtaps[i].add(wide(gradients_before[i]));
  for (Index i = 0; i < std::ssize(dbias); ++i) {
    dbias[at(i)].add(wide(gradients_before[at(parameters.find("bias")->offset + i)]));
  }
  for (Index i = 0; i < before && c.has_state; ++i) {  // behind the last token
    for (Index ch = 0; ch < c.channels; ++ch) {
      dinput[at((c.tokens + i) * c.channels + ch)].add(wide(dstate_after[at(i * c.channels + ch)]));
    }
  }
  for (Index t = 0; t < c.tokens; ++t) {
    for (Index ch = 0; ch < c.channels; ++ch) {
      double p = bias == nullptr ? 0.0 : wide(bias[ch]);
      double size = 1.0 + std::abs(p);  // of p, whose roundings all that follows shares
      for (Index k = 0; k < c.d_conv; ++k) {
        p += tap(k, ch) * input(t + k, ch);
        size += std::abs(tap(k, ch) * input(t + k, ch));
      }
      const double s = 1.0 / (1.0 + std::exp(-p));
      y[at(t * c.channels + ch)].add(p * s, size);
      const double dp = wide(dy(t, ch)) * s * (1.0 + p * (1.0 - s));
      const double dp_size = std::abs(wide(dy(t, ch))) * size;
      for (Index k = 0; k < c.d_conv; ++k) {
        dinput[at((t + k) * c.channels + ch)].add(dp * tap(k, ch), dp_size * std::abs(tap(k, ch)));
        dtaps[at(ch * c.d_conv + k)].add(dp * input(t + k, ch),
                                         dp_size * std::abs(input(t + k, ch)));
      }
      if (c.has_bias) dbias[at(ch)].add(dp, dp_size);
    }
  }
  std::vector<Oracle> expected = y;
  const auto first = dinput.begin() + before * c.channels;
  expected.insert(expected.end(), first, dinput.end());
  if (c.has_state) expected.insert(expected.end(), dinput.begin(), first);
  expected.insert(expected.end(), dtaps.begin(), dtaps.end());
  expected.insert(expected.end(), dbias.begin(), dbias.end());
  test::expect_close(found, expected, c.tokens + c.d_conv + 12);
}

TEST(ConvBackward, AgreesWithPlainLoopsWhateverRunsIt) {
  for (const Index tokens : {1, 2, 5, 33}) {
    for (const Index channels : {1, 15, 65, 130}) {
      for (const Index d_conv : {1, 2, 4, 7}) {  // longer than the text, too
        for (const bool has_bias : {false, true}) {
          for (const bool has_state : {false, true}) {
            SCOPED_TRACE(testing::Message()
                         << tokens << " tokens, " << channels << " channels, " << d_conv << " taps"
                         << (has_bias ? ", bias" : "") << (has_state ? ", state" : ""));
            expect_conv_backward({tokens, channels, d_conv, has_bias, has_state});
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace krait::conv_backward_test
