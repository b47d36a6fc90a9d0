/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

/* Of the other object, so that all layouts come from this one. */
#include "abi/socket_event.h"
#include "flow/observe.h"
#include "kernel/loader.h"

SEC("tc")
int tc_ingress(struct __sk_buff *skb)
{
	return observe(skb, FLOW_INGRESS, LINK_ETHERNET);
}

SEC("tc")
int tc_egress(struct __sk_buff *skb)
{
	return observe(skb, FLOW_EGRESS, LINK_ETHERNET);
}

/* For interfaces without a MAC header. */
SEC("tc")
int tc_ingress_l3(struct __sk_buff *skb)
{
	return observe(skb, FLOW_INGRESS, LINK_NONE);
}

SEC("tc")
int tc_egress_l3(struct __sk_buff *skb)
{
	return observe(skb, FLOW_EGRESS, LINK_NONE);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
