/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* Keep a type in the object's BTF although no map mentions it. An initialised constant is what
 * clang 14 emits a type for: an unused static pointer or a cast emits nothing. */
#define ABI_TYPE(kind, name) const kind name *const abi_##name __attribute__((unused)) = 0
