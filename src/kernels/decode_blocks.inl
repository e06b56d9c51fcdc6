// The block formats of GGUF: bytes of a block to floats, in plain loops. The scalar level; what the
// vectors of unpack_blocks-inl.hpp must equal.

// Nibbles [16]: the low halves are weights 0 … 15, the high ones 16 … 31.
inline void decode_q4_0(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = half_at(block);
  const std::uint8_t* q = block + 2;
  for (int j = 0; j < 16; ++j) out[j] = d * static_cast<float>((q[j] & 15) - 8);
  for (int j = 0; j < 16; ++j) out[j + 16] = d * static_cast<float>((q[j] >> 4) - 8);
}

inline void decode_q4_1(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = half_at(block);
  const float m = half_at(block + 2);
  const std::uint8_t* q = block + 4;
  for (int j = 0; j < 16; ++j) out[j] = d * static_cast<float>(q[j] & 15) + m;
  for (int j = 0; j < 16; ++j) out[j + 16] = d * static_cast<float>(q[j] >> 4) + m;
}

// The fifth bits of 32 weights.
inline std::uint32_t bits_at(const std::uint8_t* bytes) {
  std::uint32_t bits = 0;
  for (unsigned i = 0; i < 4; ++i) bits |= static_cast<std::uint32_t>(bytes[i]) << (8 * i);
  return bits;
}

inline void decode_q5_0(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = half_at(block);
  const std::uint32_t high = bits_at(block + 2);
  const std::uint8_t* q = block + 6;
  for (unsigned j = 0; j < 16; ++j)
    out[j] = d * static_cast<float>(static_cast<int>((q[j] & 15U) | (high >> j & 1U) << 4U) - 16);
  for (unsigned j = 0; j < 16; ++j)
    out[j + 16] =
        d * static_cast<float>(static_cast<int>((q[j] >> 4U) | (high >> (j + 16) & 1U) << 4U) - 16);
}

inline void decode_q5_1(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = half_at(block);
  const float m = half_at(block + 2);
  const std::uint32_t high = bits_at(block + 4);
  const std::uint8_t* q = block + 8;
  for (unsigned j = 0; j < 16; ++j)
    out[j] = d * static_cast<float>(static_cast<int>((q[j] & 15U) | (high >> j & 1U) << 4U)) + m;
  for (unsigned j = 0; j < 16; ++j)
    out[j + 16] =
        d * static_cast<float>(static_cast<int>((q[j] >> 4U) | (high >> (j + 16) & 1U) << 4U)) + m;
}

inline void decode_q8_0(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = half_at(block);
  for (int j = 0; j < 32; ++j)
    out[j] = d * static_cast<float>(static_cast<std::int8_t>(block[2 + j]));
}

// Scales [16] of 16 weights each, 4 bits for the scale and 4 for the minimum; codes [64] of 2 bits:
// bits 2 s and 2 s + 1 of byte l of a half are weight 32 s + l; scale and minimum of the block.
inline void decode_q2_k(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = half_at(block + 80);
  const float m = half_at(block + 82);
  for (int part = 0; part < 16; ++part) {
    const std::uint8_t* q = block + 16 + part / 8 * 32 + part % 2 * 16;
    const int shift = part % 8 / 2 * 2;
    const float scale = d * static_cast<float>(block[part] & 15);
    const float least = m * static_cast<float>(block[part] >> 4);
    for (int l = 0; l < 16; ++l) {
      out[16 * part + l] = scale * static_cast<float>(q[l] >> shift & 3) - least;
    }
  }
}

// High bits [32], inverted: bit i of byte l is of weight 32 i + l; codes [64] as in q2_k; scales
// [12] of 6 bits.
inline void decode_q3_k(const std::uint8_t* __restrict block, float* __restrict out) {
  const std::uint8_t* scales = block + 96;
  const float d = half_at(block + 108);
  for (int part = 0; part < 16; ++part) {
    const std::uint8_t* q = block + 32 + part / 8 * 32 + part % 2 * 16;
    const std::uint8_t* high = block + part % 2 * 16;
    const int shift = part % 8 / 2 * 2;
    const int low = scales[part % 8] >> part / 8 * 4 & 15;
    const int six = low | (scales[8 + part % 4] >> part / 4 * 2 & 3) << 4;
    const float scale = d * static_cast<float>(six - 32);
    for (int l = 0; l < 16; ++l) {
      const int less = (high[l] >> part / 2 & 1) != 0 ? 0 : 4;
      out[16 * part + l] = scale * static_cast<float>((q[l] >> shift & 3) - less);
    }
  }
}

// Scale and minimum, 6 bits each, of part `part` of 32 weights; 12 bytes hold those of 8 parts.
inline void part_scale(const std::uint8_t* packed, int part, int& scale, int& least) {
  if (part < 4) {
    scale = packed[part] & 63;
    least = packed[part + 4] & 63;
  } else {
    scale = (packed[part + 4] & 15) | packed[part - 4] >> 6 << 4;
    least = packed[part + 4] >> 4 | packed[part] >> 6 << 4;
  }
}

inline void decode_q4_k(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = half_at(block);
  const float m = half_at(block + 2);
  for (int part = 0; part < 8; ++part) {
    int scale = 0;
    int least = 0;
    part_scale(block + 4, part, scale, least);
    const float by = d * static_cast<float>(scale);
    const float from = m * static_cast<float>(least);
    const std::uint8_t* q = block + 16 + part / 2 * 32;
    const int shift = part % 2 * 4;
    for (int l = 0; l < 32; ++l) {
      out[32 * part + l] = by * static_cast<float>(q[l] >> shift & 15) - from;
    }
  }
}

inline void decode_q5_k(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = half_at(block);
  const float m = half_at(block + 2);
  for (int part = 0; part < 8; ++part) {
    int scale = 0;
    int least = 0;
    part_scale(block + 4, part, scale, least);
    const float by = d * static_cast<float>(scale);
    const float from = m * static_cast<float>(least);
    const std::uint8_t* high = block + 16;
    const std::uint8_t* q = block + 48 + part / 2 * 32;
    const int shift = part % 2 * 4;
    for (int l = 0; l < 32; ++l) {
      const int five = (q[l] >> shift & 15) | (high[l] >> part & 1) << 4;
      out[32 * part + l] = by * static_cast<float>(five) - from;
    }
  }
}

// Low halves [128], high quarters [64], scales [16] of 8 bits with a sign, the block's scale.
inline void decode_q6_k(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = half_at(block + 208);
  for (int part = 0; part < 16; ++part) {
    const int quarter = part / 2 % 4;  // of 32 weights in a half of 128
    const std::uint8_t* low = block + part / 8 * 64 + quarter % 2 * 32 + part % 2 * 16;
    const std::uint8_t* high = block + 128 + part / 8 * 32 + part % 2 * 16;
    const float scale = d * static_cast<float>(static_cast<std::int8_t>(block[192 + part]));
    for (int l = 0; l < 16; ++l) {
      const int six = (low[l] >> quarter / 2 * 4 & 15) | (high[l] >> quarter * 2 & 3) << 4;
      out[16 * part + l] = scale * static_cast<float>(six - 32);
    }
  }
}

inline void decode_iq4_nl(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = half_at(block);
  const std::uint8_t* q = block + 2;
  for (int j = 0; j < 16; ++j) out[j] = d * static_cast<float>(uneven_codes[q[j] & 15]);
  for (int j = 0; j < 16; ++j) out[j + 16] = d * static_cast<float>(uneven_codes[q[j] >> 4]);
}

inline void decode_iq4_xs(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = half_at(block);
  const int high = block[2] | block[3] << 8;
  for (int part = 0; part < 8; ++part) {
    const int six = (block[4 + part / 2] >> part % 2 * 4 & 15) | (high >> 2 * part & 3) << 4;
    const float scale = d * static_cast<float>(six - 32);
    const std::uint8_t* q = block + 8 + 16 * part;
    for (int j = 0; j < 16; ++j) {
      out[32 * part + j] = scale * static_cast<float>(uneven_codes[q[j] & 15]);
      out[32 * part + 16 + j] = scale * static_cast<float>(uneven_codes[q[j] >> 4]);
    }
  }
}

// An exponent for 32 floats of 4 bits, which stand doubled in the table.
inline void decode_mxfp4(const std::uint8_t* __restrict block, float* __restrict out) {
  const float d = mxfp4_scale(block[0]);
  const std::uint8_t* q = block + 1;
  for (int j = 0; j < 16; ++j) out[j] = d * static_cast<float>(float4_codes[q[j] & 15]);
  for (int j = 0; j < 16; ++j) out[j + 16] = d * static_cast<float>(float4_codes[q[j] >> 4]);
}

// Blocks of `n` weights.
template <void (*decode)(const std::uint8_t*, float*), BlockFormat format>
inline void decode_all(const std::uint8_t* __restrict block, Index n, float* __restrict out) {
  constexpr BlockFormatInfo info = info_of(format);
  for (Index k = 0; k < n; k += info.elements, block += info.bytes) decode(block, out + k);
}

// In the order of BlockFormat.
constexpr void (*decoders[])(const std::uint8_t*, Index, float*) = {
    decode_all<decode_q4_0, BlockFormat::q4_0>,     decode_all<decode_q4_1, BlockFormat::q4_1>,
    decode_all<decode_q5_0, BlockFormat::q5_0>,     decode_all<decode_q5_1, BlockFormat::q5_1>,
    decode_all<decode_q8_0, BlockFormat::q8_0>,     decode_all<decode_q2_k, BlockFormat::q2_k>,
    decode_all<decode_q3_k, BlockFormat::q3_k>,     decode_all<decode_q4_k, BlockFormat::q4_k>,
    decode_all<decode_q5_k, BlockFormat::q5_k>,     decode_all<decode_q6_k, BlockFormat::q6_k>,
    decode_all<decode_iq4_nl, BlockFormat::iq4_nl>, decode_all<decode_iq4_xs, BlockFormat::iq4_xs>,
    decode_all<decode_mxfp4, BlockFormat::mxfp4>};
static_assert(std::size(decoders) == block_formats.size());

inline void decode_many(BlockFormat format, const std::byte* blocks, Index n, float* out) {
  decoders[static_cast<std::size_t>(format)](reinterpret_cast<const std::uint8_t*>(blocks), n, out);
}
