// What noise costs a step: medians of steps without noise and with each policy, in turns.
//
//   krait_drugs_bench MODEL [DOSES [THREADS]]

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>

#include "krait/krait.hpp"

namespace {

using namespace krait;

struct Way {
  const char* name;
  ActivationHook* hook;
  bool clean;
  std::vector<double> seconds = {};
};

Result<void> run(int argc, char** argv) {
  ThreadPool threads(argc > 3 ? std::stoi(argv[3]) : 1);
  KRAIT_ASSIGN_OR_RETURN(const Model model, load_model(argc > 1 ? argv[1] : "krait-bytes-moe", {}));
  DrugPlan plan;
  KRAIT_ASSIGN_OR_RETURN(plan.doses, parse_doses(argc > 2 ? argv[2] : "A:theta=0.5"));
  KRAIT_ASSIGN_OR_RETURN(Drugs drugs, Drugs::make(plan, model));
  DrugHook hook(std::make_shared<const Drugs>(std::move(drugs)), 0);
  Session session(model, threads);
  State state = model.initial_state();
  Way ways[] = {{"plain", nullptr, false}, {"carry", &hook, false}, {"clean", &hook, true}};
  constexpr int rounds = 60;
  for (int i = 0; i < rounds; ++i) {
    for (Way& way : ways) {
      const Token token = static_cast<Token>(i) % static_cast<Token>(model.vocab());
      const RunItem item{
          .tokens = {&token, 1}, .state = &state, .hook = way.hook, .clean = way.clean};
      const auto begun = std::chrono::steady_clock::now();
      KRAIT_RETURN_IF_ERROR(session.run({&item, 1}));
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begun;
      if (i >= 5) way.seconds.push_back(taken.count());
    }
  }
  for (Way& way : ways) std::ranges::sort(way.seconds);
  const auto median = [](const Way& way) { return way.seconds[way.seconds.size() / 2]; };
  for (const Way& way : ways) {
    std::printf("%s %.3f ms (best %.3f), %.3f of plain (best %.3f)\n", way.name, 1e3 * median(way),
                1e3 * way.seconds.front(), median(way) / median(ways[0]),
                way.seconds.front() / ways[0].seconds.front());
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const Result<void> done = run(argc, argv);
  if (!done) std::fprintf(stderr, "%s\n", done.error().message.c_str());
  return done ? 0 : 1;
}
