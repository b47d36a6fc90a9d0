/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/types.h>

#include "export.h"

/* A packet to or from a DNS server. Behind it stand `copied` octets of its payload; what follows
 * them in the record means nothing. */
struct dns_packet {
	__u64 mono_ns;     /* as flow_stats.last_mono_ns */
	__u8 src_addr[16]; /* as in struct flow_key */
	__u8 dst_addr[16];
	__u32 sequence; /* TCP: as on the wire, host order */
	__u32 octets;   /* payload of the packet */
	__u16 copied;
	__u16 src_port;
	__u16 dst_port;
	__u16 netns;
	__u16 tcp_control_bits;
	__u8 ip_protocol;
	__u8 _pad[5];
};
_Static_assert(sizeof(struct dns_packet) == 64, "dns_packet is ABI");
ABI_TYPE(struct, dns_packet);
