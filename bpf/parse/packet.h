/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/types.h>

#include "../abi/flow_key.h"
#include "../abi/flow_stats.h"

enum fragment_kind {
	FRAGMENT_NONE = 0,
	FRAGMENT_FIRST = 1,
	FRAGMENT_LATER = 2, /* no transport header: never read as ports */
};

/* A MAC address in the two loads that read it: clang reads an array octet by octet. */
struct mac {
	__u32 first;
	__u16 last;
	__u16 _pad;
};
_Static_assert(sizeof(struct mac) == 8, "no holes");

/* An address as flow_key has it, in the stores that write it. */
struct address {
	__u64 high;
	__u64 low;
};
_Static_assert(sizeof(struct address) == 16, "no holes");

/* What the parsers learn of one packet. */
struct packet {
	struct address src_addr;
	struct address dst_addr;
	__u32 octets;        /* L2 length on the wire: what is counted */
	__u32 frame_octets;  /* the same, but for a replayed packet whose link layer was replaced */
	__u32 ip_octets;     /* length of the IP packet */
	__u32 header_octets; /* IP and transport headers: what segmentation repeats */
	__u32 identification; /* of a fragmented datagram, as on the wire */
	__u32 gso_size;       /* payload of a segment; 0 where the packet is one */
	__u32 ifindex;
	__u16 vlan_id;
	__u16 inner_vlan_id;
	__u16 src_port;
	__u16 dst_port;
	__u16 tcp_control_bits;
	__u8 tcp_flag_sets;
	__u8 dscp;
	__u8 ip_protocol;
	__u8 fragment; /* enum fragment_kind */
	__u8 ip_version;
	__u8 direction;
	struct mac src_mac;
	struct mac dst_mac;
	__u8 _pad[4];
};
_Static_assert(sizeof(struct packet) == 96, "no holes");

enum parse_result {
	PARSE_OK = 0,
	PARSE_NOT_IP = 1,
	PARSE_MALFORMED = 2,
	PARSE_SHORT = 3, /* a header ends beyond the linear data */
};
