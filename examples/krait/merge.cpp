#include "command.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct MergeFlags {
  std::string model;
  std::string adapter;
  std::string destination;
  std::string dtype = "file";
  int threads = 0;
  bool json = false;
};

Result<void> run(const MergeFlags& options) {
  if (options.model.empty()) throw WrongUsage("--model", "a checkpoint", "none");
  if (options.adapter.empty()) throw WrongUsage("--lora", "an adapter", "none");
  if (options.destination.empty()) throw WrongUsage("--out", "the name of a new folder", "none");
  std::optional<DType> dtype;
  for (const DType one : {DType::f32, DType::bf16, DType::f16}) {
    if (options.dtype == to_string(one)) dtype = one;
  }
  const std::unique_ptr<ThreadPool> threads = make_threads(options.threads);
  ProgressLine progress("merge", "bytes");
  KRAIT_ASSIGN_OR_RETURN(const MergeSummary summary,
                         merge_adapter(options.model, options.adapter, options.destination, dtype,
                                       *threads, progress));
  if (options.json) return print_json(to_json(summary, options.destination));
  return print_all(shown(options.destination) + ": " + std::to_string(summary.merged) +
                   " matrices merged, " + std::to_string(summary.tensors) + " tensors, " +
                   std::to_string(summary.bytes) + " bytes\n");
}

void declare(Command& command, MergeFlags& options) {
  command.file("-m,--model", options.model,
               "Checkpoint directory, weight file, or the name of a bundled model");
  command.file("--lora", options.adapter, "Adapter of low rank: a folder of PEFT's or MLX's files");
  command.file("--out", options.destination, "Folder to make");
  command.choice("--dtype", options.dtype, {"file", "f32", "bf16", "f16"},
                 "Of the matrices that the adapter changes; 'file' keeps what is stored, which "
                 "must be floats");
  add_threads(command, options.threads);
  command.flag("--json", options.json, "One JSON object: out, merged, tensors, bytes");
}

}  // namespace

void add_merge(CommandLine& line) {
  line.add<MergeFlags>(
      "merge", "Writes a checkpoint with an adapter of low rank added to its matrices",
      "krait merge -m krait-bytes-2m --lora my-adapter --out my-model", declare, run);
}

}  // namespace krait::cli
