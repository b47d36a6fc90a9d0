/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A program that the verifier refuses, after one that it accepts. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("tc") int accepted(struct __sk_buff *skb)
{
	return skb->len;
}

SEC("tc") int refused(struct __sk_buff *skb)
{
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 5; i++)
		sum = (sum ^ skb->cb[i]) * 31 + skb->mark + skb->len + i;
	/* Nobody has looked whether the packet is that long. */
	return sum + *(__u8 *)(long)skb->data;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
