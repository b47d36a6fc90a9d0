/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <bpf/bpf_helpers.h>

#include "loader.h"

/* A function that the verifier checks once, by its types alone (51c39bb1d5d1 "bpf: Introduce
 * function-by-function verification", 5.6). Others are checked anew on every path that calls them.
 * Takes the context and scalars: pointers to memory came later (e5069b9c23b3, 5.12). */
#ifndef VERIFIED_ONCE
#define VERIFIED_ONCE __attribute__((noinline))
#endif
