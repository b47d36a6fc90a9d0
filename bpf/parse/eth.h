/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/if_ether.h>

#include <bpf/bpf_endian.h>

#include "cursor.h"
#include "packet.h"
#include "vlan.h"

static __always_inline void read_mac(struct mac *mac, const void *octets)
{
	mac->first = *(const __u32 *)octets;
	mac->last = *(const __u16 *)(octets + sizeof(__u32));
}

/* Ethernet II and the tags behind it. Leaves the cursor at the network header and the EtherType, in
 * network order, in `*ethertype`. */
static __always_inline enum parse_result parse_eth(struct cursor *cursor, struct packet *packet,
						   __be16 *ethertype)
{
	const struct ethhdr *eth = cursor->at;

	if (!readable(cursor, sizeof(*eth)))
		return PARSE_SHORT;
	read_mac(&packet->src_mac, eth->h_source);
	read_mac(&packet->dst_mac, eth->h_dest);
	*ethertype = eth->h_proto;
	advance(cursor, sizeof(*eth));
	return parse_vlan(cursor, packet, ethertype);
}
