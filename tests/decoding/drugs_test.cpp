// DRµGS: the turn against a slow transcription, doses as they are written, and noise as a function
// of its key alone.
#include "krait/decoding/drugs.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "krait/core/rng.hpp"
#include "krait/core/thread_pool.hpp"
#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/kernel_support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::drugs_test {
namespace {

using test::random_tokens;
using test::same_bits;
using test::tiny_model;
using Row = std::vector<float>;

// The definition, in the simplest terms: libm's functions, sums in order.
class SlowTurn {
 public:
  SlowTurn(const NoiseKey& key, std::size_t n) : key_(key), n_(n) {}

  std::array<std::uint32_t, 4> block(std::size_t i) const {
    const auto position = static_cast<std::uint64_t>(key_.position);
    const auto blocks = 1 + (n_ + 3) / 4;
    return philox4x32(
        {static_cast<std::uint32_t>(static_cast<std::uint64_t>(key_.vector) * blocks + i),
         static_cast<std::uint32_t>(position),
         static_cast<std::uint32_t>((position >> 32U) * 65536 +
                                    static_cast<std::uint64_t>(key_.layer) * 32 +
                                    static_cast<std::uint64_t>(key_.site) + 1),
         key_.sequence},
        {static_cast<std::uint32_t>(key_.seed),
         static_cast<std::uint32_t>(key_.seed >> 32U) ^ 0x44525547U});
  }
  static double uniform(std::uint32_t word) { return std::floor(word / 256.0) / 16777216.0; }
  static double normal(std::uint32_t a, std::uint32_t b, bool second) {
    const double r = std::sqrt(-2.0 * std::log((std::floor(a / 256.0) + 1.0) / 16777216.0));
    const double angle = 2.0 * std::numbers::pi * uniform(b);
    return r * (second ? std::sin(angle) : std::cos(angle));
  }
  double angle(double theta) const {
    const auto words = block(0);
    if (key_.angle == DrugAngle::uniform) return theta * uniform(words[0]);
    return theta / std::sqrt(3.0) * std::abs(normal(words[0], words[1], false));
  }
  double direction(std::size_t k) const {
    const auto words = block(1 + k / 4);
    if (key_.direction == DrugDirection::legacy) return uniform(words[k % 4]);
    return normal(words[k % 4 / 2 * 2], words[k % 4 / 2 * 2 + 1], k % 2 == 1);
  }
  std::vector<double> operator()(const Row& x, double theta) const {
    double along = 0.0;
    double square = 0.0;
    for (std::size_t k = 0; k < n_; ++k) {
      along += direction(k) * double{x[k]};
      square += double{x[k]} * double{x[k]};
    }
    std::vector<double> across(n_);
    double breadth = 0.0;
    for (std::size_t k = 0; k < n_; ++k) {
      across[k] = direction(k) - along / square * double{x[k]};
      breadth += across[k] * across[k];
    }
    const double phi = angle(theta);
    for (std::size_t k = 0; k < n_; ++k) {
      across[k] = std::cos(phi) * double{x[k]} +
                  std::sin(phi) * std::sqrt(square) * across[k] / std::sqrt(breadth);
    }
    return across;
  }

 private:
  NoiseKey key_;
  std::size_t n_;
};

Row random_row(std::size_t n, std::uint64_t seed) {
  Row row(n);
  for (std::size_t k = 0; k < n; ++k) {
    row[k] = static_cast<float>(
        2.0 * random_uniform({.seed = seed, .position = static_cast<std::uint64_t>(k)}) - 0.8);
  }
  return row;
}

double length(const Row& x) {
  double sum = 0.0;
  for (const float v : x) sum += double{v} * double{v};
  return std::sqrt(sum);
}

double angle_between(const Row& a, const Row& b) {
  double product = 0.0;
  for (std::size_t k = 0; k < a.size(); ++k) product += double{a[k]} * double{b[k]};
  return std::acos(std::clamp(product / (length(a) * length(b)), -1.0, 1.0));
}

TEST(Turn, IsTheDefinition) {
  for (const auto direction : {DrugDirection::gauss, DrugDirection::legacy}) {
    for (const auto law : {DrugAngle::uniform, DrugAngle::halfnormal}) {
      for (const std::size_t n : {2U, 3U, 16U, 17U, 64U, 301U}) {
        for (Index v = 0; v < 5; ++v) {
          const NoiseKey key{.seed = 0x123456789ABCDEFU,
                             .sequence = 7,
                             .position = (Index{3} << 32) + 5 * v,
                             .layer = 11 * v,
                             .site = static_cast<DrugSite>(2 * v),
                             .vector = 1000 * v,
                             .direction = direction,
                             .angle = law};
          const Row x = random_row(n, 3);
          Row turned = x;
          Row work(n);
          turn(turned, 0.7, key, work);
          const SlowTurn slow(key, n);
          const auto expected = slow(x, 0.7);
          for (std::size_t k = 0; k < n; ++k) EXPECT_NEAR(turned[k], expected[k], 2e-6) << n;
          EXPECT_NEAR(length(turned), length(x), 1e-6 * length(x));
          EXPECT_NEAR(angle_between(turned, x), slow.angle(0.7), 1e-3);
        }
      }
    }
  }
}

TEST(Turn, HasTheLawOfItsAngle) {
  constexpr double theta = 0.4;
  constexpr int count = 4000;
  for (const auto law : {DrugAngle::uniform, DrugAngle::halfnormal}) {
    double mean = 0.0;
    double square = 0.0;
    double largest = 0.0;
    const Row x = random_row(48, 9);
    Row work(48);
    for (Index t = 0; t < count; ++t) {
      Row turned = x;
      turn(turned, theta, {.seed = 5, .position = t, .angle = law}, work);
      const double angle = angle_between(turned, x);
      mean += angle / count;
      square += angle * angle / count;
      largest = std::max(largest, angle);
    }
    const bool is_uniform = law == DrugAngle::uniform;
    EXPECT_NEAR(mean,
                is_uniform ? theta / 2 : theta / std::sqrt(3.0) * std::sqrt(2 / std::numbers::pi),
                0.02 * theta);
    EXPECT_NEAR(square, theta * theta / 3, 0.04 * theta * theta);
    if (is_uniform) {
      EXPECT_LT(largest, theta + 1e-3);
    } else {
      EXPECT_GT(largest, 1.5 * theta);
    }
  }
}

// Two directions of the reference have a mean cosine of 3/4, at any width; of normal numbers 0.
TEST(Turn, HasTheBiasOfTheReferenceOnlyWhereAskedFor) {
  for (const auto direction : {DrugDirection::gauss, DrugDirection::legacy}) {
    double mean = 0.0;
    constexpr int count = 400;
    for (Index t = 0; t < count; ++t) {
      // Around an axis of its own: with x along one coordinate, what is left is u's other ones.
      Row a(257, 0.0F);
      Row b(257, 0.0F);
      Row work(257);
      a[0] = b[0] = 1.0F;
      turn(a, 1.0, {.seed = 1, .position = 2 * t, .direction = direction}, work);
      turn(b, 1.0, {.seed = 1, .position = 2 * t + 1, .direction = direction}, work);
      a[0] = b[0] = 0.0F;
      if (length(a) > 0.0 && length(b) > 0.0) mean += std::cos(angle_between(a, b)) / count;
    }
    EXPECT_NEAR(mean, direction == DrugDirection::gauss ? 0.0 : 0.75, 0.02);
  }
}

TEST(Turn, LeavesWhatHasNoDirection) {
  Row work(4);
  for (const Row& x : {Row{0, 0, 0, 0}, Row{2}, Row{1, NAN, 2, 3}, Row{1, INFINITY, 0, 0}}) {
    Row turned = x;
    turn(turned, 1.0, {}, work);
    EXPECT_TRUE(same_bits<float>(turned, x));
  }
  Row turned{1, 2, 3, 4};
  turn(turned, 0.0, {}, work);
  EXPECT_TRUE(same_bits<float>(turned, Row{1, 2, 3, 4}));
  Row tiny{1e-30F, 2e-30F, 0, 0};
  turn(tiny, 3.0, {}, work);
  EXPECT_NEAR(length(tiny), std::sqrt(5.0) * 1e-30, 1e-36);
}

TEST(Dose, HasTheProfileOfThePublishedSamples) {
  const auto doses = parse_doses("A:theta=2,shape=rect(0.4,0.15625),mode=ceil").value();
  for (int layer = 0; layer < 32; ++layer) {
    EXPECT_EQ(doses[0].angle_at(layer / 32.0), layer >= 8 && layer <= 17 ? 2.0 : 0.0) << layer;
  }
}

TEST(Dose, HasShapesAndModes) {
  const auto at = [](const char* text, double depth) {
    return parse_doses(text).value()[0].angle_at(depth);
  };
  EXPECT_EQ(at("A:theta=4", 0.9), 4.0);
  EXPECT_EQ(at("A:theta=4,shape=ramp(0.25,0.75)", 0.5), 2.0);
  EXPECT_EQ(at("A:theta=4,shape=ramp(0.25,0.75)", 0.9), 4.0) << "beyond: what the end says";
  EXPECT_EQ(at("A:theta=4,shape=ramp(0.25,0.75)", 0.1), 0.0);
  EXPECT_EQ(at("A:theta=4,shape=peak(0.5,0.5)", 0.75), 2.0);
  EXPECT_EQ(at("A:theta=1,shape=points(0:0.5,0.5:1,1:0.25),mode=ceil", 0.75), 1.0);
  EXPECT_EQ(at("A:theta=1,shape=points(0:0.5,0.5:1,1:0.25),mode=floor", 0.75), 0.25);
  EXPECT_EQ(at("A:mode=floor,theta=1,shape=points(0:0.5,0.5:1)", 0.25), 0.5);
  EXPECT_TRUE(parse_doses("").value().empty());
  EXPECT_EQ(parse_doses("A:theta=0.1;S:theta=0.05").value()[1].site, DrugSite::S);
}

TEST(Dose, SaysWhatIsWrong) {
  for (const auto& [text, message] : std::vector<std::pair<std::string, std::string>>{
           {"J:theta=1", "[drugs] site: expected one of H X V B D Q S W A Z O K, found J"},
           {"A", "[drugs] A: expected theta=…, found nothing"},
           {"A:shape=ramp(0,1)", "[drugs] A: expected theta=…, found shape=ramp(0,1)"},
           {"A:theta=-1", "[drugs] A theta: expected a finite number of at least 0, found -1"},
           {"A:theta=nan", "[drugs] A theta: expected a finite number of at least 0, found nan"},
           {"A:theta=1,theta=2", "[drugs] A: expected one theta, found another"},
           {"A:theta=1,dose=2", "[drugs] A: expected theta=…, shape=… or mode=…, found dose=2"},
           {"A:theta=1,mode=up", "[drugs] mode: expected interpolate, ceil or floor, found up"},
           {"A:theta=1,shape=rect(1)", "[drugs] rect: expected 2 numbers, found 1"},
           {"A:theta=1,shape=rect(1,0)", "[drugs] rect: expected a width above 0, found 1,0"},
           {"A:theta=1,shape=ramp(1,0)",
            "[drugs] ramp: expected a depth and a greater one, found 1,0"},
           {"A:theta=1,shape=points(1)",
            "[drugs] points: expected DEPTH:RATIO with finite numbers, found 1"},
           {"A:theta=1;", "[drugs] site: expected one of H X V B D Q S W A Z O K, found nothing"},
       }) {
    const auto doses = parse_doses(text);
    ASSERT_FALSE(doses) << text;
    EXPECT_EQ(doses.error().message, message);
  }
  DrugPlan plan;
  EXPECT_EQ(parse_drug_state("shower(0)", plan).error().message,
            "[drugs] shower: expected a whole number of at least 1, found 0");
  EXPECT_EQ(parse_drug_state("sober", plan).error().message,
            "[drugs] state: expected clean, carry or shower(N), found sober");
}

DrugPlan plan_of(const std::string& doses, const std::string& state = "clean") {
  DrugPlan plan{.doses = parse_doses(doses).value(), .seed = 17};
  parse_drug_state(state, plan).value();
  return plan;
}

TEST(Drugs, RefusesWhatAModelHasNot) {
  const Model model = tiny_model();
  const auto message = [&](DrugPlan plan) { return Drugs::make(plan, model).error().message; };
  EXPECT_EQ(message(plan_of("K:theta=1")),
            "[drugs] site: expected one that the model has (H X V B D Q S W A Z O), found K");
  EXPECT_EQ(message(plan_of("A:theta=1;A:theta=2")), "[drugs] A: expected one dose, found another");
  DrugPlan grouped = plan_of("A:theta=1");
  grouped.group = 7;
  EXPECT_NE(message(grouped).find("[drugs] A group: expected a divisor of"), std::string::npos);
  EXPECT_NE(message(plan_of("A:theta=1,shape=points(1:1,0:1)")).find("ascending depths"),
            std::string::npos);
}

struct Trace {
  std::vector<Row> logits;
  State state;
};

std::shared_ptr<const Drugs> make_drugs(const DrugPlan& plan, const Model& model) {
  return std::make_shared<Drugs>(Drugs::make(plan, model).value());
}

// The policies as they are described, one token a run.
Trace slow_run(const Model& model, const DrugPlan& plan, std::span<const Token> tokens) {
  SerialExecutor executor;
  DrugHook hook(make_drugs(plan, model), 0);
  const SessionOptions sizes{.chunk = 1, .max_batch = 1, .max_verify = 0};
  SessionOptions hooked = sizes;
  hooked.hook = &hook;
  Session sober(model, executor, sizes);
  Session noised(model, executor, hooked);
  State clean = model.initial_state();
  State state = clean;
  Trace trace;
  Index count = 0;
  for (const Token token : tokens) {
    if (plan.state == DrugState::clean ||
        (plan.state == DrugState::shower && count == plan.shower)) {
      state = clean;
      count = 0;
    }
    const auto row = noised.step(token, state).value();
    trace.logits.emplace_back(row.begin(), row.end());
    sober.step(token, clean).value();
    ++count;
  }
  return trace;
}

class DrugSites : public testing::TestWithParam<ModelSpec (*)()> {};

TEST_P(DrugSites, AreNoisedAloneOfTheirKey) {
  const Model model = tiny_model(GetParam()(), DType::f32);
  const auto tokens = random_tokens(11, 61, 3);
  test::EagerThreadPool pool(3);
  SerialExecutor serial;
  const auto none = slow_run(model, plan_of(""), tokens);
  std::string all;
  for (const char letter : drug_letters) {
    const std::string dose = std::string(1, letter) + ":theta=0.9";
    if (!Drugs::make(plan_of(dose), model)) continue;
    all += (all.empty() ? "" : ";") + dose;
  }
  for (std::size_t i = 0; i <= (all.size() + 1) / 12; ++i) {
    const std::string doses = i * 12 < all.size() ? all.substr(i * 12, 11) : all;
    for (const char* state : {"clean", "carry", "shower(1)", "shower(3)"}) {
      SCOPED_TRACE(doses + ' ' + state);
      const DrugPlan plan = plan_of(doses, state);
      const Trace expected = slow_run(model, plan, tokens);
      EXPECT_FALSE(same_bits<float>(expected.logits.back(), none.logits.back()));
      for (const Index rows : {Index{1}, Index{2}, Index{5}, Index{16}}) {
        Session session(model, rows % 2 == 0 ? static_cast<Executor&>(pool) : serial,
                        {.chunk = 2 * rows, .max_batch = rows, .max_verify = 0});
        NoisedRun run(session, make_drugs(plan, model));
        for (std::size_t first = 0; first < tokens.size();) {
          const auto logits = run.run(std::span(tokens).subspan(first)).value();
          for (Index t = 0; t < logits.rows; ++t) {
            EXPECT_TRUE(same_bits<float>(logits.row(t), expected.logits[first++])) << rows;
          }
        }
      }
    }
    // A shower in front of every pass is the clean policy.
    const auto clean = slow_run(model, plan_of(doses, "clean"), tokens);
    const auto shower = slow_run(model, plan_of(doses, "shower(1)"), tokens);
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      EXPECT_TRUE(same_bits<float>(clean.logits[t], shower.logits[t]));
    }
  }
}

TEST_P(DrugSites, OfNoDoseChangeNothing) {
  const Model model = tiny_model(GetParam()(), DType::f32);
  const auto tokens = random_tokens(9, 61, 3);
  const auto none = slow_run(model, plan_of(""), tokens);
  const auto zero = make_drugs(plan_of("A:theta=0;H:theta=1,shape=points(0:0)"), model);
  EXPECT_TRUE(zero->is_sober());
  SerialExecutor executor;
  Session session(model, executor);
  NoisedRun run(session, zero);
  const auto logits = run.run(tokens).value();
  for (Index t = 0; t < logits.rows; ++t) {
    EXPECT_TRUE(same_bits<float>(logits.row(t), none.logits[static_cast<std::size_t>(t)]));
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, DrugSites,
                         testing::Values([] { return test::tiny_spec(); },
                                         [] { return test::tiny_mamba2_spec(); },
                                         [] { return test::tiny_expert_spec(); },
                                         [] { return test::tiny_hybrid_spec(); }));

// What the router reads is sober; what its experts read is not.
TEST(Drugs, LeaveRoutersSober) {
  const Model model = tiny_model(test::tiny_expert_spec(), DType::f32);
  DrugHook hook(make_drugs(plan_of("H:theta=1"), model), 0);
  const ModelSpec& spec = model.spec();
  int mixtures = 0;
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    for (const ResidualSpec& part : spec.layers[i].residuals) {
      const bool is_mixture = std::holds_alternative<MoeSpec>(part.block);
      mixtures += is_mixture;
      const std::string path = spec.layers_name + "." + std::to_string(i) + "." + part.block_name;
      const Row x = random_row(static_cast<std::size_t>(spec.d_model()), 1);
      const bool is_mlp = std::holds_alternative<MlpSpec>(part.block);
      for (const Site site : {Site::input, Site::expert}) {
        Row seen = x;
        hook.at({.site = site, .layer = static_cast<Index>(i), .path = path},
                {seen.data(), 1, spec.d_model()});
        // Of a mixture the experts, of an MLP nothing, as in the reference; else what the block
        // reads.
        const bool is_turned = !is_mlp && is_mixture == (site == Site::expert);
        EXPECT_EQ(!same_bits<float>(seen, x), is_turned) << path;
      }
    }
  }
  EXPECT_GT(mixtures, 0);
}

}  // namespace
}  // namespace krait::drugs_test
