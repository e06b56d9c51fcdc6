#pragma once

#include "krait/io/printable.hpp"
