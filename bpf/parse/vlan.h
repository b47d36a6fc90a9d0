/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/if_ether.h>

#include <bpf/bpf_endian.h>

#include "cursor.h"
#include "packet.h"

#define VLAN_ID_MASK 0x0fff
#define VLAN_TAGS_IN_FRAME 2

/* IEEE 802.1Q clause 9.6: what follows the EtherType of a tag. */
struct vlan_tag {
	__be16 tci;
	__be16 ethertype;
};

static __always_inline int is_vlan(__be16 ethertype)
{
	return ethertype == bpf_htons(ETH_P_8021Q) || ethertype == bpf_htons(ETH_P_8021AD) ||
	       ethertype == bpf_htons(ETH_P_QINQ1);
}

/* Outermost first. A priority tag (id 0) names no VLAN. */
static __always_inline void note_vlan(struct packet *packet, __u16 tci)
{
	if (!packet->vlan_id)
		packet->vlan_id = tci & VLAN_ID_MASK;
	else if (!packet->inner_vlan_id)
		packet->inner_vlan_id = tci & VLAN_ID_MASK;
}

static __always_inline enum parse_result parse_vlan(struct cursor *cursor, struct packet *packet,
						    __be16 *ethertype)
{
#pragma unroll
	for (int i = 0; i < VLAN_TAGS_IN_FRAME; i++) {
		const struct vlan_tag *tag = cursor->at;

		if (!is_vlan(*ethertype))
			return PARSE_OK;
		if (!readable(cursor, sizeof(*tag)))
			return PARSE_SHORT;
		note_vlan(packet, bpf_ntohs(tag->tci));
		*ethertype = tag->ethertype;
		advance(cursor, sizeof(*tag));
	}
	return PARSE_OK;
}
