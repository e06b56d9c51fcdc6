#include "text/gguf/pre_tokenizers.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "text/huggingface/fields.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// The patterns cut one after another, each the pieces that the one before left.
struct Kind {
  std::string_view names;  // between spaces
  std::array<const char*, 4> patterns;
  PreTokenizerFlags flags = {};
};

constexpr const char* gpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* llama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* qwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* qwen35 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* tekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* gpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* deepseek3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// The most used first. Names of one row behave alike.
constexpr std::array<Kind, 16> kinds = {{
    {" default ", {R"([\p{P}\$\+<=>\^~\|]+)", gpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
    {" gpt-2 mpt olmo phi-2 jais trillion granite-docling exaone4 modern-bert roberta-bpe "
     "jina-v1-en jina-v2-code jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum ",
     {gpt2}},
    {" llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral lfm2 midm-2.0 ", {llama3}, {true, true}},
    {" glm5 ", {llama3}, {true}},
    {" dbrx smaug-bpe chatglm-bpe glm4 ", {llama3}},
    {" falcon ", {R"([\p{P}\$\+<=>\^~\|`]+)", gpt2, "[0-9][0-9][0-9]"}},
    {" smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 ", {R"(\p{N})", gpt2}},
    {" qwen2 deepseek-r1-qwen stablelm2 megrez hunyuan solar-open grok-2 kormo f2llmv2 ", {qwen2}},
    {" qwen35 ", {qwen35}},
    {" tekken ", {tekken}, {true, true}},
    {" gpt-4o llama4 kanana2 talkie minimax-m2 ", {gpt4o}},
    {" granite-embed-multi-97m ", {gpt4o}, {true}},
    {" deepseek-v3 hunyuan-dense joyai-llm hy_v4 ",
     {R"(\p{N}{1,3})",
      "[\xE4\xB8\x80-\xE9\xBE\xA5\xE3\x81\x80-\xE3\x82\x9F\xE3\x82\xA0-\xE3\x83\xBF]+", deepseek3}},
    {" poro-chat bloom gpt3-finnish ",
     {" ?[^(\\s|.,!?\xE2\x80\xA6\xE3\x80\x82\xEF\xBC\x8C\xE3\x80\x81\xE0\xA5\xA4\xDB\x94\xD8\x8C)]"
      "+"}},
    {" viking ",
     {" ?[^(\\s|.,!?\xE2\x80\xA6\xE3\x80\x82\xEF\xBC\x8C\xE3\x80\x81\xE0\xA5\xA4\xDB\x94\xD8\x8C)]"
      "+",
      R"(\p{N})"}},
    {" superbpe ", {R"(\p{N}+)", R"((?=(\d{3})+(?!\d)))"}},
}};

std::string known_names() {
  std::string names;
  for (const Kind& kind : kinds) {
    std::string_view rest = kind.names.substr(1);
    while (!rest.empty()) {
      const std::size_t end = rest.find(' ');
      names.append(names.empty() ? "" : ", ").append(rest.substr(0, end));
      rest.remove_prefix(end + 1);
    }
  }
  return names;
}

const Kind* find_kind(std::string_view name) {
  const std::string word = " " + std::string(name.empty() ? "default" : name) + " ";
  const auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const Kind& one) {
    return one.names.find(word) != one.names.npos;
  });
  return kind == kinds.end() || name.find(' ') != name.npos ? nullptr : &*kind;
}

}  // namespace

PreTokenizerFlags pre_tokenizer_flags(std::string_view name) {
  const Kind* kind = find_kind(name);
  return kind == nullptr ? PreTokenizerFlags() : kind->flags;
}

Result<NamedPreTokenizer> named_pre_tokenizer(std::string_view name) {
  const Kind* kind = find_kind(name);
  if (kind == nullptr) {
    return fields::mismatch(ErrorCode::unsupported, "tokenizer.ggml.pre", known_names(),
                            fields::describe(std::string(name)));
  }
  Metadata::Array steps;
  for (const char* const pattern : kind->patterns) {
    if (pattern == nullptr) continue;
    steps.push_back(Metadata::Object{{"type", std::string("Split")},
                                     {"pattern", Metadata::Object{{"Regex", std::string(pattern)}}},
                                     {"behavior", std::string("Isolated")},
                                     {"invert", false}});
  }
  steps.push_back(Metadata::Object{
      {"type", std::string("ByteLevel")}, {"add_prefix_space", false}, {"use_regex", false}});
  NamedPreTokenizer result;
  KRAIT_ASSIGN_OR_RETURN(result.pre_tokenizer,
                         PreTokenizer::read(Metadata::Object{{"type", std::string("Sequence")},
                                                             {"pretokenizers", std::move(steps)}}));
  result.flags = kind->flags;
  return result;
}

}  // namespace v0_1
}  // namespace krait
