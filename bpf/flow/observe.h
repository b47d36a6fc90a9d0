/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#include "../abi/counters.h"
#include "../abi/settings.h"
#include "../maps/counters.h"
#include "../parse/frame.h"
#include "account.h"
#include "dns.h"
#include "fragment.h"
#include "segments.h"

/* Headers are looked for in the first part of a frame; a longer chain of them is malformed. */
#define PULL_OCTETS 1500

static __always_inline int take_sample(void)
{
	return setting(sampling_interval) <= 1 ||
	       bpf_get_prandom_u32() % setting(sampling_interval) == 0;
}

static __always_inline __u64 packet_time(const struct __sk_buff *skb)
{
	if (setting(replay))
		return (__u64)skb->cb[REPLAY_TIME_HIGH] << 32 | skb->cb[REPLAY_TIME_LOW];
	return setting(coarse_clock) ? bpf_ktime_get_coarse_ns() : bpf_ktime_get_ns();
}

static __always_inline void start_packet(struct packet *packet, const struct __sk_buff *skb,
					 enum flow_direction direction)
{
	__u32 octets = skb->len, ifindex = skb->ifindex, frame_octets = octets;

	/* Without the barriers clang chooses between two context offsets and loads once, which the
	 * verifier refuses. */
	barrier_var(octets);
	barrier_var(ifindex);
	barrier_var(frame_octets);
	if (setting(replay)) {
		octets = skb->cb[REPLAY_OCTETS];
		ifindex = skb->cb[REPLAY_IFINDEX];
		frame_octets = skb->cb[REPLAY_FRAME_OCTETS];
	}
	__builtin_memset(packet, 0, sizeof(*packet));
	packet->octets = octets;
	packet->frame_octets = frame_octets;
	packet->gso_size = skb->gso_size;
	packet->ifindex = ifindex;
	packet->direction = direction;
}

/* Headers beyond the linear data (a driver that splits headers, a large send from user space):
 * bring them in and read again. Out of line: it is rare and costs a copy. */
static __noinline int parse_pulled(struct __sk_buff *skb, struct packet *packet, __u32 direction,
				   __u32 link)
{
	__u32 octets = skb->len < PULL_OCTETS ? skb->len : PULL_OCTETS;
	enum parse_result result;

	if (bpf_skb_pull_data(skb, octets))
		return PARSE_MALFORMED;
	start_packet(packet, skb, direction);
	result = parse_frame(skb, link, packet);
	return result == PARSE_SHORT ? PARSE_MALFORMED : result;
}

static __always_inline enum parse_result parse(struct __sk_buff *skb, struct packet *packet,
					       enum flow_direction direction, enum link_layer link)
{
	enum parse_result result = parse_frame(skb, link, packet);

	return result == PARSE_SHORT ? parse_pulled(skb, packet, direction, link) : result;
}

static __always_inline void count(struct tally *tally, const struct increment *increment)
{
	tally->packets += increment->packets;
	tally->octets += increment->octets_l2;
}

/* One packet at one hook: seen once, and under exactly one outcome. */
static __always_inline int observe(struct __sk_buff *skb, enum flow_direction direction,
				   enum link_layer link)
{
	struct counters *ledger;
	struct packet packet;
	struct increment increment;
	enum parse_result result = PARSE_OK;
	enum outcome outcome;
	__u32 index = direction;
	int sampled;

	ledger = bpf_map_lookup_elem(MAP(counters), &index);
	if (!ledger)
		return TC_ACT_UNSPEC;
	start_packet(&packet, skb, direction);
	sampled = take_sample();
	if (sampled)
		result = parse(skb, &packet, direction, link);
	measure(&increment, skb, &packet);
	count(&ledger->seen, &increment);
	if (!sampled) {
		outcome = OUTCOME_SAMPLED_OUT;
	} else if (result == PARSE_NOT_IP) {
		outcome = OUTCOME_NOT_IP;
	} else if (result != PARSE_OK) {
		outcome = OUTCOME_MALFORMED;
	} else {
		if (packet.fragment != FRAGMENT_NONE)
			join_fragments(&packet, ledger);
		increment.mono_ns = packet_time(skb);
		if (setting(dns_ports) && is_dns(&packet))
			copy_dns(skb, &packet, link, increment.mono_ns);
		outcome = account(&packet, &increment, ledger, skb);
	}
	count(&ledger->outcome[outcome], &increment);
	return TC_ACT_UNSPEC;
}
