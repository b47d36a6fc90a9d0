/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "../abi/dns_packet.h"
#include "../abi/settings.h"
#include "../maps/dns_ring.h"
#include "../parse/frame.h"
#include "../parse/packet.h"

/* Records of three sizes: a record is reserved by a constant, and most messages are small. Powers
 * of two, so that a mask shows the verifier of any kernel how much is copied. */
#define DNS_SMALL 256
#define DNS_MIDDLE 1024
#define DNS_LARGE 4096
#define IPV6_HEADER_OCTETS 40
#define IPV6_NEXT_HEADER 6
#define TCP_SEQUENCE 4

/* Where a packet's payload is. */
struct payload {
	__u32 offset; /* from the frame's beginning */
	__u32 octets;
	__u32 sequence;
};

static __always_inline int is_dns_port(__u16 port)
{
	return port && (port == (setting(dns_ports) & 0xffff) || port == setting(dns_ports) >> 16);
}

static __always_inline int is_dns(const struct packet *packet)
{
	return (packet->ip_protocol == IPPROTO_UDP || packet->ip_protocol == IPPROTO_TCP) &&
	       packet->fragment == FRAGMENT_NONE &&
	       (is_dns_port(packet->src_port) || is_dns_port(packet->dst_port));
}

static __always_inline __u32 link_octets(struct __sk_buff *skb, enum link_layer link)
{
	__u32 octets = ETH_HLEN;
	__be16 ethertype;

	if (link == LINK_NONE)
		return 0;
#pragma unroll
	for (int i = 0; i < VLAN_TAGS_IN_FRAME; i++) {
		if (bpf_skb_load_bytes(skb, octets - sizeof(ethertype), &ethertype,
				       sizeof(ethertype)) ||
		    !is_vlan(ethertype))
			break;
		octets += sizeof(struct vlan_tag);
	}
	return octets;
}

/* Octets before the TCP header; 0 behind extension headers, where nobody speaks DNS. */
static __always_inline __u32 ip_header_octets(struct __sk_buff *skb, const struct packet *packet,
					      __u32 offset)
{
	__u8 octet = 0;

	if (packet->ip_version == 4) {
		if (bpf_skb_load_bytes(skb, offset, &octet, sizeof(octet)))
			return 0;
		return (octet & 0xf) * 4;
	}
	if (bpf_skb_load_bytes(skb, offset + IPV6_NEXT_HEADER, &octet, sizeof(octet)))
		return 0;
	return octet == packet->ip_protocol ? IPV6_HEADER_OCTETS : 0;
}

static __always_inline int find_payload(struct __sk_buff *skb, const struct packet *packet,
					enum link_layer link, struct payload *payload)
{
	__u32 offset = link_octets(skb, link), header;
	__be32 sequence = 0;

	payload->offset = offset + packet->header_octets;
	payload->octets = packet->ip_octets - packet->header_octets;
	payload->sequence = 0;
	if (packet->ip_protocol == IPPROTO_UDP)
		return 0;
	header = ip_header_octets(skb, packet, offset);
	if (!header ||
	    bpf_skb_load_bytes(skb, offset + header + TCP_SEQUENCE, &sequence, sizeof(sequence)))
		return -1;
	payload->sequence = bpf_ntohl(sequence);
	return 0;
}

static __always_inline void fill(struct dns_packet *copy, const struct packet *packet,
				 const struct payload *payload, __u64 mono_ns)
{
	__builtin_memset(copy, 0, sizeof(*copy));
	copy->mono_ns = mono_ns;
	*(struct address *)copy->src_addr = packet->src_addr;
	*(struct address *)copy->dst_addr = packet->dst_addr;
	copy->sequence = payload->sequence;
	copy->octets = payload->octets;
	copy->src_port = packet->src_port;
	copy->dst_port = packet->dst_port;
	copy->netns = setting(netns);
	copy->tcp_control_bits = packet->tcp_control_bits;
	copy->ip_protocol = packet->ip_protocol;
}

static __always_inline void count_lost(void)
{
	__u32 slot = 0;
	__u64 *lost = bpf_map_lookup_elem(MAP(dns_lost), &slot);

	if (lost)
		(*lost)++;
}

/* No wake-up: user space looks several times a second. */
static __always_inline void copy_sized(struct __sk_buff *skb, const struct packet *packet,
				       const struct payload *payload, __u64 mono_ns, __u32 room)
{
	struct dns_packet *copy;
	__u32 octets = payload->octets < room ? payload->octets : room;

	copy = bpf_ringbuf_reserve(MAP(dns_ring), sizeof(*copy) + room, 0);
	if (!copy) {
		count_lost();
		return;
	}
	fill(copy, packet, payload, mono_ns);
	if (octets) {
		copy->copied = octets;
		octets -= 1;
		barrier_var(octets);
		octets &= room - 1;
		if (bpf_skb_load_bytes(skb, payload->offset, copy + 1, octets + 1)) {
			bpf_ringbuf_discard(copy, BPF_RB_NO_WAKEUP);
			return;
		}
	}
	bpf_ringbuf_submit(copy, BPF_RB_NO_WAKEUP);
}

/* Copy what is said to or by a DNS server. Of TCP, what carries something and what begins a
 * connection. Out of line: rare beside other packets. */
static __noinline int copy_dns(struct __sk_buff *skb, const struct packet *packet, __u32 link,
			       __u64 mono_ns)
{
	struct payload payload;

	if (find_payload(skb, packet, link, &payload))
		return 0;
	if (!payload.octets && !(packet->tcp_control_bits & TCP_SYN))
		return 0;
	if (payload.octets <= DNS_SMALL)
		copy_sized(skb, packet, &payload, mono_ns, DNS_SMALL);
	else if (payload.octets <= DNS_MIDDLE)
		copy_sized(skb, packet, &payload, mono_ns, DNS_MIDDLE);
	else
		copy_sized(skb, packet, &payload, mono_ns, DNS_LARGE);
	return 0;
}
