#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace krait {
inline namespace v0_1 {

/// Types of tokens, by their numbers in the file.
enum class GgufTokenType : std::int64_t {
  normal = 1,
  unknown,
  control,
  user_defined,
  unused,
  byte
};

/// How text is cut before pairs are merged, named by `tokenizer.ggml.pre`; the text floor knows
/// what else goes with a name (pre_tokenizer_flags).
struct PreKind {
  std::string_view name;
  std::string_view steps;  ///< of tokenizer.json, one after another
};

namespace pre_steps {

// GPT-2's own pattern, which "ByteLevel" has built in.
inline constexpr std::string_view gpt2 =
    R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true})";

// Bytes alone, behind a pattern.
#define KRAIT_BYTES \
  R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false})"
#define KRAIT_SPLIT(pattern) \
  R"({"type":"Split","pattern":{"Regex":")" pattern R"("},"behavior":"Isolated","invert":false})"

inline constexpr std::string_view digits_gpt2 =
    R"({"type":"Digits","individual_digits":true},)"
    R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true})";

inline constexpr std::string_view falcon =
    R"({"type":"Punctuation","behavior":"Contiguous"},)"
    R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},)"
    R"({"type":"Digits","individual_digits":false},)" KRAIT_SPLIT("[0-9][0-9][0-9]");

inline constexpr std::string_view llama3 =
    KRAIT_SPLIT(R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|)"
                R"( ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+)") "," KRAIT_BYTES;

inline constexpr std::string_view qwen2 =
    KRAIT_SPLIT(R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|)"
                R"( ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+)") "," KRAIT_BYTES;

inline constexpr std::string_view tekken = KRAIT_SPLIT(
    R"([^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|)"
    R"([^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|)"
    R"(\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+)") "," KRAIT_BYTES;

inline constexpr std::string_view gpt4o = KRAIT_SPLIT(
    R"([^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+)") "," KRAIT_BYTES;

#undef KRAIT_BYTES
#undef KRAIT_SPLIT

}  // namespace pre_steps

inline constexpr std::array pre_kinds = {
    PreKind{"gpt-2", pre_steps::gpt2},
    PreKind{"mpt", pre_steps::gpt2},  // GPT-NeoX
    PreKind{"olmo", pre_steps::gpt2},
    PreKind{"phi-2", pre_steps::gpt2},
    PreKind{"jais", pre_steps::gpt2},
    PreKind{"trillion", pre_steps::gpt2},
    PreKind{"granite-docling", pre_steps::gpt2},
    PreKind{"exaone4", pre_steps::gpt2},
    PreKind{"smollm", pre_steps::digits_gpt2},
    PreKind{"starcoder", pre_steps::digits_gpt2},
    PreKind{"refact", pre_steps::digits_gpt2},  // Granite
    PreKind{"command-r", pre_steps::digits_gpt2},
    PreKind{"codeshell", pre_steps::digits_gpt2},
    PreKind{"exaone", pre_steps::digits_gpt2},
    PreKind{"minerva-7b", pre_steps::digits_gpt2},
    PreKind{"falcon", pre_steps::falcon},
    PreKind{"llama-bpe", pre_steps::llama3},
    PreKind{"llama3", pre_steps::llama3},
    PreKind{"llama-v3", pre_steps::llama3},
    PreKind{"falcon3", pre_steps::llama3},
    PreKind{"falcon-h1", pre_steps::llama3},
    PreKind{"pixtral", pre_steps::llama3},
    PreKind{"lfm2", pre_steps::llama3},
    PreKind{"dbrx", pre_steps::llama3},  // Granite 4
    PreKind{"smaug-bpe", pre_steps::llama3},
    PreKind{"chatglm-bpe", pre_steps::llama3},
    PreKind{"glm4", pre_steps::llama3},
    PreKind{"qwen2", pre_steps::qwen2},
    PreKind{"deepseek-r1-qwen", pre_steps::qwen2},
    PreKind{"stablelm2", pre_steps::qwen2},
    PreKind{"megrez", pre_steps::qwen2},
    PreKind{"tekken", pre_steps::tekken},  // Nemotron-H
    PreKind{"gpt-4o", pre_steps::gpt4o},
    PreKind{"llama4", pre_steps::gpt4o},
};

}  // namespace v0_1
}  // namespace krait
