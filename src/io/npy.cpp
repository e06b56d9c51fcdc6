#include "krait/io/npy.hpp"

#include <fmt/format.h>

#include <utility>

namespace krait {
inline namespace v0_1 {
namespace {

// Room for any number of rows, so that the header can be rewritten in place.
constexpr std::size_t header_bytes = 128;

}  // namespace

std::string NpyWriter::header() const {
  const std::string shape =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows_, cols_);
  std::string text("\x93NUMPY\x01\x00", 8);
  const std::size_t length = header_bytes - 10;
  text += static_cast<char>(length & 0xFFU);
  text += static_cast<char>(length >> 8U);
  text += shape;
  text.resize(header_bytes - 1, ' ');
  return text + '\n';
}

Result<NpyWriter> NpyWriter::create(const std::string& path, Index cols) {
  KRAIT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  NpyWriter writer(std::move(file), cols);
  KRAIT_RETURN_IF_ERROR(writer.file_.write(writer.header()));
  return writer;
}

Result<void> NpyWriter::write(std::span<const float> row) {
  check_contract(static_cast<Index>(row.size()) == cols_, "[npy] row: expected `cols` floats");
  ++rows_;
  return file_.write(std::as_bytes(row));
}

Result<void> NpyWriter::commit() {
  const std::string text = header();
  KRAIT_RETURN_IF_ERROR(file_.write_at(0, std::as_bytes(std::span(text))));
  return file_.commit();
}

}  // namespace v0_1
}  // namespace krait
