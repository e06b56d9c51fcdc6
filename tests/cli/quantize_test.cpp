// krait quantize, run as a user runs it.

#include <filesystem>

#include "krait/io/safetensors.hpp"
#include "krait/loading/registry.hpp"
#include "krait/models/random_weights.hpp"
#include "tests/cli/cli.hpp"

namespace krait::quantize_test {
namespace {

namespace fs = std::filesystem;

class CliQuantize : public Cli {
 protected:
  CliQuantize() { fs::create_directory(home()); }
  fs::path home() const { return directory_.path() / "home"; }  // holds results and nothing else
  std::string result() const { return (home() / "result").string(); }
  bool nothing_left() const { return fs::is_empty(home()); }

  // A checkpoint whose embedding, 64 Mi zeros in f16, is work for seconds and a hole in its file.
  std::string write_large() {
    const fs::path folder = directory_.path() / "large";
    fs::create_directory(folder);
    const auto config = [](Index vocab) {
      return R"({"d_model":64,"n_layer":1,"vocab_size":)" + std::to_string(vocab) + "}";
    };
    Checkpoint small;
    small.config = config(8);
    const ModelSpec spec = read_config(small).value().spec;
    const WeightStore weights = random_weights(spec, 1, "backbone", DType::f16).value();
    const std::string embedding = "backbone.embedding.weight";
    std::vector<NamedTensor> others;
    std::string map = "\"" + embedding + "\":\"zeros\"";
    for (const auto& [name, entry] : weights.entries()) {
      if (name == embedding) continue;
      others.push_back({name, entry.tensor});
      map += ",\"" + name + "\":\"others\"";
    }
    EXPECT_TRUE(write_safetensors((folder / "others").string(), others));
    std::string header = "{\"" + embedding +
                         R"(":{"dtype":"F16","shape":[1048576,64],"data_offsets":[0,134217728]}})";
    header.resize(120, ' ');
    test::write_file(folder / "zeros", std::string("\x78\0\0\0\0\0\0\0", 8) + header);
    fs::resize_file(folder / "zeros", 128 + 134217728);
    test::write_file(folder / "model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
    test::write_file(folder / "config.json", config(1048576));
    return folder.string();
  }
};

TEST_F(CliQuantize, TheResultRunsLikeTheSourceInThatForm) {
  for (const std::string form : {"q8", "q4", "f16"}) {
    const json summary = krait_json("quantize krait-bytes-2m " + result() + " --to " + form);
    EXPECT_EQ(summary["forms"][form], 33);
    EXPECT_EQ(summary["converted"], 33);
    EXPECT_EQ(summary["tensors"], summary["forms"]["f32"].get<int>() + 33);
    EXPECT_LE(summary["bytes_after"], summary["bytes_before"]);
    const auto file_bytes = fs::file_size(result() + "/model.safetensors");
    EXPECT_GT(file_bytes, summary["bytes_after"].get<std::uintmax_t>());
    const std::string tokens = "logits --tokens 73,116,32,119,97,115 --all --out ";
    EXPECT_EQ(krait(tokens + path("a.npy") + " -m krait-bytes-2m --dtype " + form).code, 0);
    EXPECT_EQ(krait(tokens + path("b.npy") + " -m " + result()).code, 0);
    EXPECT_EQ(test::read_file(path("a.npy")), test::read_file(path("b.npy"))) << form;
    const json inspected = krait_json("inspect " + result());
    EXPECT_EQ(inspected["parameters"], 2063040);
    EXPECT_EQ(inspected["tensors"][0]["dtype"], form);
    EXPECT_EQ(inspected["tensors"][0]["placement"], "in_place");
    fs::remove_all(result());
  }
  const Outcome text = krait("quantize krait-bytes-2m " + result() + " --to q8 --threads 2");
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.out.find("33 in q8"), std::string::npos) << text.out;
  EXPECT_EQ(text.err, "");
}

TEST_F(CliQuantize, ReportsWhatIsWrongInOneLine) {
  const std::string source = "quantize krait-bytes-2m ";
  expect_error(source + result() + " --to q3", 2, "q3");
  expect_error(source + result(), 2, "--to");
  expect_error(source + "--to q8", 2, "destination");
  expect_error("quantize no-such-model " + result() + " --to q8", 1, "krait-bytes-2m");
  expect_error("quantize " + path("absent/model") + " " + result() + " --to q8", 1, "absent/model");
  expect_error(source + (home() / "no/folder").string() + " --to q8", 1, "home/no");
  expect_error(source + directory_.path().string() + " --to q8", 1, "not empty");
  expect_error(source + "/dev/full --to q8", 1, "/dev/full");
  EXPECT_TRUE(nothing_left());
  EXPECT_EQ(krait(source + path("q8") + " --to q8").code, 0);
  expect_error("quantize " + path("q8") + " " + result() + " --to q4", 1, "found q8");
  expect_error("quantize " + path("q8") + " " + path("q8") + "/x --to q4", 1, "found q8");
  EXPECT_TRUE(nothing_left());
}

TEST_F(CliQuantize, AFullDiskLeavesNothing) {
  const Outcome outcome =
      shell("ulimit -f 1000; " KRAIT_PROGRAM " quantize krait-bytes-2m " + result() + " --to q8");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_NE(outcome.err.find("File too large"), std::string::npos) << outcome.err;
  EXPECT_TRUE(nothing_left());
}

TEST_F(CliQuantize, SignalsLeaveNothing) {
  const std::string large = write_large();
  for (const std::string signal : {"INT", "TERM"}) {
    SCOPED_TRACE(signal);
    // As soon as the temporary folder is there.
    const Outcome outcome =
        shell(KRAIT_PROGRAM " quantize " + large + " " + result() +
              " --to q4 --threads 1 & pid=$!; while kill -0 $pid && [ -z \"$(ls " +
              home().string() + ")\" ]; do sleep 0.01; done; kill -" + signal + " $pid; wait $pid");
    EXPECT_EQ(outcome.code, 130) << outcome.err;
    EXPECT_NE(outcome.err.find("interrupted"), std::string::npos) << outcome.err;
    EXPECT_TRUE(nothing_left());
  }
}

}  // namespace
}  // namespace krait::quantize_test
