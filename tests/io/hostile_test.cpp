// Files that promise what they do not hold. Every row must give an error of that code, on one line
// that contains `part` and names the file; the sweeps must merely return.

#include <gtest/gtest.h>

#include <functional>

#include "krait/io/pytorch_bin.hpp"
#include "krait/io/safetensors.hpp"
#include "tests/io/builders.hpp"
#include "tests/support/support.hpp"

namespace krait::hostile_test {
namespace {

using test::little;
using test::PickleBuilder;
using test::safetensors;
using namespace std::string_literals;

enum class Reader { safetensors, bin };

struct Hostile {
  std::string name;
  std::string bytes;
  ErrorCode code;
  std::string part;
};

Result<void> read(Reader reader, std::string_view bytes, WeightStore& store) {
  auto file = test::file_of(bytes, "folder/hostile");
  return reader == Reader::safetensors ? read_safetensors(std::move(file), store)
                                       : read_pytorch_bin(std::move(file), store);
}

void expect_all_refused(Reader reader, const std::vector<Hostile>& rows) {
  for (const Hostile& row : rows) {
    SCOPED_TRACE(row.name);
    WeightStore store;
    const auto result = read(reader, row.bytes, store);
    ASSERT_FALSE(result);
    const std::string& message = result.error().message;
    EXPECT_EQ(result.error().code, row.code) << message;
    EXPECT_NE(message.find(row.part), std::string::npos) << message;
    EXPECT_NE(message.find("folder/hostile"), std::string::npos) << message;
    for (const char c : message) EXPECT_TRUE(c >= ' ' && c <= '~') << message;
    EXPECT_LT(message.size(), 400U);
    EXPECT_EQ(store.size(), 0U);
  }
}

// A header with one tensor "a" of that description, and 16 bytes of data.
std::string one(const std::string& description) {
  return safetensors("{\"a\":{" + description + "}}", std::string(16, 'x'));
}

TEST(Hostile, SafetensorsHeaders) {
  constexpr auto bad = ErrorCode::bad_format;
  expect_all_refused(
      Reader::safetensors,
      {{"empty file", "", bad, "at least 8 bytes"},
       {"seven bytes", "1234567", bad, "at least 8 bytes"},
       {"length only", little(2, 8), bad, "header"},
       {"length beyond the file", little(100, 8) + "{}", bad, "header"},
       {"largest length", std::string(8, '\xff') + "{}", bad, "header"},
       {"length whose sum overflows", little(~std::uint64_t{0} - 7, 8) + "{}", bad, "header"},
       {"negative length", little(std::uint64_t{1} << 63, 8) + "{}", bad, "header"},
       {"empty header", safetensors(""), bad, "'{'"},
       {"leading space", safetensors(" {}"), bad, "'{'"},
       {"no JSON", safetensors("{nonsense}"), bad, "line 1, column 3"},
       {"header cut short", safetensors(R"({"a":{"dtype":"F3)"), bad, "the end"},
       {"two documents", safetensors("{}{}"), bad, "JSON"},
       {"a list", safetensors("[]"), bad, "'{'"},
       {"bytes that are no UTF-8", safetensors("{\"\xff\xfe\":1}"), bad, "JSON"},
       {"deep nesting", safetensors("{\"a\":" + std::string(100'000, '[')), bad, "levels"},
       {"deep objects", safetensors([] {
          std::string text;
          for (int i = 0; i < 100; ++i) text += "{\"a\":";
          return text;
        }()),
        bad, "levels"},
       {"a number JSON has no name for", safetensors(R"({"__metadata__":{"a":Infinity}})"), bad,
        "JSON"},
       {"metadata of numbers", safetensors(R"({"__metadata__":{"a":1}})"), bad, "strings"},
       {"metadata as list", safetensors(R"({"__metadata__":["a"]})"), bad, "an object"},
       {"metadata twice", safetensors(R"({"__metadata__":{},"__metadata__":{}})"), bad, "twice"},
       {"metadata key twice", safetensors(R"({"__metadata__":{"a":"","a":""}})"), bad, "twice"},
       {"data without tensors", safetensors("{}", "data"), bad, "data"}});
}

TEST(Hostile, SafetensorsTensors) {
  constexpr auto bad = ErrorCode::bad_format;
  const std::string f32 = R"("dtype":"F32",)";
  expect_all_refused(
      Reader::safetensors,
      {{"tensor as number", safetensors(R"({"a":1})"), bad, "an object"},
       {"no dtype", one(R"("shape":[4],"data_offsets":[0,16])"), bad, "dtype"},
       {"dtype as number", one(R"("dtype":1,"shape":[4],"data_offsets":[0,16])"), bad, "dtype"},
       {"too few bytes of another type",
        one(R"("dtype":"F8_E4M3","shape":[4],"data_offsets":[0,16])"), bad,
        "a: expected 4 bytes for F8_E4M3 [4], found 16"},
       {"too many bytes of U16", one(R"("dtype":"U16","shape":[9],"data_offsets":[0,16])"), bad,
        "a: expected 18 bytes for U16 [9], found 16"},
       {"U32", one(R"("dtype":"U32","shape":[3],"data_offsets":[0,16])"), bad,
        "a: expected 12 bytes for U32 [3], found 16"},
       {"U64", one(R"("dtype":"U64","shape":[3],"data_offsets":[0,16])"), bad,
        "a: expected 24 bytes for U64 [3], found 16"},
       {"C64", one(R"("dtype":"C64","shape":[4],"data_offsets":[0,16])"), bad,
        "a: expected 32 bytes for C64 [4], found 16"},
       {"F8_E5M2", one(R"("dtype":"F8_E5M2","shape":[15],"data_offsets":[0,16])"), bad,
        "a: expected 15 bytes for F8_E5M2 [15], found 16"},
       {"F8_E8M0", one(R"("dtype":"F8_E8M0","shape":[17],"data_offsets":[0,16])"), bad,
        "a: expected 17 bytes for F8_E8M0 [17], found 16"},
       {"F4", one(R"("dtype":"F4","shape":[30],"data_offsets":[0,16])"), bad,
        "a: expected 15 bytes for F4 [30], found 16"},
       {"F4 within a byte", one(R"("dtype":"F4","shape":[31],"data_offsets":[0,16])"), bad,
        "a: expected a shape of whole bytes that fits in memory, found F4 [31]"},
       {"F6 within a byte", one(R"("dtype":"F6_E2M3","shape":[21],"data_offsets":[0,16])"), bad,
        "a: expected a shape of whole bytes that fits in memory, found F6_E2M3 [21]"},
       {"F6", one(R"("dtype":"F6_E3M2","shape":[20],"data_offsets":[0,16])"), bad,
        "a: expected 15 bytes for F6_E3M2 [20], found 16"},
       {"product of another type overflows",
        one(R"("dtype":"U16","shape":[4294967296,4294967296],"data_offsets":[0,16])"), bad,
        "found U16 [4294967296,4294967296]"},
       {"bits of another type overflow",
        one(R"("dtype":"F4","shape":[4611686018427387904],"data_offsets":[0,16])"), bad, "memory"},
       {"an unknown type beyond the file", one(R"("dtype":"I4","shape":[4],"data_offsets":[0,17])"),
        bad, "a: expected offsets within 16 bytes of data, found 0 to 17"},
       {"an unknown type after a hole", one(R"("dtype":"I4","shape":[4],"data_offsets":[8,16])"),
        bad, "a: expected data from byte 0, found 8, after a hole"},
       {"an unknown type of no shape", one(R"("dtype":"I4","shape":"all","data_offsets":[0,16])"),
        bad, "a: expected a shape of whole numbers"},
       {"unknown types that overlap",
        safetensors(R"({"a":{"dtype":"I4","shape":[2],"data_offsets":[0,2]},)"
                    R"("b":{"dtype":"I4","shape":[2],"data_offsets":[1,3]}})",
                    "xxx"),
        bad, "b: expected data from byte 2, found 1, overlapping"},
       {"name that turns the text around", safetensors("{\"abc\xE2\x80\xAEsrotnesefas\":1}"), bad,
        "abc?srotnesefas"},
       {"name with C1 characters",
        safetensors("{\"a\xC2\x9B"
                    "31m\":1}"),
        bad, "a?31m"},
       {"dtype that steers a terminal",
        one(R"("dtype":"\u001b[31mF32","shape":[4],"data_offsets":[0,17])"), bad, "within 16"},
       {"no shape", one(f32 + R"("data_offsets":[0,16])"), bad, "shape"},
       {"shape as number", one(f32 + R"("shape":4,"data_offsets":[0,16])"), bad, "shape"},
       {"negative extent", one(f32 + R"("shape":[-4],"data_offsets":[0,16])"), bad, "shape"},
       {"fractional extent", one(f32 + R"("shape":[4.0],"data_offsets":[0,16])"), bad, "shape"},
       {"extent as text", one(f32 + R"("shape":["4"],"data_offsets":[0,16])"), bad, "shape"},
       {"extent above 63 bits", one(f32 + R"("shape":[9223372036854775808],"data_offsets":[0,16])"),
        bad, "shape"},
       {"extent above 64 bits",
        one(f32 + R"("shape":[99999999999999999999],"data_offsets":[0,16])"), bad, "shape"},
       {"product overflows", one(f32 + R"("shape":[4294967296,4294967296],"data_offsets":[0,16])"),
        bad, "memory"},
       {"bytes overflow", one(f32 + R"("shape":[4611686018427387904],"data_offsets":[0,16])"), bad,
        "memory"},
       {"product overflows to 4",
        one(f32 + R"("shape":[4611686018427387905,4],)" + R"("data_offsets":[0,16])"), bad,
        "memory"},
       {"nine axes of too many bytes",
        one(f32 + R"("shape":[1,1,1,1,1,1,1,1,5],"data_offsets":[0,16])"), bad,
        "a: expected 20 bytes for F32 [1,1,1,1,1,1,1,1,5], found 16"},
       {"a thousand axes",
        one(f32 + "\"shape\":[" +
            [] {
              std::string list;
              for (int i = 0; i < 999; ++i) list += "1,";
              return list;
            }() +
            R"(4],"data_offsets":[0,16])"),
        bad, "shape"},
       {"no offsets", one(f32 + R"("shape":[4])"), bad, "data_offsets"},
       {"one offset", one(f32 + R"("shape":[4],"data_offsets":[0])"), bad, "data_offsets"},
       {"three offsets", one(f32 + R"("shape":[4],"data_offsets":[0,16,16])"), bad, "data_offsets"},
       {"negative offset", one(f32 + R"("shape":[4],"data_offsets":[-16,0])"), bad, "data_offsets"},
       {"offsets swapped", one(f32 + R"("shape":[4],"data_offsets":[16,0])"), bad, "within"},
       {"offset beyond the file", one(f32 + R"("shape":[4],"data_offsets":[4,20])"), bad, "within"},
       {"largest offset", one(f32 + R"("shape":[4],"data_offsets":[0,9223372036854775807])"), bad,
        "within"},
       {"size too small", one(f32 + R"("shape":[4],"data_offsets":[0,12])"), bad, "16 bytes"},
       {"size too large", one(f32 + R"("shape":[3],"data_offsets":[0,16])"), bad, "12 bytes"},
       {"hole in front", one(f32 + R"("shape":[3],"data_offsets":[4,16])"), bad, "a hole"},
       {"hole at the end", one(f32 + R"("shape":[3],"data_offsets":[0,12])"), bad, "data"},
       {"key twice", one(f32 + f32 + R"("shape":[4],"data_offsets":[0,16])"), bad, "twice"},
       {"name twice",
        safetensors(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                    R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                    "xx"),
        bad, "twice"},
       {"overlap",
        safetensors(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                    R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                    "xxx"),
        bad, "overlapping"},
       {"the same bytes twice",
        safetensors(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                    R"("b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
                    "xx"),
        bad, "overlapping"},
       {"name with a newline and a long tail",
        safetensors("{\"\\n\\u001b[31m" + std::string(10'000, 'n') + "\":1}"), bad, "?"}});
}

TEST(Hostile, Archives) {
  constexpr auto bad = ErrorCode::bad_format;
  const std::string good = test::small_bin();
  const std::string pickle = "\x80\x02}."s;
  const auto with = [&](const test::ZipLies& lies) {
    return test::torch_archive(pickle, {"abc"}, "little", lies);
  };
  const std::uint64_t huge = std::uint64_t{1} << 63;
  const auto entry = [&](std::uint64_t method, std::uint64_t flags) {
    return test::zip({{"m/data.pkl", pickle, method, flags}});
  };
  expect_all_refused(
      Reader::bin,
      {{"empty file", "", bad, "0 bytes"},
       {"three bytes", "PK\x03", bad, "3 bytes"},
       {"text", "not an archive", bad, "ZIP"},
       {"pickle of old PyTorch", "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."s,
        ErrorCode::unsupported, "older version"},
       {"archive without directory", "PK\x03\x04"s + std::string(100, '\0'), bad, "directory"},
       {"archive cut short", good.substr(0, good.size() - 1), bad, "directory"},
       {"bytes after the archive", good + "x", bad, "directory"},
       {"more entries than there are", with({.extra_count = 3}), bad, "entries"},
       {"65535 entries", with({.extra_count = 65531}), bad, "entries"},
       {"2^63 entries", with({.extra_count = huge, .is_zip64 = true}), bad, "entries"},
       {"directory beyond the file", with({.extra_directory = 1'000'000}), bad, "directory"},
       {"directory at 2^64", with({.extra_directory = ~std::uint64_t{0} - 500, .is_zip64 = true}),
        bad, "directory"},
       {"directory one byte on", with({.extra_directory = 1}), bad, "directory"},
       {"sizes beyond the file", with({.extra_size = 1'000'000}), bad, "data.pkl"},
       {"sizes of 2^63", with({.extra_size = huge, .is_zip64 = true}), bad, "data.pkl"},
       {"sizes near 2^64", with({.extra_size = ~std::uint64_t{0} - 8, .is_zip64 = true}), bad,
        "data.pkl"},
       {"offsets beyond the file", with({.extra_offset = 1'000'000}), bad, "data.pkl"},
       {"offsets near 2^64", with({.extra_offset = ~std::uint64_t{0} - 8, .is_zip64 = true}), bad,
        "data.pkl"},
       {"offsets into the data", with({.extra_offset = 1}), bad, "data.pkl"},
       {"deflated", entry(8, 0), ErrorCode::unsupported, "compression 8"},
       {"encrypted", entry(0, 1), ErrorCode::unsupported, "encryption"},
       {"no data.pkl", test::zip({{"m/other", "x"}}), bad, "data.pkl"},
       {"no entries", "PK\x03\x04"s + test::zip({}), bad, "data.pkl"},
       {"data.pkl twice", test::zip({{"m/data.pkl", pickle}, {"m/data.pkl", pickle}}), bad,
        "twice"},
       {"big-endian", test::torch_archive(pickle, {}, "big"), ErrorCode::unsupported, "big"},
       {"no byte order known", test::torch_archive(pickle, {}, "\n\n"), ErrorCode::unsupported,
        "??"}});
}

std::string archive(const PickleBuilder& pickle) {
  return test::torch_archive("\x80\x02"s + pickle.bytes(), {std::string(24, '\0')});
}
std::string archive(std::string_view pickle) { return archive(PickleBuilder().raw(pickle)); }

TEST(Hostile, PicklesThatWouldRunSomething) {
  constexpr auto refused = ErrorCode::unsupported;
  const auto call = [](std::string_view module, std::string_view name) {
    return archive(PickleBuilder().global(module, name).text("true").raw("\x85R."));
  };
  expect_all_refused(
      Reader::bin,
      {{"os.system", call("os", "system"), refused, "os.system"},
       {"posix.system", call("posix", "system"), refused, "posix.system"},
       {"eval", call("builtins", "eval"), refused, "builtins.eval"},
       {"exec", call("__builtin__", "exec"), refused, "__builtin__.exec"},
       {"subprocess", call("subprocess", "Popen"), refused, "subprocess.Popen"},
       {"another name of torch", call("torch", "load"), refused, "torch.load"},
       {"a name that joins to an allowed one", call("torch", "_utils._rebuild_tensor_v2\r"),
        refused, "?"},
       {"getattr", call("builtins", "getattr"), refused, "builtins.getattr"},
       {"terminal escapes", call("\x1b[31m", "x"), refused, "?[31m"},
       {"a name of 100000 letters", call(std::string(100'000, 'x'), "y"), refused, "xxx..."},
       {"INST", archive("(ios\nsystem\n."), refused, "0x69"},
       {"OBJ", archive("(o."), refused, "0x6f"},
       {"STACK_GLOBAL", archive("\x8c\x02os\x8c\x06system\x93."), refused, "0x93"},
       {"EXT1", archive("\x82\x01."), refused, "0x82"},
       {"PERSID", archive("Pid\n."), refused, "0x50"},
       {"NEWOBJ_EX", archive("\x92."), refused, "0x92"},
       {"protocol 4", test::torch_archive("\x80\x04}.", {}), refused, "protocol"},
       {"protocol 255", test::torch_archive("\x80\xff}.", {}), refused, "protocol"},
       {"frame", archive("\x95"s + little(4, 8) + "}."), refused, "0x95"},
       {"a name that weights_only refuses", call("numpy", "dtype"), refused, "numpy.dtype"},
       {"a name of argparse", call("argparse", "FileType"), refused, "argparse.FileType"},
       {"a type that torch lacks", call("torch", "float128"), refused, "torch.float128"},
       {"a storage that torch lacks", call("torch", "Storage"), refused, "torch.Storage"},
       {"a name without module", call("", "Size"), refused, ".Size"},
       {"a codec that is no name", call("_codecs", "decode"), refused, "_codecs.decode"},
       {"an allowed call that makes no tensor",
        archive(PickleBuilder().raw("}").text("x").global("torch", "FloatStorage").raw(")Rs.")),
        refused, "no tensor"}});
}

std::string repeated(std::string_view text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

TEST(Hostile, PicklesThatBreakTheMachine) {
  constexpr auto bad = ErrorCode::bad_format;
  expect_all_refused(
      Reader::bin,
      {{"nothing", test::torch_archive("", {}), bad, "the end"},
       {"no STOP", archive("}"), bad, "the end"},
       {"STOP on an empty stack", archive("."), bad, "one value"},
       {"two values at STOP", archive("}}."), bad, "one value"},
       {"open mark at STOP", archive("}(."), bad, "one value"},
       {"not a dictionary", archive("N."), bad, "a dictionary"},
       {"tuple without mark", archive("t."), bad, "too few"},
       {"SETITEMS without mark", archive("}u."), bad, "too few"},
       {"APPENDS without mark", archive("]e."), bad, "too few"},
       {"DICT without mark", archive("d."), bad, "too few"},
       {"DICT of an odd number", archive("(Nd."), bad, "pairs"},
       {"SETITEM with one value", archive("}Ns."), bad, "too few"},
       {"SETITEM below a mark", archive("}(NNs."), bad, "too few"},
       {"TUPLE1 of nothing", archive("\x85."), bad, "too few"},
       {"TUPLE3 below a mark", archive("NN(N\x87."), bad, "too few"},
       {"REDUCE of nothing", archive("R."), bad, "too few"},
       {"REDUCE of a number", archive("K\x01)R."), bad, "a call"},
       {"REDUCE without a tuple",
        archive(PickleBuilder().global("collections", "OrderedDict").raw("NR.")), bad, "a call"},
       {"BUILD of nothing", archive("b."), bad, "too few"},
       {"BUILD below a mark", archive("}(Nb."), bad, "too few"},
       {"BINPERSID of nothing", archive("Q."), bad, "too few"},
       {"BINPERSID of text", archive(PickleBuilder().text("0").raw("Q.")), bad, "a tuple"},
       {"APPEND to a dictionary", archive("}Na."), bad, "a list"},
       {"SETITEM of a list", archive("]NNs."), bad, "a dictionary"},
       {"an odd number of items", archive("}(Nu."), bad, "pairs"},
       {"numbers as keys only", archive("}K\x01Ns."), ErrorCode::unsupported, "no tensor"},
       {"BINGET of nothing", archive("h\x05."), bad, "memo"},
       {"LONG_BINGET of 2^32 - 1", archive("j\xff\xff\xff\xff."), bad, "memo"},
       {"BINPUT on an empty stack", archive("q\x01."), bad, "too few"},
       {"a huge memo index, then another", archive("}r\xff\xff\xff\xffj\xfe\xff\xff\xff."), bad,
        "memo"},
       {"LONG1 of 255 bytes", archive("\x8a\xff"s + std::string(255, '\x7f') + "."), bad,
        "8 bytes"},
       {"LONG1 cut short", archive("\x8a\x08\x01"), bad, "the end"},
       {"BININT cut short", archive("J\x01"), bad, "the end"},
       {"BINFLOAT cut short", archive("G\x01"), bad, "the end"},
       {"text of 4 GiB", archive("X\xff\xff\xff\xff."), bad, "the end"},
       {"text one byte too long", archive("X"s + little(2, 4) + "."), bad, "the end"},
       {"GLOBAL without newline", archive("cos"), bad, "the end"},
       {"GLOBAL without name", archive("cos\nsystem"), bad, "the end"},
       {"100000 levels of tuples", archive("N" + repeated("\x85", 100'000) + "."), bad,
        "a dictionary of tensors"},
       {"levels through the memo", archive("N" + repeated("q\x01h\x01\x86", 100) + "."), bad,
        "a dictionary of tensors"},
       {"levels of storages", archive(")" + repeated("Q\x85", 100) + "."), bad,
        "a dictionary of tensors"},
       {"levels of lists", archive("]]a."), bad, "a dictionary of tensors"},
       {"a list that contains itself",
        archive("]q\x01h\x01"
                "a."),
        bad, "a dictionary of tensors"},
       {"a dictionary that is its own model",
        archive(PickleBuilder().raw("}q\x01").text("model").raw("h\x01s.")), ErrorCode::unsupported,
        "no tensor"},
       {"dictionaries that contain each other",
        archive(PickleBuilder().raw("}q\x01").text("model").raw("}q\x02").text("module").raw(
            "h\x01ss.")),
        ErrorCode::unsupported, "no tensor"},
       {"the same dictionary under many names", archive([] {
          PickleBuilder pickle;
          pickle.raw("}q\x01(");
          for (int i = 0; i < 2000; ++i) pickle.text(i % 2 == 0 ? "model" : "module").raw("h\x01");
          return pickle.raw("u.");
        }()),
        ErrorCode::unsupported, "no tensor"},
       {"100000 levels of models", archive([] {
          PickleBuilder pickle;
          for (int i = 0; i < 100'000; ++i) pickle.raw("}").text("model");
          return pickle.raw("N" + repeated("s", 100'000) + ".");
        }()),
        ErrorCode::unsupported, "no tensor"},
       {"an ordered dictionary of a number",
        archive(PickleBuilder().global("collections", "OrderedDict").raw("K\x01\x85R.")), bad,
        "an ordered dictionary of pairs"},
       {"an ordered dictionary of triples",
        archive(PickleBuilder()
                    .global("collections", "OrderedDict")
                    .raw("](NNN\x87"
                         "ta\x85R.")),
        bad, "an ordered dictionary of pairs"},
       {"an ordered dictionary of numbers",
        archive(PickleBuilder()
                    .global("collections", "OrderedDict")
                    .raw("]K\x01"
                         "a\x85R.")),
        bad, "an ordered dictionary of pairs"},
       {"BINBYTES of 4 GiB", archive("B\xff\xff\xff\xff."), bad, "the end"},
       {"SHORT_BINSTRING cut short",
        archive("U\x05"
                "abc"),
        bad, "the end"},
       {"ADDITEMS without mark", archive("\x8f\x90."), bad, "too few"},
       {"ADDITEMS to a dictionary", archive("}(\x90."), bad, "a list"},
       {"a million values", archive(repeated("N", 1'000'000) + "."), ErrorCode::unsupported,
        "values"},
       {"a million marks", archive(repeated("(", 1'000'000) + "."), ErrorCode::unsupported,
        "values"}});
}

std::string one_tensor(std::int64_t count, std::int64_t offset,
                       const std::vector<std::int64_t>& shape,
                       const std::vector<std::int64_t>& strides,
                       const std::string& type = "FloatStorage", const std::string& key = "0") {
  return archive(PickleBuilder()
                     .raw("}")
                     .text("x")
                     .tensor(type, key, count, offset, shape, strides)
                     .raw("s."));
}

// A tensor "x" of 6 elements with its type beside an untyped storage.
PickleBuilder v3_tensor(const std::string& storage, std::int64_t bytes, const std::string& type) {
  PickleBuilder pickle;
  pickle.raw("}").text("x").global("torch._utils", "_rebuild_tensor_v3").raw("((");
  pickle.text("storage").global("torch.storage", storage).text("0").text("cpu").number(bytes);
  pickle.raw("tQ").number(0).numbers({6}).numbers({1}).raw("\x89");
  pickle.global("collections", "OrderedDict").raw(")R").global("torch", type).raw("tRs.");
  return pickle;
}

TEST(Hostile, TensorsBeyondTheirStorage) {
  constexpr auto bad = ErrorCode::bad_format;
  const std::int64_t big = std::int64_t{1} << 62;
  PickleBuilder twice;
  twice.raw("}(");
  for (int i = 0; i < 2; ++i) twice.text("x").tensor("FloatStorage", "0", 6, 0, {6}, {1});
  twice.raw("u.");
  // Short operations for many copies of one large storage.
  PickleBuilder copies;
  copies.raw("}(").text("a").tensor("ByteStorage", "0", 1'000'000, 0, {1000, 1000}, {1, 1000});
  copies.raw("q\x01").raw([] {
    std::string rest;
    for (int i = 0; i < 1000; ++i) rest += "\x8c\x04" + std::to_string(1000 + i) + "h\x01";
    return rest;
  }());
  copies.raw("u.");
  expect_all_refused(
      Reader::bin,
      {{"storage smaller than promised", one_tensor(7, 0, {7}, {1}), bad, "24 bytes"},
       {"count near 2^63", one_tensor(big, 0, {1}, {1}), bad, "a storage"},
       {"negative count", one_tensor(-1, 0, {1}, {1}), bad, "a storage"},
       {"offset at the end", one_tensor(6, 6, {1}, {1}), bad, "within"},
       {"offset near 2^63", one_tensor(6, big, {1}, {1}), bad, "within"},
       {"offset of a scalar", one_tensor(6, 6, {}, {}), bad, "within"},
       {"negative offset", one_tensor(6, -1, {1}, {1}), bad, "an offset"},
       {"shape too large", one_tensor(6, 0, {7}, {1}), bad, "within"},
       {"shape and offset too large", one_tensor(6, 1, {6}, {1}), bad, "within"},
       {"stride too large", one_tensor(6, 0, {2, 3}, {4, 1}), bad, "within"},
       {"stride near 2^63", one_tensor(6, 0, {2, 3}, {big, 1}), bad, "within"},
       {"strides that overflow", one_tensor(6, 0, {5, 5}, {big, big}), bad, "within"},
       {"negative stride", one_tensor(6, 5, {6}, {-1}), bad, "strides"},
       {"stride of 0", one_tensor(6, 0, {1'000'000'000}, {0}), bad, "repeated"},
       {"strides that repeat elements", one_tensor(6, 0, {3, 3}, {1, 1}), bad, "within"},
       {"negative extent", one_tensor(6, 0, {-1}, {1}), bad, "a shape"},
       {"extents that overflow", one_tensor(6, 0, {big, 4}, {1, 1}), bad, "memory"},
       {"65 axes",
        one_tensor(6, 0, std::vector<std::int64_t>(65, 1), std::vector<std::int64_t>(65, 1)), bad,
        "a shape"},
       {"more strides than axes", one_tensor(6, 0, {6}, {1, 1}), bad, "strides"},
       {"absent storage", one_tensor(6, 0, {6}, {1}, "FloatStorage", "1"), bad, "data/1"},
       {"storage outside the folder", one_tensor(6, 0, {6}, {1}, "FloatStorage", "../data.pkl"),
        bad, "none"},
       {"storage key with a newline", one_tensor(6, 0, {6}, {1}, "FloatStorage", "\n"), bad, "?"},
       {"a type in place of a storage", one_tensor(6, 0, {6}, {1}, "float32"), bad,
        "x: expected a storage type, found torch.float32"},
       {"storage of another type that is too small",
        one_tensor(6, 0, {6}, {1}, "ComplexFloatStorage"), bad,
        "x: expected a storage of 6 elements, found 24 bytes"},
       {"untyped storage that is too small", archive(v3_tensor("UntypedStorage", 25, "float32")),
        bad, "x: expected a storage of 25 elements, found 24 bytes"},
       {"elements beyond an untyped storage", archive(v3_tensor("UntypedStorage", 20, "float32")),
        bad, "x: expected elements within a storage of 5"},
       {"v3 of no type", archive(v3_tensor("UntypedStorage", 24, "Size")), bad,
        "x: expected a type of elements, found something else"},
       {"name twice", archive(twice), bad, "twice"},
       {"many copies of one large storage",
        test::torch_archive("\x80\x02"s + copies.bytes(), {std::string(1'000'000, 'x')}),
        ErrorCode::unsupported, "share elements"},
       {"dictionaries in a dictionary",
        archive(PickleBuilder().raw("}").text("state_dict").raw("}s.")), ErrorCode::unsupported,
        "no tensor"},
       {"a tuple as tensor", archive(PickleBuilder().raw("}").text("x").raw(")s.")),
        ErrorCode::unsupported, "no tensor"},
       {"a parameter of nothing",
        archive(PickleBuilder()
                    .raw("}")
                    .text("x")
                    .global("torch._utils", "_rebuild_parameter")
                    .raw("N\x85Rs.")),
        ErrorCode::unsupported, "no tensor"},
       {"parameters of parameters", archive([] {
          PickleBuilder pickle;
          pickle.raw("}").text("x");
          for (int i = 0; i < 1000; ++i) pickle.global("torch._utils", "_rebuild_parameter");
          return pickle.raw("N" + repeated("\x85R", 1000) + "s.");
        }()),
        ErrorCode::unsupported, "no tensor"},
       {"a tensor of nothing",
        archive(PickleBuilder()
                    .raw("}")
                    .text("x")
                    .global("torch._utils", "_rebuild_tensor_v2")
                    .raw(")Rs.")),
        ErrorCode::unsupported, "a call"},
       {"a tensor without storage",
        archive(PickleBuilder()
                    .raw("}")
                    .text("x")
                    .global("torch._utils", "_rebuild_tensor_v2")
                    .raw("(NNNNtRs.")),
        bad, "a storage"},
       {"a storage of three parts",
        archive(PickleBuilder()
                    .raw("}")
                    .text("x")
                    .global("torch._utils", "_rebuild_tensor_v2")
                    .raw("(NNN\x87QNNNtRs.")),
        bad, "a storage"}});
}

// Every prefix, and every byte set to a few values.
void sweep(Reader reader, const std::string& good) {
  {
    WeightStore store;
    ASSERT_TRUE(read(reader, good, store));
  }
  for (std::size_t size = 0; size < good.size(); ++size) {
    WeightStore store;
    EXPECT_FALSE(read(reader, std::string_view(good).substr(0, size), store)) << size;
  }
  std::string bytes = good;
  for (std::size_t at = 0; at < good.size(); ++at) {
    const auto byte = static_cast<unsigned char>(good[at]);
    for (const unsigned value : {byte ^ 1U, byte ^ 0x80U, byte + 1U, 0U, 0xFFU, 0x7FU, 0x2EU}) {
      bytes[at] = static_cast<char>(value);
      WeightStore store;
      const auto result = read(reader, bytes, store);
      if (!result) {
        EXPECT_EQ(result.error().message.find('\n'), std::string::npos);
        continue;
      }
      // What was accepted can be read to its end.
      unsigned sum = 0;
      for (const auto& [name, entry] : store.entries()) {
        const auto* data = static_cast<const unsigned char*>(entry.tensor.data);
        for (Index i = 0; i < entry.tensor.bytes(); ++i) sum += data[i];
      }
      EXPECT_LT(sum, 100'000'000U);
    }
    bytes[at] = good[at];
  }
}

TEST(Hostile, DamagedSafetensorsNeverCrash) {
  sweep(Reader::safetensors, test::small_safetensors());
}

TEST(Hostile, DamagedArchivesNeverCrash) { sweep(Reader::bin, test::small_bin()); }

TEST(Hostile, DamagedFilesOfTorchNeverCrash) {
  sweep(Reader::bin, test::read_file(test::data_dir() / "data" / "pickle" / "views.bin"));
}

TEST(Hostile, DamagedZip64ArchivesNeverCrash) {
  PickleBuilder pickle;
  pickle.raw("\x80\x02}").text("x").tensor("ByteStorage", "0", 3, 0, {3}, {1}).raw("s.");
  sweep(Reader::bin, test::torch_archive(pickle.bytes(), {"abc"}, "little", {.is_zip64 = true}));
}

TEST(Hostile, DamagedIndexesNeverCrash) {
  const test::TemporaryDirectory folder;
  test::write_file(folder.path() / "one", test::small_safetensors());
  const std::string good = R"({"weight_map":{"a":"one"}})";
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (const unsigned value : {0U, 1U, 0x22U, 0x2FU, 0x5CU, 0x7BU, 0xFFU}) {
      std::string bytes = good;
      bytes[at] = static_cast<char>(value);
      WeightStore store;
      const auto result =
          read_safetensors_index(bytes, folder.path().string(), WeightsMode::map, store);
      if (!result) {
        EXPECT_EQ(result.error().message.find('\n'), std::string::npos);
      }
    }
    WeightStore store;
    EXPECT_FALSE(read_safetensors_index(good.substr(0, at), folder.path().string(),
                                        WeightsMode::map, store));
  }
}

}  // namespace
}  // namespace krait::hostile_test
