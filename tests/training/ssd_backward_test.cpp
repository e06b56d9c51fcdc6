#include "training/ssd_backward.hpp"

#include <gtest/gtest.h>

#include "tests/support/kernel_support.hpp"

namespace krait::ssd_backward_test {
namespace {

using test::random_floats;

struct Head {
  Index T, P, N;
  std::vector<float> x, dy, BC, dt, D, states;
  std::vector<float> dx, ddt, dBC, dD, dstate, memory;
  float dA = 0.0F;

  // The states at chunks' beginnings follow from the first.
  Head(Index tokens, Index rows, Index columns)
      : T(tokens),
        P(rows),
        N(columns),
        x(random_floats(T * P, 1)),
        dy(random_floats(T * P, 2)),
        BC(random_floats(T * 2 * N, 3)),
        dt(random_floats(T, 4, 0.5F)),
        D(random_floats(P, 5)),
        states(random_floats(P * N, 6)),
        dx(x.size()),
        ddt(dt.size()),
        dBC(BC.size()),
        dD(D.size()),
        dstate(random_floats(P * N, 7)),
        memory(static_cast<std::size_t>(kernels::ssd_backward_memory(N))) {
    for (float& value : dt) value = std::abs(value) + 0.01F;
    std::vector<float> S = states;
    for (Index t = 0; t < T; ++t) {
      if (t > 0 && t % kernels::ssd_chunk == 0) states.insert(states.end(), S.begin(), S.end());
      const float step = dt[static_cast<std::size_t>(t)];
      const float a = ref::exp2_nonpositive_of(ref::ScalarOps(), step * A);
      for (Index i = 0; i < P * N; ++i) {
        const float dt_x = step * x[static_cast<std::size_t>(t * P + i / N)];
        float& state = S[static_cast<std::size_t>(i)];
        state = std::fma(a, state, dt_x * BC[static_cast<std::size_t>(t * 2 * N + i % N)]);
      }
    }
  }

  kernels::SsdBackwardArgs args(bool per_channel) {
    return {.x = {x.data(), T, P},
            .dy = {dy.data(), T, P},
            .B = {BC.data(), T, N, 2 * N},
            .C = {BC.data() + N, T, N, 2 * N},
            .dt = dt,
            .A = A,
            .D = D.data(),
            .D_per_channel = per_channel,
            .states = states.data(),
            .state_stride = P * N,
            .dx = {dx.data(), T, P},
            .ddt = ddt,
            .dBC = {dBC.data(), T, 2 * N},
            .dA_log = &dA,
            .dD = dD.data(),
            .dstate = dstate.data(),
            .memory = memory};
  }

  std::vector<float> results() const {
    std::vector<float> all = {dA};
    for (const auto* part : {&dx, &ddt, &dBC, &dD, &dstate}) {
      all.insert(all.end(), part->begin(), part->end());
    }
    return all;
  }

  static constexpr float A = -1.3F;
};

TEST(SsdBackward, EqualsTheModelBitForBitOnEveryInstructionSet) {
  test::for_each_isa([](Isa) {
    for (const Index tokens : {1, 31, 32, 33, 70}) {
      for (const Index rows : {1, 5}) {
        for (const Index columns : {1, 7, 16, 18, 64}) {
          for (const bool per_channel : {false, true}) {
            Head model(tokens, rows, columns);
            Head kernel = model;
            ref::ssd_backward(model.args(per_channel));
            kernels::ssd_backward(kernel.args(per_channel));
            ASSERT_TRUE(test::same_bits<float>(model.results(), kernel.results()))
                << tokens << " " << rows << " " << columns;
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace krait::ssd_backward_test
