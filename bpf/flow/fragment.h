/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "../abi/counters.h"
#include "../abi/settings.h"
#include "../maps/fragments.h"
#include "../parse/packet.h"

static __always_inline void remember_first(const struct packet *packet,
					   const struct fragment_key *key)
{
	struct fragment_flow first = {
		.src_port = packet->src_port,
		.dst_port = packet->dst_port,
		.ip_protocol = packet->ip_protocol,
	};

	/* A refused insert (LRU under contention) only means that later fragments stay unmatched.
	 */
	bpf_map_update_elem(MAP(fragments), key, &first, BPF_ANY);
}

/* Give a later fragment the ports of its datagram's first. Out of line: fragments are rare, and
 * this keeps their key off the stack of every other packet. */
static __noinline int join_fragments(struct packet *packet, struct counters *ledger)
{
	struct fragment_key key = {
		.src_addr = packet->src_addr,
		.dst_addr = packet->dst_addr,
		.identification = packet->identification,
		.netns = setting(netns),
		.ip_protocol = packet->ip_version == 4 ? packet->ip_protocol : 0,
	};
	const struct fragment_flow *first;

	if (packet->fragment == FRAGMENT_FIRST) {
		remember_first(packet, &key);
		return 0;
	}
	first = bpf_map_lookup_elem(MAP(fragments), &key);
	if (!first) {
		ledger->fragments_unmatched++;
		return 0;
	}
	packet->src_port = first->src_port;
	packet->dst_port = first->dst_port;
	packet->ip_protocol = first->ip_protocol;
	return 0;
}
