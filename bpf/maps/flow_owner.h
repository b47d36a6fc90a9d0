/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "../abi/flow_key.h"
#include "../abi/flow_owner.h"
#include "../kernel/loader.h"

/* Whose flows are, since the last drain. LRU: where it overflows, the oldest are nobody's. Size is
 * set before load; one entry where the setting is off. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow_owner);
} flow_owner SEC(".maps");
