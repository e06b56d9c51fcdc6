#include "command.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct ConvertFlags {
  SourceAndDestination places;
  std::string dtype;
  std::string format;
  std::optional<Index> shard_bytes;
  bool json = false;
};

// "5GB", "300MB", "1GiB", "4096".
std::optional<Index> size_of(const std::string& text) {
  std::size_t digits = 0;
  Index value = 0;
  for (; digits < text.size() && text[digits] >= '0' && text[digits] <= '9'; ++digits) {
    if (value > (Index{1} << 50)) return std::nullopt;
    value = 10 * value + (text[digits] - '0');
  }
  if (digits == 0 || value == 0) return std::nullopt;
  const std::string unit = text.substr(digits);
  const std::pair<const char*, Index> units[] = {
      {"", 1},           {"KB", 1000},      {"MB", 1000000},         {"GB", 1000000000},
      {"KiB", 1 << 10U}, {"MiB", 1 << 20U}, {"GiB", Index{1} << 30U}};
  for (const auto& [name, factor] : units) {
    if (unit == name && value <= (Index{1} << 50) / factor) return value * factor;
  }
  return std::nullopt;
}

Result<void> run(const ConvertFlags& options) {
  options.places.check();
  ConvertOptions convert;
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    if (options.dtype == to_string(dtype)) convert.dtype = dtype;
  }
  convert.to_gguf = options.format == "gguf";
  if (options.shard_bytes) {
    if (convert.to_gguf)
      throw WrongUsage("--shard-size", "no --to gguf, which is one file", "both");
    convert.shard_bytes = *options.shard_bytes;
  }
  ProgressLine progress("convert", "bytes");
  KRAIT_ASSIGN_OR_RETURN(
      const ConvertSummary summary,
      convert_checkpoint(*options.places.source, *options.places.destination, convert, progress));
  for (const std::string& tensor : summary.left_out) {
    tell("left out: " + tensor + ", which the model does not use");
  }
  if (options.json) {
    return print_json(to_json(summary, *options.places.source, *options.places.destination));
  }
  return print_all(shown(*options.places.destination) + ": " + std::to_string(summary.tensors) +
                   " tensors, " + std::to_string(summary.bytes) + " bytes in " +
                   std::to_string(summary.files.size()) +
                   (summary.files.size() == 1 ? " file\n" : " files\n"));
}

void declare(Command& command, ConvertFlags& options) {
  options.places.add(command);
  command.choice("--to", options.format, {"safetensors", "gguf"},
                 "A folder of transformers (the default) or a GGUF file");
  command.choice("--dtype", options.dtype, {"f32", "f16", "bf16"},
                 "Type of the weight matrices; as stored if not given");
  const auto take_size = [&options](const std::string& text) {
    options.shard_bytes = size_of(text);
    if (!options.shard_bytes) throw WrongUsage("--shard-size", "bytes such as 5GB", text);
  };
  command.custom("--shard-size", "SIZE", "Begin another safetensors file above this size",
                 take_size, "5GB");
  command.flag("--json", options.json, "One JSON object: tensors, bytes, files, tensors left out");
}

}  // namespace

void add_convert(CommandLine& line) {
  line.add<ConvertFlags>("convert", "Writes a checkpoint as transformers or llama.cpp read it",
                         "krait convert model.gguf model-hf --dtype bf16", declare, run);
}

}  // namespace krait::cli
