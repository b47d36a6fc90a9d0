/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "../abi/flow_key.h"
#include "../abi/flow_stats.h"
#include "../kernel/loader.h"

/* Two preallocated per-CPU hashes, one of them in the slot of flow_active. User space flips the
 * slot; the update returns after an RCU grace period, so no program still writes to the retired map
 * and it is drained and emptied without a race. Sizes are set before load.
 *
 * Preallocated on purpose: without, batch deletion costs ten times as much and inserts fail when
 * the per-CPU allocator cannot keep up (docs/decisions/0003-two-swapped-maps.md). */
struct flow_map {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow_stats);
};

struct flow_map flow_stats_a SEC(".maps");
struct flow_map flow_stats_b SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct flow_map);
} flow_active SEC(".maps") = {.values = {&flow_stats_a}};
