// Opening a file takes memory and reads by its number of tensors, not by its bytes. The files here
// are of several GB, nearly all of them holes, so that nothing of that size is written.

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "krait/loading/registry.hpp"
#include "krait/models/session.hpp"
#include "tests/io/builders.hpp"
#include "tests/support/support.hpp"

namespace krait::large_files_test {
namespace {

namespace fs = std::filesystem;
using test::gguf_number;
using test::gguf_tensor;
using test::gguf_text;
using test::little;

constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20U;

// Sizes of Mamba-2 with matrices of 64 to 128 MiB in f16.
constexpr std::uint64_t n_layer = 20;
constexpr std::uint64_t d_model = 4096;
constexpr std::uint64_t d_inner = 8192;
constexpr std::uint64_t n_head = 128;
constexpr std::uint64_t d_state = 64;
constexpr std::uint64_t vocab = 16384;
constexpr std::uint64_t channels = d_inner + 2 * d_state;

struct Part {
  std::string name;  // in transformers
  std::string gguf;
  std::vector<std::uint64_t> extents;
  bool is_matrix = false;
  std::uint64_t offset = 0;  // of the data

  std::uint64_t bytes() const {
    std::uint64_t size = is_matrix ? 2 : 4;
    for (const std::uint64_t extent : extents) size *= extent;
    return size;
  }
};

std::vector<Part> parts() {
  std::vector<Part> all = {
      {"backbone.embeddings.weight", "token_embd.weight", {vocab, d_model}, true},
      {"backbone.norm_f.weight", "output_norm.weight", {d_model}}};
  for (std::uint64_t i = 0; i < n_layer; ++i) {
    const std::string layer = fmt::format("backbone.layers.{}.", i);
    const std::string block = fmt::format("blk.{}.", i);
    const Part of_layer[] = {
        {"norm.weight", "attn_norm.weight", {d_model}},
        {"mixer.in_proj.weight", "ssm_in.weight", {d_inner + channels + n_head, d_model}, true},
        {"mixer.conv1d.weight", "ssm_conv1d.weight", {channels, 1, 4}},
        {"mixer.conv1d.bias", "ssm_conv1d.bias", {channels}},
        {"mixer.dt_bias", "ssm_dt.bias", {n_head}},
        {"mixer.A_log", "ssm_a", {n_head}},
        {"mixer.D", "ssm_d", {n_head}},
        {"mixer.norm.weight", "ssm_norm.weight", {d_inner}},
        {"mixer.out_proj.weight", "ssm_out.weight", {d_model, d_inner}, true}};
    for (const Part& part : of_layer) {
      all.push_back({layer + part.name, block + part.gguf, part.extents, part.is_matrix});
    }
  }
  std::uint64_t offset = 0;
  for (Part& part : all) {
    part.offset = offset;
    offset += part.bytes();
  }
  return all;
}

std::uint64_t bytes_of(const std::vector<Part>& all) {
  return all.back().offset + all.back().bytes();
}

// What the process had in memory at most since the last call, in bytes; 0 where the system does not
// tell.
std::uint64_t take_peak() {
  std::ifstream status("/proc/self/status");
  std::uint64_t kibibytes = 0;
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) kibibytes = std::stoull(line.substr(6));
  }
  std::ofstream("/proc/self/clear_refs") << "5";
  return kibibytes * 1024;
}

// What of a file the system holds in memory.
std::uint64_t cached_bytes(const std::string& path) {
  const std::uint64_t size = fs::file_size(path);
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
  ::close(descriptor);
  if (data == MAP_FAILED) return 0;
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((size + page - 1) / page);
  std::uint64_t count = 0;
  if (::mincore(data, size, pages.data()) == 0) {
    for (const unsigned char state : pages) count += state & 1U;
  }
  ::munmap(data, size);
  return count * page;
}

class LargeFiles : public testing::Test {
 protected:
  void SetUp() override {
    const std::string probe = path("probe");
    test::write_file(probe, "x");
    std::error_code error;
    fs::resize_file(probe, 16 * mebibyte, error);
    struct stat status {};
    if (error || ::stat(probe.c_str(), &status) != 0 ||
        static_cast<std::uint64_t>(status.st_blocks) * 512 > mebibyte) {
      GTEST_SKIP() << "files have no holes here";
    }
  }

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  // A file of that size that begins with `head`.
  bool make(const std::string& name, const std::string& head, std::uint64_t size) const {
    test::write_file(path(name), head);
    std::error_code error;
    fs::resize_file(path(name), size, error);
    return !error;
  }

  // Binds the model, which must not take long ways through the file `weights`.
  void expect_light(const std::string& model_path, const std::string& weights) {
    const std::uint64_t size = fs::file_size(path(weights));
    ASSERT_GT(size, 3000 * mebibyte);
    take_peak();
    const std::uint64_t before = take_peak();
    const auto model = load_model(path(model_path));
    ASSERT_TRUE(model) << model.error().message;
    const std::uint64_t after = take_peak();
    EXPECT_LT(after - std::min(before, after), 400 * mebibyte);
    EXPECT_LT(cached_bytes(path(weights)), 200 * mebibyte);
    EXPECT_EQ(model->spec().layers.size(), n_layer);
  }

  test::TemporaryDirectory folder_;
};

TEST_F(LargeFiles, SafetensorsOpenWithoutBeingRead) {
  const std::vector<Part> all = parts();
  std::string header;
  for (const Part& part : all) {
    header += fmt::format(R"({}"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                          header.empty() ? "{" : ",", part.name, part.is_matrix ? "F16" : "F32",
                          fmt::join(part.extents, ","), part.offset, part.offset + part.bytes());
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::string head = test::safetensors(header);
  if (!make("model.safetensors", head, head.size() + bytes_of(all))) {
    GTEST_SKIP() << "no files of this size here";
  }
  test::write_file(
      path("config.json"),
      fmt::format(R"({{"model_type":"mamba2","hidden_size":{},"expand":2,"num_heads":{},)"
                  R"("head_dim":64,"state_size":{},"n_groups":1,"num_hidden_layers":{},)"
                  R"("vocab_size":{},"conv_kernel":4,"tie_word_embeddings":true}})",
                  d_model, n_head, d_state, n_layer, vocab));
  expect_light("", "model.safetensors");
}

TEST_F(LargeFiles, GgufOpensWithoutBeingRead) {
  const std::vector<Part> all = parts();
  std::vector<std::string> tensors;
  for (const Part& part : all) {
    std::vector<std::uint64_t> extents;  // innermost first
    for (auto extent = part.extents.rbegin(); extent != part.extents.rend(); ++extent) {
      if (*extent > 1) extents.push_back(*extent);
    }
    tensors.push_back(gguf_tensor(part.gguf, extents, part.is_matrix ? 1 : 0, part.offset));
  }
  const std::string head = test::gguf(
      {gguf_text("general.architecture", "mamba2"), gguf_number("mamba2.embedding_length", d_model),
       gguf_number("mamba2.block_count", n_layer), gguf_number("mamba2.ssm.state_size", d_state),
       gguf_number("mamba2.ssm.conv_kernel", 4), gguf_number("mamba2.ssm.inner_size", d_inner),
       gguf_number("mamba2.ssm.time_step_rank", n_head), gguf_number("mamba2.ssm.group_count", 1)},
      tensors);
  if (!make("model.gguf", head, head.size() + bytes_of(all))) {
    GTEST_SKIP() << "no files of this size here";
  }
  std::string ones;  // A, which is below 0
  for (std::uint64_t i = 0; i < n_head; ++i) ones += little(0xBF800000U, 4);
  std::fstream file(path("model.gguf"), std::ios::in | std::ios::out | std::ios::binary);
  for (const Part& part : all) {
    if (!part.gguf.ends_with("ssm_a")) continue;
    file.seekp(static_cast<std::streamoff>(head.size() + part.offset));
    file.write(ones.data(), static_cast<std::streamsize>(ones.size()));
  }
  file.close();
  ASSERT_FALSE(file.fail());
  expect_light("model.gguf", "model.gguf");
}

}  // namespace
}  // namespace krait::large_files_test
