#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <unordered_map>
#include <unordered_set>

#include "core/utf8.hpp"
#include "io/json.hpp"
#include "text/huggingface/fields.hpp"
#include "text/sentencepiece/protobuf.hpp"
#include "text/sentencepiece/scored_vocabulary.hpp"
#include "text/sentencepiece/sentencepiece_table.hpp"

// Reads the ModelProto of SentencePiece. Nothing in it is trusted.
namespace krait {
inline namespace v0_1 {
namespace {

using fields::mismatch;
using Field = ProtobufReader::Field;

// Parses with what the tokenizers of such models do at the end: marks are spaces, bytes are bytes,
// and the dummy prefix goes.
constexpr std::string_view decoder_json = R"({"type": "Sequence", "decoders": [
  {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
  {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})";
constexpr std::string_view decoder_without_prefix_json = R"({"type": "Sequence", "decoders": [
  {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
  {"type": "ByteFallback"}, {"type": "Fuse"}]})";

Error wrong(std::string_view where, std::string_view expected, std::string_view found) {
  return mismatch(ErrorCode::bad_format, fmt::format("SentencePiece file: {}", where), expected,
                  found);
}

Result<void> check_kind(const Field& field, Field::Kind kind, std::string_view where) {
  if (field.kind == kind) return {};
  return wrong(where, "another wire type", fmt::format("{}", static_cast<int>(field.kind)));
}

// The fields that decide what a tokenizer does.
struct ModelFile {
  ScoredVocabulary vocabulary;
  std::uint64_t model_type = 1;
  std::int64_t bos = 1, eos = 2;
  std::string_view bos_piece = "<s>", eos_piece = "</s>";
  std::deque<std::string> padding;  // texts of pieces before those that were added
};

class Reader {
 public:
  explicit Reader(std::string_view file) : reader_(file) {}

  Result<ModelFile> run() {
    while (true) {
      KRAIT_ASSIGN_OR_RETURN(const auto field, reader_.next());
      if (!field) break;
      if (field->number < 1 || field->number > 3) continue;  // tests, denormalizer, extensions
      KRAIT_RETURN_IF_ERROR(check_kind(*field, Field::Kind::bytes, "field"));
      ProtobufReader part(field->bytes, reader_.offset_of(field->bytes));
      if (field->number == 1) {
        KRAIT_RETURN_IF_ERROR(read_piece(part));
      } else if (field->number == 2) {
        KRAIT_RETURN_IF_ERROR(read_trainer(part));
      } else {
        KRAIT_RETURN_IF_ERROR(read_normalizer(part));
      }
    }
    if (file_.vocabulary.pieces.empty()) return wrong("pieces", "some", "none");
    return file_;
  }

 private:
  // Calls `read` for each field of a message.
  template <class Read>
  static Result<void> each(ProtobufReader& message, const Read& read) {
    while (true) {
      KRAIT_ASSIGN_OR_RETURN(const auto field, message.next());
      if (!field) return {};
      KRAIT_RETURN_IF_ERROR(read(*field));
    }
  }

  Result<void> read_piece(ProtobufReader& message) {
    auto& pieces = file_.vocabulary.pieces;
    const std::string where = fmt::format("pieces[{}]", pieces.size());
    if (static_cast<Index>(pieces.size()) >= max_vocab) {
      return wrong("pieces", fmt::format("at most {}", max_vocab), "more");
    }
    ScoredVocabulary::Piece piece;
    KRAIT_RETURN_IF_ERROR(each(message, [&](const Field& field) -> Result<void> {
      switch (field.number) {
        case 1:
          piece.text = field.bytes;
          return check_kind(field, Field::Kind::bytes, where);
        case 2:
          piece.score = field.real();
          return check_kind(field, Field::Kind::fixed32, where);
        case 3:
          if (field.value < 1 || field.value > 6) {
            return wrong(where + ".type", "1 to 6", fmt::format("{}", field.value));
          }
          piece.type = static_cast<TokenType>(field.value);
          return check_kind(field, Field::Kind::varint, where);
        default:
          return {};
      }
    }));
    pieces.push_back(piece);
    return {};
  }

  Result<void> read_trainer(ProtobufReader& message) {
    return each(message, [&](const Field& field) -> Result<void> {
      const auto id = static_cast<std::int64_t>(field.value);
      auto kind = Field::Kind::varint;
      switch (field.number) {
        case 3:
          file_.model_type = field.value;
          break;
        case 24:
          file_.vocabulary.spaces.is_suffix = field.boolean();
          break;
        case 35:
          file_.vocabulary.falls_back_to_bytes = field.boolean();
          break;
        case 41:
          file_.bos = id;
          break;
        case 42:
          file_.eos = id;
          break;
        case 46:
          kind = Field::Kind::bytes;
          file_.bos_piece = field.bytes;
          break;
        case 47:
          kind = Field::Kind::bytes;
          file_.eos_piece = field.bytes;
          break;
        default:
          return {};
      }
      return check_kind(field, kind, fmt::format("trainer_spec, field {}", field.number));
    });
  }

  Result<void> read_normalizer(ProtobufReader& message) {
    return each(message, [&](const Field& field) -> Result<void> {
      auto& spaces = file_.vocabulary.spaces;
      auto kind = Field::Kind::varint;
      switch (field.number) {
        case 2:
          kind = Field::Kind::bytes;
          file_.vocabulary.charsmap = field.bytes;
          break;
        case 3:
          spaces.adds_dummy_prefix = field.boolean();
          break;
        case 4:
          spaces.removes_extra_spaces = field.boolean();
          break;
        case 5:
          spaces.escapes_spaces = field.boolean();
          break;
        default:
          return {};
      }
      return check_kind(field, kind, fmt::format("normalizer_spec, field {}", field.number));
    });
  }

  ProtobufReader reader_;
  ModelFile file_;
};

Result<void> check(const ScoredVocabulary& vocabulary) {
  std::unordered_set<std::string_view> texts;
  for (std::size_t i = 0; i < vocabulary.pieces.size(); ++i) {
    const auto& piece = vocabulary.pieces[i];
    const std::string where = fmt::format("{}[{}]", vocabulary.name, i);
    if (piece.text.empty() || utf8::first_ill_formed(piece.text) != piece.text.size()) {
      return mismatch(ErrorCode::bad_format, where, "a text in UTF-8",
                      piece.text.empty() ? "none" : "other bytes");
    }
    if (!std::isfinite(piece.score)) {
      return mismatch(ErrorCode::bad_format, where, "a finite score",
                      fmt::format("{}", piece.score));
    }
    if (!texts.insert(piece.text).second) {
      return mismatch(ErrorCode::bad_format, where, "every text once",
                      json_text(std::string(piece.text)) + " again");
    }
  }
  return {};
}

// The id of a mark that is put around texts: that of the piece, or the number the file gives.
std::optional<Token> mark_id(const ModelFile& file, std::string_view piece, std::int64_t id) {
  const auto& pieces = file.vocabulary.pieces;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (pieces[i].text == piece && pieces[i].type == TokenType::control) {
      return static_cast<Token>(i);
    }
  }
  if (id < 0 || static_cast<std::uint64_t>(id) >= pieces.size()) return std::nullopt;
  return static_cast<Token>(id);
}

// As llama.cpp's converter does it, but for a text that the file has under another id.
Result<void> add_pieces(const std::vector<AddedPiece>& added, ModelFile& file) {
  auto& pieces = file.vocabulary.pieces;
  std::unordered_map<std::string_view, std::size_t> ids;
  if (!added.empty()) {
    for (std::size_t i = 0; i < pieces.size(); ++i) ids.emplace(pieces[i].text, i);
  }
  constexpr std::size_t most_behind = std::size_t{1} << 16U;
  const std::size_t end = std::min(pieces.size() + most_behind, std::size_t{max_vocab});
  for (const AddedPiece& token : added) {
    const auto id = static_cast<std::size_t>(token.id);
    if (token.id < 0 || id >= end) {
      return mismatch(ErrorCode::bad_format, "added tokens", fmt::format("ids below {}", end),
                      fmt::format("{}", token.id));
    }
    if (ids.emplace(token.text, id).first->second != id) continue;
    constexpr float score = -1000.0F;
    while (pieces.size() <= id) {
      file.padding.push_back(fmt::format("[PAD{}]", pieces.size()));
      pieces.push_back({file.padding.back(), score, TokenType::unused});
    }
    auto& piece = pieces[id];
    const bool has_meaning = piece.type == TokenType::unknown || piece.type == TokenType::byte;
    if (has_meaning && piece.text == token.text) continue;
    piece = {token.text, score, token.is_special ? TokenType::control : TokenType::user_defined};
  }
  return {};
}

Result<ModelFile> read_model_file(std::string_view model, const SentencePieceOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(ModelFile file, Reader(model).run());
  KRAIT_RETURN_IF_ERROR(add_pieces(options.added, file));
  if (file.model_type != 1 && file.model_type != 2) {
    return mismatch(ErrorCode::unsupported, "SentencePiece file: model_type",
                    "1 (Unigram) or 2 (BPE)", fmt::format("{}", file.model_type));
  }
  file.vocabulary.is_unigram = file.model_type == 1;
  return file;
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> make_scored_tokenizer(ScoredVocabulary vocabulary) {
  KRAIT_RETURN_IF_ERROR(check(vocabulary));
  PipelineSource source;
  source.vocab_name = vocabulary.name;
  source.kind =
      vocabulary.is_unigram ? PipelineSource::Kind::unigram : PipelineSource::Kind::scored_pairs;
  source.falls_back_to_bytes = vocabulary.falls_back_to_bytes;
  source.unknown_id = vocabulary.unknown;
  std::vector<std::pair<std::string_view, Token>> kept;
  for (std::size_t i = 0; i < vocabulary.pieces.size(); ++i) {
    const auto& piece = vocabulary.pieces[i];
    const auto id = static_cast<Token>(i);
    source.items.push_back({piece.text, id});
    source.scores.push_back(static_cast<double>(piece.score));
    source.types.push_back(piece.type);
    if (piece.type == TokenType::unknown && !source.unknown_id) source.unknown_id = id;
    const bool is_special = piece.type == TokenType::control || piece.type == TokenType::unknown;
    const bool is_user_defined = piece.type == TokenType::user_defined;
    if (is_user_defined) kept.emplace_back(piece.text, id);
    if (is_special || (is_user_defined && vocabulary.cuts_user_defined)) {
      AddedToken token;
      token.content = piece.text;
      token.id = id;
      token.is_special = is_special;
      source.added.push_back(std::move(token));
    }
  }
  if (!source.unknown_id) {
    return mismatch(ErrorCode::bad_format, vocabulary.name, "a token for what is unknown", "none");
  }
  KRAIT_ASSIGN_OR_RETURN(vocabulary.spaces.charsmap,
                         Charsmap::read(vocabulary.charsmap, "precompiled_charsmap"));
  vocabulary.spaces.kept = TokenTrie(std::move(kept));
  const bool has_prefix = vocabulary.spaces.adds_dummy_prefix && !vocabulary.spaces.is_suffix;
  source.normalizer = Normalizer::of(std::move(vocabulary.spaces));
  KRAIT_ASSIGN_OR_RETURN(
      const Metadata decoder,
      parse_json(has_prefix ? decoder_json : decoder_without_prefix_json, "decoder"));
  KRAIT_ASSIGN_OR_RETURN(source.decoder, TokenDecoder::read(decoder, false));
  KRAIT_ASSIGN_OR_RETURN(auto parts, build_pipeline(std::move(source)));
  parts->ends = std::move(vocabulary.ends);
  return std::shared_ptr<const Tokenizer>(std::make_shared<const Pipeline>(std::move(parts)));
}

Result<std::shared_ptr<const Tokenizer>> read_sentencepiece(std::string_view model,
                                                            const SentencePieceOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(ModelFile file, read_model_file(model, options));
  auto& ends = file.vocabulary.ends;
  if (const auto bos = mark_id(file, file.bos_piece, file.bos); bos && options.add_bos) {
    ends.before.push_back(*bos);
  }
  if (const auto eos = mark_id(file, file.eos_piece, file.eos); eos && options.add_eos) {
    ends.after.push_back(*eos);
  }
  return make_scored_tokenizer(std::move(file.vocabulary));
}

Result<TokenTable> sentencepiece_table(std::string_view model,
                                       const SentencePieceOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(const ModelFile file, read_model_file(model, options));
  const ScoredVocabulary& vocabulary = file.vocabulary;
  KRAIT_RETURN_IF_ERROR(check(vocabulary));
  const Normalizer::SentencePiece& spaces = vocabulary.spaces;
  const struct {
    const char* what;
    bool found, expected;
  } limits[] = {
      {"treat_whitespace_as_suffix", spaces.is_suffix, false},
      {"escape_whitespaces", spaces.escapes_spaces, true},
      {"byte_fallback", vocabulary.falls_back_to_bytes, !vocabulary.is_unigram},
      {"remove_extra_whitespaces", spaces.removes_extra_spaces,
       vocabulary.is_unigram && spaces.removes_extra_spaces},
      {"a character map", !vocabulary.charsmap.empty(),
       vocabulary.is_unigram && !vocabulary.charsmap.empty()},
  };
  for (const auto& [what, found, expected] : limits) {
    if (found == expected) continue;
    return mismatch(ErrorCode::unsupported, fmt::format("SentencePiece file: {}", what),
                    fmt::format("{}, as llama.cpp has it of {}", expected,
                                vocabulary.is_unigram ? "Unigram" : "BPE"),
                    fmt::format("{}", found));
  }
  TokenTable table;
  table.model = vocabulary.is_unigram ? "t5" : "llama";
  table.pre = "default";
  for (std::size_t i = 0; i < vocabulary.pieces.size(); ++i) {
    const ScoredVocabulary::Piece& piece = vocabulary.pieces[i];
    table.tokens.emplace_back(piece.text);
    table.scores.push_back(piece.score);
    table.types.push_back(static_cast<std::int32_t>(piece.type));
    if (piece.type == TokenType::unknown && !table.unknown) table.unknown = static_cast<Token>(i);
  }
  table.precompiled_charsmap = vocabulary.charsmap;
  table.bos = mark_id(file, file.bos_piece, file.bos);
  table.eos = mark_id(file, file.eos_piece, file.eos);
  table.add_bos = options.add_bos && table.bos.has_value();
  table.add_eos = options.add_eos && table.eos.has_value();
  table.add_space_prefix = spaces.adds_dummy_prefix;
  if (vocabulary.is_unigram) table.remove_extra_whitespaces = spaces.removes_extra_spaces;
  return table;
}

}  // namespace v0_1
}  // namespace krait
