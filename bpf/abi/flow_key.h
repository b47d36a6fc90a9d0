/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/types.h>

#include "export.h"

/* Values of flow_key.direction: IPFIX IE 61, at the interface. Also the index of a hook's counters.
 */
enum flow_direction {
	FLOW_INGRESS = 0,
	FLOW_EGRESS = 1,
	FLOW_DIRECTIONS = 2,
};
ABI_TYPE(enum, flow_direction);

/* Flow Key, RFC 7011 section 2: what makes two packets the same flow at the same observation point.
 * It is a hash key, so it has no holes, and 48 octets: twelve words are four whole rounds of the
 * kernel's jhash2, and one word more would cost a fifth. */
struct flow_key {
	__u8 src_addr[16]; /* network order; IPv4 as ::ffff/96, RFC 4291 section 2.5.5.2 */
	__u8 dst_addr[16];
	__u32 ifindex;  /* of the interface, within its network namespace */
	__u16 src_port; /* host order; 0 where the protocol has none */
	__u16 dst_port; /* host order; ICMP and ICMPv6: type << 8 | code, as IPFIX IE 32 and 139 */
	__u16 netns;    /* the agent's number for the network namespace; 0 is the agent's own */
	__u16 vlan_id;  /* outer tag, 1-4094; 0 is untagged or priority-tagged */
	__u16 inner_vlan_id; /* inner tag of two */
	__u8 ip_protocol;    /* IANA protocol number, after IPv6 extension headers */
	__u8 direction;      /* enum flow_direction */
};
_Static_assert(sizeof(struct flow_key) == 48, "flow_key is ABI");
