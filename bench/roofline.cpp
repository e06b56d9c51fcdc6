// Prints what this machine can do at most.

#include <cstdio>
#include <cstring>
#include <string>

#include "krait/core/thread_pool.hpp"
#include "krait/tools/machine.hpp"

namespace {

void print_table(const krait::Roofline& roofline) {
  const std::string isa(to_string(roofline.isa));
  std::printf("instruction set %s, buffer %lld MiB, best of 10\n", isa.c_str(),
              static_cast<long long>(roofline.buffer_bytes >> 20));
  std::printf("%8s %18s %18s %14s %14s %14s\n", "threads", "file read GB/s", "huge pages GB/s",
              "fma GFLOP/s", "bf16 GFLOP/s", "int8 Gop/s");
  for (const auto& p : roofline.points) {
    std::printf("%8d %18.2f %18.2f %14.1f %14.1f %14.1f\n", p.threads, p.file_read, p.huge_read,
                p.fma, p.bf16, p.int8);
  }
}

void print_json(const krait::Roofline& roofline) {
  const std::string isa(to_string(roofline.isa));
  std::printf("{\"isa\": \"%s\", \"buffer_bytes\": %lld, \"points\": [", isa.c_str(),
              static_cast<long long>(roofline.buffer_bytes));
  const char* separator = "";
  for (const auto& p : roofline.points) {
    std::printf(
        "%s\n  {\"threads\": %d, \"file_read_gbs\": %.3f, \"huge_read_gbs\": %.3f, "
        "\"fma_gflops\": %.2f, \"bf16_gflops\": %.2f, \"int8_gops\": %.2f}",
        separator, p.threads, p.file_read, p.huge_read, p.fma, p.bf16, p.int8);
    separator = ",";
  }
  std::printf("]}\n");
}

}  // namespace

int main(int argc, char** argv) {
  const bool json = argc == 2 && std::strcmp(argv[1], "--json") == 0;
  if (argc > 1 && !json) {
    std::fprintf(stderr, "usage: krait_roofline [--json]\n");
    return 2;
  }
  const auto roofline = krait::measure_roofline(krait::available_threads());
  if (!roofline) {
    std::fprintf(stderr, "%s\n", roofline.error().message.c_str());
    return 1;
  }
  if (json) {
    print_json(*roofline);
  } else {
    print_table(*roofline);
  }
  return 0;
}
