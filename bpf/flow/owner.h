/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "../abi/flow_record.h"
#include "../maps/flow_owner.h"

/* Remember which socket sent the first packet of a flow. Out of line, and only for new flows.
 *
 * A packet keeps its sender's socket through the host, also from one network namespace to the next
 * (9c4c325252c5 "skbuff: preserve sock reference when scrubbing the skb."), until IP takes it in.
 * But it may have another's: of what is inside of a tunnel, or of a proxy that it is steered to. So
 * the socket's port must be the source's. */
static __noinline int note_owner(struct __sk_buff *skb, const struct flow_record *record)
{
	struct flow_owner owner = {};
	struct bpf_sock *sk = skb->sk;

	if (!sk || !record->key.src_port || sk->src_port != record->key.src_port)
		return 0;
	owner.cookie = bpf_get_socket_cookie(skb);
	owner.cgroup_id = bpf_skb_cgroup_id(skb);
	owner.first_mono_ns = record->stats.first_mono_ns;
	bpf_map_update_elem(MAP(flow_owner), &record->key, &owner, BPF_ANY);
	return 0;
}
