/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "../kernel/loader.h"
#include "../parse/packet.h"

/* What makes fragments parts of one datagram: RFC 791 section 3.2, RFC 8200 section 4.5. */
struct fragment_key {
	struct address src_addr;
	struct address dst_addr;
	__u32 identification; /* as on the wire; IPv4 has 16 bits of it */
	__u16 netns;
	__u8 ip_protocol; /* IPv4 only: later IPv6 fragments do not carry the upper-layer protocol
			   */
	__u8 _pad[1];
};
_Static_assert(sizeof(struct fragment_key) == 40, "fragment_key is a hash key");

/* What only the first fragment says. */
struct fragment_flow {
	__u16 src_port; /* as in struct flow_key */
	__u16 dst_port;
	__u8 ip_protocol;
	__u8 _pad[3];
};
_Static_assert(sizeof(struct fragment_flow) == 8, "fragment_flow is a map value");

/* Ports of datagrams whose first fragment was seen, so that later fragments join its flow. LRU: a
 * flood of fragments evicts the oldest, whose later fragments then count under port 0. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct fragment_flow);
} fragments SEC(".maps");
