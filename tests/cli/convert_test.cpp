// krait convert, run as a user runs it.

#include <filesystem>

#include "tests/cli/cli.hpp"

namespace krait::convert_test {
namespace {

namespace fs = std::filesystem;

class CliConvert : public Cli {
 protected:
  std::string path(const std::string& name) const { return (directory_.path() / name).string(); }
};

TEST_F(CliConvert, WritesFoldersAndGgufFilesThatRunAlike) {
  const json folder = krait_json("convert krait-bytes-2m " + path("hf"));
  EXPECT_EQ(folder["files"], json::array({"model.safetensors"}));
  EXPECT_GT(folder["tensors"], 80);
  const json file = krait_json("convert krait-bytes-2m " + path("m.gguf") + " --to gguf");
  EXPECT_EQ(file["tensors"], folder["tensors"]);
  const std::string tokens = " --tokens 72,101,108";
  const json source = krait_json("logits -m krait-bytes-2m" + tokens);
  EXPECT_EQ(krait_json("logits -m " + path("hf") + tokens)["top"], source["top"]);
  EXPECT_EQ(krait_json("logits -m " + path("m.gguf") + tokens)["top"][0]["id"],
            source["top"][0]["id"]);
  const Outcome text = krait("generate -m " + path("m.gguf") + " 'It was ' -n 4 --greedy");
  EXPECT_EQ(text.code, 0);
  EXPECT_EQ(text.out, krait("generate -m krait-bytes-2m 'It was ' -n 4 --greedy").out);
  EXPECT_NE(krait("inspect " + path("m.gguf")).out.find("Mamba"), std::string::npos);
}

TEST_F(CliConvert, LeavesNothingWhereItFails) {
  test::write_file(directory_.path() / "bad.gguf", "GGUF\3");
  expect_error("inspect " + path("bad.gguf"), 1, "version: expected 4 more bytes");
  expect_error("convert " + path("bad.gguf") + " " + path("x"), 1, "[gguf] version");
  expect_error("convert krait-bytes-moe " + path("x"), 1, "[convert] moe_cfg: expected none");
  expect_error("convert krait-bytes-moe " + path("x") + " --to gguf", 1, "moe_cfg");
  EXPECT_FALSE(fs::exists(path("x")));
}

}  // namespace
}  // namespace krait::convert_test
