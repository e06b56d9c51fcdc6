// krait aqlm, run as a user runs it.

#include <algorithm>
#include <filesystem>

#include "tests/cli/cli.hpp"

namespace krait::aqlm_test {
namespace {

namespace fs = std::filesystem;

class CliAqlm : public Cli {
 protected:
  CliAqlm() {
    test::write_file(path("calibration.txt"),
                     test::read_file(test::data_dir() / "data/heldout_64k.txt").substr(0, 3000));
  }

  std::string command(const char* to) const {
    return "aqlm krait-bytes-draft " + path(to) + " --scheme 4x4g8 --preset fast --threads 2 " +
           "--calibration " + path("calibration.txt");
  }
};

TEST_F(CliAqlm, WritesACheckpointThatRuns) {
  const json report = krait_json(command("new"));
  EXPECT_EQ(report["scheme"], "4x4g8");
  EXPECT_EQ(report["matrices"].size(), 4U);
  EXPECT_EQ(report["matrices"][0]["name"], "backbone.layers.0.mixer.in_proj");
  EXPECT_GT(report["matrices"][0]["error"].get<double>(), 0.0);
  EXPECT_GT(report["bits_per_weight"].get<double>(), 2.0);
  EXPECT_LT(report["bits_per_weight"].get<double>(), 3.5);
  EXPECT_GE(report["seconds"].get<double>(), 0.0);
  EXPECT_FALSE(fs::exists(path("new.partial")));
  for (const std::string form : {"file", "aqlm-exact", "f32", "bf16", "q8", "q4"}) {
    const Outcome text =
        krait("generate -m " + path("new") + " --greedy -n 8 --dtype " + form + " \"The \"");
    EXPECT_EQ(text.code, 0) << form << text.err;
    EXPECT_FALSE(text.out.empty()) << form;
  }
  const json inspected = krait_json("inspect " + path("new") + " --tensors");
  EXPECT_NE(inspected.dump().find("\"aqlm\""), std::string::npos);
  // Outputs weighed by what they move: other codes, for the same number of bits.
  const json weighed = krait_json(command("weighed") + " --weigh fisher");
  EXPECT_EQ(weighed["bits_per_weight"], report["bits_per_weight"]);
  EXPECT_NE(weighed["matrices"], report["matrices"]);
  expect_error("aqlm krait-bytes-draft " + path("none") + " --weigh fisher", 2,
               "--calibration beside");
  expect_error("aqlm krait-bytes-draft " + path("none") + " --tune-tokens 4096", 2,
               "--calibration beside");
  expect_error(command("none") + " --tune-tokens 100", 2,
               "--tune-tokens: expected 0 or at least 1024, found 100");
  // One is enough.
  expect_error("aqlm " + path("new") + " " + path("twice"), 1, "expected a matrix of floats");
  expect_error(command("new"), 1, "new");
}

TEST_F(CliAqlm, MeasuresTheModelBeforeAndAfterOverHeldOutText) {
  const std::string text = path("held-out.txt");
  test::write_file(text,
                   test::read_file(test::data_dir() / "data/heldout_64k.txt").substr(30000, 2000));
  const json report = krait_json(command("new") + " --held-out " + text);
  const json& held_out = report["held_out"];
  EXPECT_EQ(held_out["bytes"], 1999);
  const auto bits = [&](const std::string& model) {
    return krait_json("perplexity -m " + model + " " + text)["bits_per_byte"];
  };
  EXPECT_EQ(held_out["bits_per_byte_before"], bits("krait-bytes-draft"));
  EXPECT_EQ(held_out["bits_per_byte_after"], bits(path("new")));
  EXPECT_LT(held_out["bits_per_byte_before"], held_out["bits_per_byte_after"]);
  const json kl =
      krait_json("evaluate -m " + path("new") + " --kl krait-bytes-draft --file " + text);
  EXPECT_EQ(held_out["kl"], kl["kl"]);
  // Before the work, and nothing is left.
  test::write_file(text, "x");
  expect_error(command("other") + " --held-out " + text, 1,
               "--held-out: expected at least 2 tokens, found 1");
  expect_error(command("other") + " --held-out " + path("none.txt"), 1, "none.txt");
  expect_error(command("other") + " --held-out " + path("calibration.txt"), 2,
               "--held-out: expected another text than that of --calibration");
  EXPECT_FALSE(fs::exists(path("other.partial")));
}

TEST_F(CliAqlm, MomentsOfOneCallServeAnother) {
  EXPECT_EQ(krait(command("first") + " --save-moments " + path("moments")).code, 0);
  const std::string other = "aqlm krait-bytes-draft " + path("second") +
                            " --scheme 4x4g8 --preset fast --threads 1 --moments " +
                            path("moments");
  const json report = krait_json(other);
  EXPECT_EQ(test::read_file(path("second/model.safetensors")),
            test::read_file(path("first/model.safetensors")));
  EXPECT_EQ(report["matrices"].size(), 4U);
  expect_error(command("none") + " --moments a --save-moments b", 2,
               "--save-moments: expected no --moments beside it, found 'a'");
  expect_error("aqlm krait-bytes-draft " + path("none") + " --save-moments b", 2,
               "--save-moments: expected --calibration beside it, found none");
  expect_error("aqlm krait-bytes-2m " + path("none") + " --moments " + path("moments"), 1,
               "moments: expected those of the model");
  expect_error("aqlm krait-bytes-draft " + path("none") + " --moments " + path("calibration.txt"),
               1, "calibration.txt");
}

TEST_F(CliAqlm, QuantisesWhatIsNamed) {
  const json report =
      krait_json(command("new") + " --quantize '*.x_proj' --keep '*.1.mixer.x_proj'");
  EXPECT_EQ(report["matrices"].size(), 5U);
  EXPECT_EQ(krait("generate -m " + path("new") + " --greedy -n 8 \"The \"").code, 0);
  expect_error(command("none") + " --quantize '*.gate_proj'", 1,
               "[aqlm] quantize: expected a pattern that fits one of "
               "backbone.layers.*.mixer.dt_proj, ");
}

// A destination may be the folder that one is in; what is not finished lies beside that.
TEST_F(CliAqlm, WritesIntoAnEmptyFolderFromInside) {
  const std::string calibration = " --calibration " + path("calibration.txt");
  const std::string data = " --data " + path("calibration.txt");
  for (const std::string& command :
       {"aqlm krait-bytes-draft . --preset fast" + calibration,
        "laser krait-bytes-draft . --search --mode shrink --loss 0.5" + data,
        "train -m krait-bytes-draft --out . --steps 1 --batch 1 --length 32" + data}) {
    fs::create_directory(path("empty"));
    const Outcome outcome = shell("cd " + path("empty") + " && " KRAIT_PROGRAM " " + command);
    EXPECT_EQ(outcome.code, 0) << command << outcome.err;
    EXPECT_TRUE(fs::exists(path("empty") + "/model.safetensors")) << command;
    EXPECT_FALSE(fs::exists(path("empty") + "/..partial")) << command;
    EXPECT_FALSE(fs::exists(path("empty.partial"))) << command;
    fs::remove_all(path("empty"));
  }
}

TEST_F(CliAqlm, GoesOnAfterASignalAndGivesTheSameBytes) {
  EXPECT_EQ(krait(command("whole")).code, 0);
  for (const std::string signal : {"INT", "KILL"}) {
    const Outcome outcome = shell(KRAIT_PROGRAM " " + command("parts") +
                                  " & pid=$!; while kill -0 $pid && ! ls " + path("parts.partial") +
                                  "/*.safetensors >/dev/null 2>&1; do sleep 0.005; done; kill -" +
                                  signal + " $pid 2>/dev/null; wait $pid");
    if (outcome.code == 0) {  // it was done before the signal came
      fs::remove_all(path("parts"));
      continue;
    }
    EXPECT_EQ(outcome.code, signal == "INT" ? 130 : 137) << outcome.err;
    EXPECT_FALSE(fs::exists(path("parts")));
  }
  if (!fs::exists(path("parts"))) {
    EXPECT_EQ(krait(command("parts")).code, 0);
  }
  EXPECT_EQ(test::read_file(path("parts/model.safetensors")),
            test::read_file(path("whole/model.safetensors")));
  EXPECT_FALSE(fs::exists(path("parts.partial")));
}

TEST_F(CliAqlm, AFullDiskIsOneLineAndLosesNothing) {
  const Outcome outcome = shell("ulimit -f 4; " KRAIT_PROGRAM " " + command("full"));
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_FALSE(fs::exists(path("full")));
  EXPECT_EQ(krait(command("full")).code, 0);
}

}  // namespace
}  // namespace krait::aqlm_test
