/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/types.h>

#include "export.h"

/* Bits of flow_stats.tcp_flag_sets: flags that stood together in one packet. NetObserv's collector
 * wants them as 0x100, 0x200 and 0x400; they are kept apart because 0x100 is AE in RFC 9565. */
enum tcp_flag_set {
	TCP_SET_SYN_ACK = 1,
	TCP_SET_FIN_ACK = 2,
	TCP_SET_RST_ACK = 4,
};
ABI_TYPE(enum, tcp_flag_set);

/* What one CPU counted of one flow since the last drain. One cache line. A slot of a CPU that saw
 * no packet of the flow is all zero. */
struct flow_stats {
	__u64 first_mono_ns; /* CLOCK_MONOTONIC */
	__u64 last_mono_ns;
	__u64 packets;   /* on the wire: a GSO super-packet is its segments, unless configured */
	__u64 octets_l2; /* sum of the frames' lengths, likewise; without, of skb->len */
	__u64 octets_l3; /* sum of the IP packets' lengths, as IPFIX IE 1 means it */
	__u32 sampling_interval; /* 1 in N in force; 1 is every packet */
	__u16 tcp_control_bits;  /* OR of the header bits, RFC 9565 */
	__u8 tcp_flag_sets;      /* OR of enum tcp_flag_set */
	__u8 dscp;               /* of the latest packet */
	__u8 src_mac[6]; /* of the first packet; zero where the interface has no MAC header */
	__u8 dst_mac[6];
	__u8 _pad[4];
};
_Static_assert(sizeof(struct flow_stats) == 64, "flow_stats is ABI");
