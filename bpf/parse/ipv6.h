/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "../kernel/compat.h"
#include "../kernel/loader.h"
#include "cursor.h"
#include "packet.h"

/* RFC 8200 section 4.1 recommends each header once, destination options twice: seven. */
#define IPV6_EXTENSION_HEADERS 8
#define EXTENSIONS_MAX 1400
#define CHAIN_MALFORMED 0xffff
#define EXTENSION_OCTETS_MASK 0x0fff
#define IPV6_OFFSET_MASK 0xfff8
#define IPV6_MORE_FRAGMENTS 0x0001
#define IPV6_PAYLOAD_MAX 0xffff

/* The first eight octets of any extension header (RFC 6564 section 4), with the names that they
 * have in a fragment header (RFC 8200 section 4.5). */
struct ipv6_extension {
	__u8 next_header;
	__u8 length;
	__be16 offset_and_flags;
	__be32 identification;
};

/* The headers that net/ipv6/exthdrs_core.c walks. ESP hides what follows it; mobility, HIP and
 * shim6 carry no upper layer: those are reported by number. */
static __always_inline int is_extension(__u8 next_header)
{
	return next_header == IPPROTO_HOPOPTS || next_header == IPPROTO_ROUTING ||
	       next_header == IPPROTO_FRAGMENT || next_header == IPPROTO_AH ||
	       next_header == IPPROTO_DSTOPTS;
}

static __always_inline __u32 extension_octets(__u8 kind, __u8 length)
{
	__u32 octets = (length + 1) * 8;

	if (kind == IPPROTO_FRAGMENT)
		octets = sizeof(struct ipv6_extension);
	if (kind == IPPROTO_AH)
		octets = (length + 2) * 4;
	/* Which header it was, or the verifier would follow every sequence of headers. */
	FORGET(octets);
	return octets & EXTENSION_OCTETS_MASK;
}

/* What a chain of extension headers leads to, in one register. */
union ipv6_chain {
	struct {
		__be32 identification;
		__u16 octets; /* of all extension headers; CHAIN_MALFORMED */
		__u8 ip_protocol;
		__u8 fragment; /* enum fragment_kind */
	};
	__u64 word;
};

static __always_inline void note_fragment(union ipv6_chain *chain,
					  const struct ipv6_extension *extension)
{
	__u16 offset_and_flags = bpf_ntohs(extension->offset_and_flags);

	chain->identification = extension->identification;
	if (offset_and_flags & IPV6_OFFSET_MASK)
		chain->fragment = FRAGMENT_LATER;
	else if (offset_and_flags & IPV6_MORE_FRAGMENTS)
		chain->fragment = FRAGMENT_FIRST;
	/* else RFC 6946: an atomic fragment is a whole datagram */
}

/* Walks to the upper-layer header, or behind the header of a later fragment. Copies the headers
 * out, so that they need not be in the linear data.
 *
 * `limit`: octets that all of them may take, from the IP packet's length.
 * Returns union ipv6_chain. */
VERIFIED_ONCE __u64 walk_extensions(struct __sk_buff *skb, __u32 start, __u32 limit,
				    __u32 next_header)
{
	union ipv6_chain chain = {.ip_protocol = next_header};
	__u32 octets = 0;

	for (int i = 0; i < IPV6_EXTENSION_HEADERS; i++) {
		struct ipv6_extension extension;
		__u8 kind = chain.ip_protocol;

		if (chain.fragment == FRAGMENT_LATER || !is_extension(kind))
			break;
		if (bpf_skb_load_bytes(skb, start + octets, &extension, sizeof(extension)))
			goto malformed;
		if (kind == IPPROTO_FRAGMENT)
			note_fragment(&chain, &extension);
		chain.ip_protocol = extension.next_header;
		octets += extension_octets(kind, extension.length);
		if (octets > EXTENSIONS_MAX || octets > limit)
			goto malformed;
	}
	if (chain.fragment != FRAGMENT_LATER && is_extension(chain.ip_protocol))
		goto malformed;
	chain.octets = octets;
	return chain.word;
malformed:
	chain.octets = CHAIN_MALFORMED;
	return chain.word;
}

/* Payload length is 0 in a jumbogram (RFC 2675) and in a super-packet of more octets than it can
 * say (BIG TCP). */
static __always_inline __u32 ipv6_octets(const struct ipv6hdr *ip, const struct cursor *cursor)
{
	if (!ip->payload_len && cursor->left > sizeof(*ip) + IPV6_PAYLOAD_MAX)
		return cursor->left;
	return sizeof(*ip) + bpf_ntohs(ip->payload_len);
}

static __always_inline void copy_ipv6(struct address *copy, const struct in6_addr *address)
{
	const __u32 *word = address->in6_u.u6_addr32;

	copy->high = (__u64)word[1] << 32 | word[0];
	copy->low = (__u64)word[3] << 32 | word[2];
}

static __always_inline int is_ipv4_mapped(const struct address *address)
{
	return !address->high && (__u32)address->low == bpf_htonl(0xffff);
}

/* RFC 8200. An IPv4-mapped address must not appear on the wire (RFC 4291 errata;
 * net/ipv6/ip6_input.c drops it), and would be taken for the IPv4 flow of that address. */
static __always_inline enum parse_result parse_ipv6(struct __sk_buff *skb, struct cursor *cursor,
						    struct packet *packet)
{
	const struct ipv6hdr *ip = cursor->at;
	union ipv6_chain chain;

	if (!readable(cursor, sizeof(*ip)))
		return PARSE_SHORT;
	packet->ip_octets = ipv6_octets(ip, cursor);
	copy_ipv6(&packet->src_addr, &ip->saddr);
	copy_ipv6(&packet->dst_addr, &ip->daddr);
	if (ip->version != 6 || packet->ip_octets > cursor->left ||
	    is_ipv4_mapped(&packet->src_addr) || is_ipv4_mapped(&packet->dst_addr))
		return PARSE_MALFORMED;

	packet->ip_version = 6;
	packet->dscp = (ip->priority << 2) | (ip->flow_lbl[0] >> 6);
	packet->header_octets = sizeof(*ip);
	packet->ip_protocol = ip->nexthdr;
	advance(cursor, sizeof(*ip));
	if (!is_extension(ip->nexthdr))
		return PARSE_OK;

	chain.word = walk_extensions(skb, packet->frame_octets - cursor->left,
				     packet->ip_octets - sizeof(*ip), ip->nexthdr);
	if (chain.octets > EXTENSIONS_MAX)
		return PARSE_MALFORMED;
	packet->fragment = chain.fragment;
	packet->identification = chain.identification;
	packet->ip_protocol = chain.ip_protocol;
	packet->header_octets += chain.octets;
	advance(cursor, chain.octets);
	return PARSE_OK;
}
