#pragma once

/// \file
/// The kernels: plain functions on views.

#include "krait/kernels/aqlm.hpp"
#include "krait/kernels/attention.hpp"
#include "krait/kernels/codeword_search.hpp"
#include "krait/kernels/conv1d.hpp"
#include "krait/kernels/elementwise.hpp"
#include "krait/kernels/matmul.hpp"
#include "krait/kernels/matmul_bf16.hpp"
#include "krait/kernels/matmul_grouped.hpp"
#include "krait/kernels/matmul_panels.hpp"
#include "krait/kernels/matvec.hpp"
#include "krait/kernels/moe.hpp"
#include "krait/kernels/norm.hpp"
#include "krait/kernels/product.hpp"
#include "krait/kernels/quant.hpp"
#include "krait/kernels/rotary.hpp"
#include "krait/kernels/selective_scan.hpp"
#include "krait/kernels/softmax.hpp"
#include "krait/kernels/ssd.hpp"
