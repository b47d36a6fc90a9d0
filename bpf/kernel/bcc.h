/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* What BCC lacks of libbpf's bpf_helpers.h, or has in another shape. BCC's own helpers.h comes
 * before this, and the loader defines PLACE_<name> for every map and setting.
 *
 * Source: bcc 0.26 src/cc/export/helpers.h, src/cc/frontends/clang/b_frontend_action.cc. */

/* An immediate of 64 bits that the loader finds again: its map's descriptor (1 is
 * BPF_PSEUDO_MAP_FD), or a setting's value. */
#define MAP(name) ((void *)bpf_pseudo_fd(1, PLACE_##name))
#define SETTING(type, name, value) typedef type setting_##name
#define setting(name) ((setting_##name)bpf_pseudo_fd(0, PLACE_##name))

#define SEC(name)
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name
#define __array(name, val) typeof(val) *name[]
#define barrier_var(var) asm volatile("" : "+r"(var))

/* It resolves no calls between functions either: all are inlined. */
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#undef __noinline
#define __noinline __always_inline
#define VERIFIED_ONCE static __always_inline

/* A function that cannot be verified once must leave little to follow: neither clang nor the
 * verifier knows a number that was two times exclusive or. Without, the verifier reads 720,000
 * instructions of a million that it may; with, 110,000. */
#define FORGET(var)                                                                                \
	({                                                                                         \
		__u32 mask = bpf_get_prandom_u32();                                                \
		var ^= mask;                                                                       \
		barrier_var(var);                                                                  \
		var ^= mask;                                                                       \
	})

/* Their pointers are not const. */
#define bpf_map_lookup_elem(map, key) bpf_map_lookup_elem(map, (void *)(key))
#define bpf_map_update_elem(map, key, value, flags)                                                \
	bpf_map_update_elem(map, (void *)(key), (void *)(value), flags)
