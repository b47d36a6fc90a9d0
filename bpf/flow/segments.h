/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/bpf.h>

#include "../abi/settings.h"
#include "../parse/packet.h"

/* What a packet adds to its flow. */
struct increment {
	__u64 mono_ns; /* with the coarse clock, up to a tick early */
	__u32 packets;
	__u32 octets_l2;
	__u32 octets_l3;
	__u8 _pad[4];
};

/* A GSO or GRO super-packet says how many segments it is; one that came from a guest or through tun
 * does not (SKB_GSO_DODGY), and net/core/dev.c derives them from the payload as is done here. */
static __always_inline __u32 segment_count(const struct __sk_buff *skb, const struct packet *packet)
{
	__u32 segments = skb->gso_segs;
	__u32 payload = packet->ip_octets - packet->header_octets;

	if (segments)
		return segments;
	return payload ? (payload + packet->gso_size - 1) / packet->gso_size : 1;
}

/* What one segment repeats of the headers, from the link layer on. On egress the kernel knows the
 * length on the wire, also of a tunnelled super-packet; on ingress it does not (wire_len is len),
 * and what was parsed is repeated: nothing, if the packet was not. */
static __always_inline __u32 repeated_octets(const struct __sk_buff *skb,
					     const struct packet *packet, __u32 segments)
{
	if (skb->wire_len > packet->frame_octets)
		return (skb->wire_len - packet->frame_octets) / (segments - 1);
	if (!packet->header_octets)
		return 0;
	return packet->frame_octets - packet->ip_octets + packet->header_octets;
}

/* A super-packet is what it becomes on the wire: its segments, each with headers of its own. */
static __always_inline void measure(struct increment *increment, const struct __sk_buff *skb,
				    const struct packet *packet)
{
	__u32 link = packet->frame_octets - packet->ip_octets;
	__u32 segments, repeated;

	increment->packets = 1;
	increment->octets_l2 = packet->octets;
	increment->octets_l3 = packet->ip_octets;
	if (!setting(count_segments) || !packet->gso_size)
		return;
	segments = segment_count(skb, packet);
	if (segments <= 1)
		return;
	repeated = repeated_octets(skb, packet, segments);
	increment->packets = segments;
	increment->octets_l2 += (segments - 1) * repeated;
	if (repeated > link)
		increment->octets_l3 += (segments - 1) * (repeated - link);
}
