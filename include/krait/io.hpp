#pragma once

/// \file
/// Files: weights, matrices.

#include "krait/io/atomic_file.hpp"
#include "krait/io/mapped_file.hpp"
#include "krait/io/npy.hpp"
#include "krait/io/printable.hpp"
#include "krait/io/pytorch_bin.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/io/weight_store.hpp"
