/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/in.h>
#include <linux/in6.h>

#include <bpf/bpf_endian.h>

#include "cursor.h"
#include "packet.h"

#define TCP_HEADER_OCTETS 20
#define TCP_FLAGS_END 14
#define TCP_CONTROL_BITS 0x0fff
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define UDP_HEADER_OCTETS 8
#define SCTP_HEADER_OCTETS 12
#define ICMP_HEADER_OCTETS 8
#define PORTS_OCTETS 4

struct l4_ports {
	__be16 src;
	__be16 dst;
};

struct icmp_kind {
	__u8 type;
	__u8 code;
};

/* Octets that a whole header of the protocol must have; 0 where nothing of it is read. */
static __always_inline __u32 l4_header_octets(__u8 ip_protocol)
{
	switch (ip_protocol) {
	case IPPROTO_TCP:
		return TCP_HEADER_OCTETS;
	case IPPROTO_UDP:
		return UDP_HEADER_OCTETS;
	case IPPROTO_SCTP:
		return SCTP_HEADER_OCTETS;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return ICMP_HEADER_OCTETS;
	default:
		return 0;
	}
}

static __always_inline void note_ports(struct packet *packet, const struct cursor *cursor)
{
	const struct l4_ports *ports = cursor->at;
	const struct icmp_kind *icmp = cursor->at;

	if (packet->ip_protocol == IPPROTO_ICMP || packet->ip_protocol == IPPROTO_ICMPV6) {
		packet->dst_port = icmp->type << 8 | icmp->code;
		return;
	}
	packet->src_port = bpf_ntohs(ports->src);
	packet->dst_port = bpf_ntohs(ports->dst);
}

static __always_inline __u8 tcp_flag_sets(__u16 bits)
{
	__u8 sets = 0;

	if (!(bits & TCP_ACK))
		return 0;
	if (bits & TCP_SYN)
		sets |= TCP_SET_SYN_ACK;
	if (bits & TCP_FIN)
		sets |= TCP_SET_FIN_ACK;
	if (bits & TCP_RST)
		sets |= TCP_SET_RST_ACK;
	return sets;
}

/* The data offset and the flags of a TCP header: RFC 9293 section 3.1, RFC 9565 section 3. */
static __always_inline enum parse_result parse_tcp(struct cursor *cursor, struct packet *packet,
						   __u32 l4_octets)
{
	__u16 word;
	__u32 header;

	if (!readable(cursor, TCP_FLAGS_END))
		return PARSE_SHORT;
	word = bpf_ntohs(((const __be16 *)cursor->at)[6]);
	header = (word >> 12) * 4;
	if (header < TCP_HEADER_OCTETS || (header > l4_octets && packet->fragment == FRAGMENT_NONE))
		return PARSE_MALFORMED;
	packet->tcp_control_bits = word & TCP_CONTROL_BITS;
	packet->tcp_flag_sets = tcp_flag_sets(word);
	packet->header_octets += header;
	return PARSE_OK;
}

/* The first fragment of a datagram may end within the transport header (RFC 791 section 3.2 allows
 * eight octets): what is there is read. */
static __always_inline enum parse_result parse_l4(struct cursor *cursor, struct packet *packet)
{
	__u32 l4_octets = packet->ip_octets - packet->header_octets;
	__u32 header = l4_header_octets(packet->ip_protocol);

	if (!header || packet->fragment == FRAGMENT_LATER)
		return PARSE_OK;
	if (l4_octets < header) {
		if (packet->fragment == FRAGMENT_NONE)
			return PARSE_MALFORMED;
		if (l4_octets < PORTS_OCTETS)
			return PARSE_OK;
	}
	if (!readable(cursor, PORTS_OCTETS))
		return PARSE_SHORT;
	note_ports(packet, cursor);
	if (packet->ip_protocol == IPPROTO_TCP && l4_octets >= TCP_FLAGS_END)
		return parse_tcp(cursor, packet, l4_octets);
	packet->header_octets += header;
	return PARSE_OK;
}
