// krait laser, run as a user runs it.

#include <algorithm>
#include <filesystem>

#include "tests/cli/cli.hpp"

namespace krait::laser_test {
namespace {

namespace fs = std::filesystem;

class CliLaser : public Cli {
 protected:
  CliLaser() {
    test::write_file(path("text"),
                     test::read_file(test::data_dir() / "data/heldout_64k.txt").substr(0, 9000));
  }

  std::string search(const char* to) const {
    return "laser krait-bytes-draft " + path(to) +
           " --search --mode shrink --loss 0.2 --threads 2 " + "--data " + path("text");
  }
};

TEST_F(CliLaser, CutsWhatIsNamed) {
  const json report = krait_json("laser krait-bytes-2m " + path("new") +
                                 " --set 7:out:0.25 --set 7:in_x:100 --set emb:64");
  EXPECT_EQ(report["cuts"].size(), 3U);
  EXPECT_EQ(report["cuts"][0]["layer"], 7);
  EXPECT_EQ(report["cuts"][0]["matrix"], "out");
  EXPECT_EQ(report["cuts"][0]["rank"], 48);
  EXPECT_EQ(report["factored"], 2);
  EXPECT_LT(report["bytes_after"].get<int>(), report["bytes_before"].get<int>());
  for (const std::string form : {"file", "f32", "q8", "q4"}) {
    EXPECT_EQ(
        krait("generate -m " + path("new") + " --greedy -n 8 --dtype " + form + " \"The \"").code,
        0)
        << form;
  }
  EXPECT_NE(krait_json("inspect " + path("new")).dump().find("out_proj.u"), std::string::npos);
  EXPECT_EQ(krait("laser krait-bytes-2m " + path("dense") + " --dense --set 7:out:48").code, 0);
  EXPECT_EQ(krait_json("inspect " + path("dense")).dump().find("out_proj.u"), std::string::npos);
  expect_error("laser krait-bytes-2m " + path("new") + " --set 7:out:48", 1, path("new"));
  expect_error("laser krait-bytes-2m " + path("x") + " --set 7:out:48 --set 7:out:5", 1,
               "expected each matrix once, found 7:out twice");
  EXPECT_EQ(krait("laser krait-bytes-draft " + path("ruled") + " --rule mp").code, 0);
  EXPECT_EQ(krait("inspect krait-bytes-draft --spectrum " + path("s.svg")).code, 0);
  EXPECT_EQ(test::read_file(path("s.svg")).find("<svg"), 0U);
}

TEST_F(CliLaser, SearchesWhatIsAskedFor) {
  const std::string search = "laser krait-bytes-draft " + path("new") + " --data " + path("text") +
                             " --search --matrices ";
  const json report = krait_json(search + "1:x_B --matrices emb --quick --svg " + path("map.svg"));
  ASSERT_FALSE(report["trials"].empty());
  bool has_embedding = false;
  for (const json& trial : report["trials"]) {
    const bool is_embedding = trial["layer"] == -1 && trial["matrix"] == "emb";
    has_embedding = has_embedding || is_embedding;
    EXPECT_TRUE(is_embedding || (trial["layer"] == 1 && trial["matrix"] == "x_B")) << trial;
    EXPECT_LE(trial["rank"].get<int>(), 16);
  }
  EXPECT_TRUE(has_embedding);
  EXPECT_NE(test::read_file(path("map.svg")).find(">no layer<"), std::string::npos);
  expect_error(search + "y", 1, "[laser] matrices: expected a pattern that fits one of emb, in,");
  expect_error(search + "out --quick --mode shrink", 2, "--quick");
  expect_error("laser krait-bytes-draft " + path("x") + " --set 0:in:5 --quick", 2, "--quick");
}

TEST_F(CliLaser, NeedsFloatsWhereverItCuts) {
  ASSERT_EQ(krait("quantize krait-bytes-draft " + path("q8") + " --to q8").code, 0);
  for (const std::string& command :
       {"generate hi -n 2 -m " + path("q8") + " --draft self:laser=0.3",
        "laser " + path("q8") + " " + path("d") + " --rule mp"}) {
    const Outcome outcome = krait(command);
    EXPECT_EQ(outcome.code, 1) << command;
    EXPECT_NE(outcome.err.find("expected a matrix of floats, found q8"), std::string::npos)
        << outcome.err;
  }
}

TEST_F(CliLaser, GoesOnAfterASignalAndGivesTheSameBytes) {
  const json report = krait_json(search("whole") + " --svg " + path("map.svg"));
  EXPECT_TRUE(report["complete"].get<bool>());
  ASSERT_FALSE(report["cuts"].empty());
  EXPECT_EQ(report["cuts"][0]["interval"].size(), 2U);
  EXPECT_LE(report["cuts"][0]["interval"][0].get<double>(),
            report["cuts"][0]["after"].get<double>() - report["cuts"][0]["before"].get<double>());
  EXPECT_FALSE(report["trials"].empty());
  EXPECT_EQ(test::read_file(path("map.svg")).find("<svg"), 0U);
  for (const std::string signal : {"INT", "KILL"}) {
    const Outcome outcome = shell(KRAIT_PROGRAM " " + search("parts") +
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
    EXPECT_EQ(krait(search("parts")).code, 0);
  }
  EXPECT_EQ(test::read_file(path("parts/model.safetensors")),
            test::read_file(path("whole/model.safetensors")));
  EXPECT_FALSE(fs::exists(path("parts.partial")));
}

TEST_F(CliLaser, AFullDiskIsOneLineAndLosesNothing) {
  for (const std::string& command :
       {search("full"), "laser krait-bytes-draft " + path("full") + " --set 0:in:5"}) {
    const Outcome outcome = shell("ulimit -f 4; " KRAIT_PROGRAM " " + command);
    EXPECT_EQ(outcome.code, 1);
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_FALSE(fs::exists(path("full")));
  }
  EXPECT_EQ(krait(search("full")).code, 0);
}

}  // namespace
}  // namespace krait::laser_test
