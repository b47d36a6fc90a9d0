/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/bpf.h>

#include "../abi/settings.h"
#include "../parse/packet.h"

/* Packets on the wire that this buffer stands for. A GSO or GRO super-packet says how many segments
 * it is; one that came from a guest or through tun does not (SKB_GSO_DODGY), and net/core/dev.c
 * derives them from the payload as is done here. */
static __always_inline __u32 segment_count(const struct __sk_buff *skb, const struct packet *packet)
{
	__u32 segments = skb->gso_segs;
	__u32 payload;

	if (!count_segments || !packet->gso_size)
		return 1;
	if (segments)
		return segments;
	payload = packet->ip_octets - packet->header_octets;
	return payload ? (payload + packet->gso_size - 1) / packet->gso_size : 1;
}

/* IP octets of all segments: segmentation repeats the headers in each. On egress the kernel knows
 * the length on the wire, also of a tunnelled super-packet; on ingress it does not (wire_len is
 * len), and the IP and transport headers are what is repeated. */
static __always_inline __u64 segment_octets_l3(const struct __sk_buff *skb,
					       const struct packet *packet, __u32 segments)
{
	__u32 repeated = packet->header_octets;
	__u32 link = packet->frame_octets - packet->ip_octets;

	if (segments > 1 && skb->wire_len > packet->frame_octets)
		repeated = (skb->wire_len - packet->frame_octets) / (segments - 1) - link;
	return packet->ip_octets + (__u64)(segments - 1) * repeated;
}
