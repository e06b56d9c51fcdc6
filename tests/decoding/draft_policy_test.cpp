#include "decoding/draft_policy.hpp"

#include <gtest/gtest.h>

namespace krait::draft_policy_test {
namespace {

constexpr Index longest = 8;

// A run of plain steps of 1, in which a drafter guesses one token after another for `guess` each,
// `right` of which in a row are accepted; passes take 0.1 more for each row.
struct Drafting {
  DraftPolicy policy{1, longest};
  double seconds = 0.0;
  Index tokens = 0;
  Index drafted = 0;

  void step(double guess, Index right) {
    Draft draft;
    double spent = 0.0;
    const auto goes_on = [&] {
      if (draft.size() == longest) return false;
      const double alone = policy.rate(draft, draft.size(), spent);
      return policy.rate_beyond(draft, spent, policy.acceptance(0), policy.guess_seconds(0, 1),
                                longest - draft.size()) > alone;
    };
    while (policy.is_open() && goes_on()) {
      draft.append(7, {.level = 0, .confidence = 0.5});
      policy.guessed(0, 1, 1, guess);
      spent += guess;
    }
    const Index accepted = std::min(draft.size(), right);
    const double pass = 1.0 + 0.1 * static_cast<double>(draft.size());
    policy.verified(draft, accepted, spent, pass);
    seconds += spent + pass;
    tokens += accepted + 1;
    drafted += draft.size();
  }
};

TEST(DraftPolicy, LeavesADrafterAloneThatIsAlwaysWrong) {
  for (const double guess : {0.01, 0.5, 25.0}) {
    Drafting run;
    for (int i = 0; i < 2000; ++i) run.step(guess, 0);
    EXPECT_EQ(run.tokens, 2000);
    // Plain steps alone take 2000.
    EXPECT_LE(run.seconds, 1.05 * 2000.0) << guess;
  }
}

TEST(DraftPolicy, DraftsAsMuchAsItMayWhereGuessesAreRightAndCheap) {
  Drafting run;
  for (int i = 0; i < 2000; ++i) run.step(0.01, longest);
  EXPECT_GT(static_cast<double>(run.tokens) / run.seconds, 4.0);
  EXPECT_GT(run.drafted, 2000 * (longest - 1));
}

// Every guess is right, but takes longer than a plain step.
TEST(DraftPolicy, DoesNotDraftWhatCostsMoreThanItGives) {
  Drafting run;
  for (int i = 0; i < 2000; ++i) run.step(1.2, longest);
  EXPECT_LE(run.seconds, 1.05 * static_cast<double>(run.tokens));
}

TEST(DraftPolicy, NoticesThatADrafterHasBecomeWrongAndRightAgain) {
  Drafting run;
  for (int i = 0; i < 500; ++i) run.step(0.05, longest);
  Drafting before = run;
  for (int i = 0; i < 500; ++i) run.step(0.05, 0);
  EXPECT_LE(run.seconds - before.seconds, 1.1 * 500.0);
  before = run;
  for (int i = 0; i < 1500; ++i) run.step(0.05, longest);
  EXPECT_GT(run.tokens - before.tokens, 2 * 1500);
}

}  // namespace
}  // namespace krait::draft_policy_test
