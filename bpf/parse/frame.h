/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <bpf/bpf_endian.h>

#include "cursor.h"
#include "eth.h"
#include "ipv4.h"
#include "ipv6.h"
#include "l4.h"
#include "packet.h"

/* Whether the interface's frames begin with an Ethernet header. tun, wireguard and ppp do not. */
enum link_layer {
	LINK_ETHERNET,
	LINK_NONE,
};

/* A whole frame, from whatever link layer, as far as its headers lie in the linear data. */
static __always_inline enum parse_result parse_frame(struct __sk_buff *skb, enum link_layer link,
						     struct packet *packet)
{
	struct cursor cursor = {
		.at = (void *)(long)skb->data,
		.end = (void *)(long)skb->data_end,
		.left = packet->frame_octets,
	};
	__be16 ethertype = skb->protocol;
	enum parse_result result;

	if (skb->vlan_present)
		note_vlan(packet, skb->vlan_tci);
	if (link == LINK_ETHERNET) {
		result = parse_eth(&cursor, packet, &ethertype);
		if (result != PARSE_OK)
			return result;
	}
	if (ethertype == bpf_htons(ETH_P_IP))
		result = parse_ipv4(&cursor, packet);
	else if (ethertype == bpf_htons(ETH_P_IPV6))
		result = parse_ipv6(skb, &cursor, packet);
	else
		result = PARSE_NOT_IP;
	return result == PARSE_OK ? parse_l4(&cursor, packet) : result;
}
