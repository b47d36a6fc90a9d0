/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/ip.h>

#include <bpf/bpf_endian.h>

#include "cursor.h"
#include "packet.h"

#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_OFFSET_MASK 0x1fff
#define IPV4_OCTETS_MAX 0xffff

/* RFC 4291 section 2.5.5.2: ::ffff:0:0/96. */
static __always_inline void map_ipv4(struct address *mapped, __be32 address)
{
	mapped->high = 0;
	mapped->low = (__u64)address << 32 | bpf_htonl(0xffff);
}

/* Total length is 0 in a super-packet of more octets than it can say (BIG TCP). */
static __always_inline __u32 ipv4_octets(const struct iphdr *ip, const struct cursor *cursor)
{
	if (!ip->tot_len && cursor->left > IPV4_OCTETS_MAX)
		return cursor->left;
	return bpf_ntohs(ip->tot_len);
}

/* RFC 791 with options. Lengths that contradict each other or the frame are malformed, as
 * net/ipv4/ip_input.c drops them. */
static __always_inline enum parse_result parse_ipv4(struct cursor *cursor, struct packet *packet)
{
	const struct iphdr *ip = cursor->at;
	__u32 header, fragment;

	if (!readable(cursor, sizeof(*ip)))
		return PARSE_SHORT;
	header = ip->ihl * 4;
	packet->ip_octets = ipv4_octets(ip, cursor);
	if (ip->version != 4 || header < sizeof(*ip) || packet->ip_octets < header ||
	    packet->ip_octets > cursor->left)
		return PARSE_MALFORMED;

	packet->ip_version = 4;
	packet->dscp = ip->tos >> 2;
	packet->header_octets = header;
	packet->ip_protocol = ip->protocol;
	map_ipv4(&packet->src_addr, ip->saddr);
	map_ipv4(&packet->dst_addr, ip->daddr);

	fragment = bpf_ntohs(ip->frag_off);
	if (fragment & (IPV4_MORE_FRAGMENTS | IPV4_OFFSET_MASK)) {
		packet->identification = ip->id;
		packet->fragment = fragment & IPV4_OFFSET_MASK ? FRAGMENT_LATER : FRAGMENT_FIRST;
	}
	advance(cursor, header);
	return PARSE_OK;
}
