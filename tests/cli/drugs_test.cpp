// --drugs and krait drugs-report, run as a user runs them.

#include <filesystem>

#include "tests/cli/cli.hpp"

namespace krait::drugs_test {
namespace {

namespace fs = std::filesystem;

class CliDrugs : public Cli {
 protected:
  std::string path(const std::string& name) const { return (directory_.path() / name).string(); }
  const std::string small = " -m krait-bytes-draft";
  const std::string text = "generate 'It was a dark' --greedy -n 24" + small;
};

TEST_F(CliDrugs, OfNoDoseChangeNoByte) {
  const Outcome plain = krait(text);
  ASSERT_EQ(plain.code, 0) << plain.err;
  for (const char* none : {"''", "A:theta=0", "'H:theta=1,shape=points(0:0)'"}) {
    const Outcome sober = krait(text + " --drugs " + none + " --drugs-seed 3");
    EXPECT_EQ(sober.code, 0) << sober.err;
    EXPECT_EQ(sober.out, plain.out) << none;
  }
  const std::string logits = "logits --text 'It was a dark night' --all" + small + " --out ";
  EXPECT_EQ(krait(logits + path("plain.npy")).code, 0);
  EXPECT_EQ(krait(logits + path("zero.npy") + " --drugs A:theta=0").code, 0);
  EXPECT_EQ(krait(logits + path("noised.npy") + " --drugs A:theta=0.5").code, 0);
  EXPECT_EQ(krait(logits + path("steps.npy") + " --drugs A:theta=0.5 --chunk 1 --threads 1").code,
            0);
  EXPECT_EQ(test::read_file(path("plain.npy")), test::read_file(path("zero.npy")));
  EXPECT_NE(test::read_file(path("plain.npy")), test::read_file(path("noised.npy")));
  EXPECT_EQ(test::read_file(path("steps.npy")), test::read_file(path("noised.npy")));
}

TEST_F(CliDrugs, GoOnFromAStateFile) {
  for (const char* policy : {"clean", "carry", "'shower(3)'"}) {
    const std::string drugs =
        std::string(" --drugs 'A:theta=1;H:theta=0.7' --drugs-state ") + policy;
    const std::string whole = krait(text + drugs).out;
    const std::string first = krait("generate 'It was a dark' --greedy -n 10" + small + drugs +
                                    " --state-out " + path("s"))
                                  .out;
    const std::string rest =
        krait("generate --greedy -n 14" + small + drugs + " --state-in " + path("s")).out;
    EXPECT_EQ(first + rest, whole) << policy;
    EXPECT_NE(whole, krait(text).out);
    // Drafts change nothing.
    EXPECT_EQ(krait(text + drugs + " --draft ngram --draft-length 4").out, whole) << policy;
  }
}

TEST_F(CliDrugs, MeasureThePerplexityOfEachPolicy) {
  test::write_file(path("text"), "It was the best of times, it was the worst of times.");
  const auto nats = [&](const std::string& flags) {
    return krait_json("perplexity " + path("text") + small + flags)["nats_per_token"].get<double>();
  };
  const std::string dose = " --drugs W:theta=1 --drugs-state ";
  EXPECT_EQ(nats(dose + "clean"), nats(dose + "'shower(1)'"));
  EXPECT_NE(nats(dose + "clean"), nats(dose + "carry"));
  EXPECT_EQ(nats(" --drugs W:theta=0"), nats(""));
}

TEST_F(CliDrugs, ReportWhatTheyDo) {
  test::write_file(path("text"), "It was the best of times.");
  const json report = krait_json("drugs-report --file " + path("text") + small +
                                 " --sites A,S --doses 0,0.3 --out " + path("report"));
  EXPECT_EQ(json::parse(test::read_file(path("report/report.json"))), report);
  EXPECT_NE(test::read_file(path("report/vergence.svg")).find("<svg "), std::string::npos);
  std::size_t layers = 0;
  for (const json& point : report["points"]) {
    layers = point["vergence"].size();
    EXPECT_EQ(point["kl"] == 0.0, point["dose"] == 0.0) << point;
    EXPECT_GE(point["flips"], 0.0);
    if (point["layer"].is_null()) continue;
    // Nothing differs in front of the layer that is dosed.
    for (std::size_t i = 0; i < layers; ++i) {
      const bool is_touched = point["dose"] > 0.0 && i >= point["layer"].get<std::size_t>();
      EXPECT_EQ(std::abs(point["vergence"][i].get<double>()) > 1e-12, is_touched) << point << i;
    }
  }
  EXPECT_EQ(report["points"].size(), 2 * 2 * (layers + 1));
}

TEST_F(CliDrugs, SayWhatIsWrong) {
  expect_error(text + " --drugs J:theta=1", 2, "--drugs: expected one of H X V B D Q S W A Z O K");
  expect_error(text + " --drugs A:theta=-1", 2, "--drugs: expected a finite number of at least 0");
  expect_error(text + " --drugs A:theta=1,shape=cube", 2, "--drugs: expected rect(c,h)");
  expect_error(text + " --drugs A", 2, "--drugs: expected theta=");
  expect_error(text + " --drugs K:theta=1", 1, "found K");
  expect_error(text + " --drugs A:theta=1 --drugs-group 7", 1,
               "--drugs: A group: expected a divisor");
  expect_error(text + " --drugs A:theta=1 --drugs-state 'shower(0)'", 2, "--drugs-state: expected");
  expect_error(text + " --drugs A:theta=1 --drugs-seed -1", 2, "--drugs-seed: expected");
  expect_error(text + " --drugs A:theta=1 --drugs-direction up", 2, "--drugs-direction: expected");
  expect_error(text + " --drugs A:theta=1 --drugs-angle flat", 2, "--drugs-angle: expected");
  expect_error(text + " --drugs-state carry", 2, "--drugs-state: expected --drugs beside it");
  expect_error(text + " --drugs A:theta=1 --num-beams 2", 2, "--drugs: expected no --num-beams");
  expect_error("logits --text a --drugs-seed 1" + small, 2, "--drugs-seed: expected --drugs");
  test::write_file(path("text"), "It was");
  const std::string report = "drugs-report --file " + path("text") + small;
  expect_error(report + " --doses 0.1 --out " + path("r"), 2, "--sites: expected");
  expect_error(report + " --sites A,J --doses 0.1 --out " + path("r"), 2, "--sites: expected");
  expect_error(report + " --sites A --doses x --out " + path("r"), 2, "--doses: expected");
  expect_error(report + " --sites A --doses -1 --out " + path("r"), 2, "--doses: expected");
  expect_error(report + " --sites A --doses 1", 2, "--out: expected");
  expect_error(report + " --sites K --doses 1 --out " + path("r"), 1, "found K");
  expect_error(report + " --sites A --doses 1 --out " + path("text"), 1,
               "--out: expected a folder");
  expect_error(report + " --sites A --doses 1 --out " + path("no/r"), 1,
               "--out: expected a folder");
  EXPECT_FALSE(fs::exists(path("r")));
  fs::create_directories(path("s/report.json"));
  expect_error(report + " --sites A --doses 1 --out " + path("s"), 1, "report.json");
  expect_error(text + " --drugs 'A:theta=1e308,shape=points(0:1e10)'", 1, "A angle: expected");
}

}  // namespace
}  // namespace krait::drugs_test
