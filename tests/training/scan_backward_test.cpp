#include "training/scan_backward.hpp"

#include <gtest/gtest.h>

#include "tests/support/kernel_support.hpp"

namespace krait::scan_backward_test {
namespace {

using test::random_floats;

struct Scan {
  Index T, E, N;
  std::vector<float> u, dt, BC, z, A, D, h, dy;
  std::vector<float> y, du, ddt, dz, dBC, dA, dD, dh, memory;

  Scan(Index tokens, Index channels, Index states)
      : T(tokens),
        E(channels),
        N(states),
        u(random_floats(T * E, 1)),
        dt(random_floats(T * E, 2, 3.0F)),
        BC(random_floats(T * 2 * N, 3)),
        z(random_floats(T * E, 4, 4.0F)),
        A(random_floats(kernels::scan_size(E, N), 5)),
        D(random_floats(E, 6)),
        h(random_floats(kernels::scan_size(E, N), 7)),
        dy(random_floats(T * E, 8)),
        y(u.size()),
        du(u.size()),
        ddt(u.size()),
        dz(u.size()),
        dBC(BC.size()),
        dA(A.size()),
        dD(D.size()),
        dh(random_floats(kernels::scan_size(E, N), 9)),
        memory(static_cast<std::size_t>(kernels::scan_backward_memory(T, N))) {
    for (float& a : A) a = -0.7F - a * 0.6F;
  }

  kernels::ScanBackwardArgs args(bool begins) {
    return {.u = {u.data(), T, E},
            .dt_raw = {dt.data(), T, E},
            .B = {BC.data(), T, N, 2 * N},
            .C = {BC.data() + N, T, N, 2 * N},
            .z = {z.data(), T, E},
            .A = A.data(),
            .D = D.data(),
            .h = begins ? nullptr : h.data(),
            .d_state = N,
            .dy = {dy.data(), T, E},
            .y = {y.data(), T, E},
            .du = {du.data(), T, E},
            .ddt_raw = {ddt.data(), T, E},
            .dz = {dz.data(), T, E},
            .dBC = {dBC.data(), T, 2 * N},
            .dA_log = dA.data(),
            .dD = dD.data(),
            .dh = dh.data(),
            .memory = memory,
            .channels = {0, E}};
  }

  // The parts that belong to channels; the rest of blocks is padding.
  std::vector<float> results() const {
    std::vector<float> all;
    for (const auto* part : {&y, &du, &ddt, &dz, &dBC, &dD}) {
      all.insert(all.end(), part->begin(), part->end());
    }
    for (Index d = 0; d < E; ++d) {
      for (Index n = 0; n < N; ++n) {
        const auto at = static_cast<std::size_t>(kernels::scan_offset(d, n, N));
        all.push_back(dA[at]);
        all.push_back(dh[at]);
      }
    }
    return all;
  }
};

TEST(ScanBackward, EqualsTheModelBitForBitOnEveryInstructionSet) {
  test::for_each_isa([](Isa) {
    for (const Index tokens : {1, 31, 33, 70}) {
      for (const Index channels : {1, 3, 15, 16, 17, 40, 64}) {
        for (const Index states : {1, 5, 16}) {
          for (const bool begins : {false, true}) {
            Scan model(tokens, channels, states);
            Scan kernel = model;
            ref::selective_scan_backward(model.args(begins));
            kernels::selective_scan_backward(kernel.args(begins));
            ASSERT_TRUE(test::same_bits<float>(model.results(), kernel.results()))
                << tokens << " " << channels << " " << states;
          }
        }
      }
    }
  });
}

TEST(ScanBackward, MakesTheOutputOfInference) {
  Scan scan(45, 40, 5);
  const auto args = scan.args(false);
  kernels::selective_scan_backward(args);
  std::vector<float> y(scan.u.size());
  std::vector<float> h = scan.h;
  kernels::selective_scan({.u = args.u,
                           .dt_raw = args.dt_raw,
                           .B = args.B,
                           .C = args.C,
                           .z = args.z,
                           .A = args.A,
                           .D = args.D,
                           .h = h.data(),
                           .d_state = scan.N,
                           .y = {y.data(), scan.T, scan.E},
                           .channels = {0, scan.E}});
  EXPECT_TRUE(test::same_bits<float>(y, scan.y));
}

}  // namespace
}  // namespace krait::scan_backward_test
