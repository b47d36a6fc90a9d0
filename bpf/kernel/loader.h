/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* The same sources are compiled ahead by clang, into an object that libbpf loads, and on the node
 * by BCC, which keeps no symbols: there a map and a setting are numbers that the loader replaces.
 */
#ifdef COMPILED_BY_BCC
#include "bcc.h"
#else

/* A map as an argument of a helper. */
#define MAP(name) (&name)

/* Declare a setting, a number that is chosen before load, and read one. */
#define SETTING(type, name, value) const volatile type name = value
#define setting(name) name

/* Let clang forget what it knows of a number. */
#define FORGET(var) barrier_var(var)

#endif
