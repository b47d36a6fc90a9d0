/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/bpf.h>
#include <linux/errno.h>

#include <bpf/bpf_helpers.h>

#include "../abi/counters.h"
#include "../abi/flow_record.h"
#include "../abi/settings.h"
#include "../maps/flow_active.h"
#include "../maps/flow_ring.h"
#include "../parse/packet.h"
#include "owner.h"
#include "segments.h"

/* The key in four-octet stores or wider: the map's hash reads it word by word at once, and a word
 * that was just written in parts stalls that read. */
static __always_inline void make_key(struct flow_key *key, const struct packet *packet)
{
	__u32 *word = (__u32 *)&key->ifindex;

	*(struct address *)key->src_addr = packet->src_addr;
	*(struct address *)key->dst_addr = packet->dst_addr;
	word[0] = packet->ifindex;
	word[1] = packet->src_port | (__u32)packet->dst_port << 16;
	word[2] = setting(netns) | (__u32)packet->vlan_id << 16;
	word[3] = packet->inner_vlan_id | (__u32)packet->ip_protocol << 16 |
		  (__u32)packet->direction << 24;
}

/* The clock costs as much as half of all else that is done for a packet. Only the first packet of a
 * flow always pays for it: later ones may take the last tick's time, so a flow's end is up to a
 * tick early. */
static __always_inline __u64 exact_time(const struct increment *increment)
{
	return setting(coarse_clock) ? bpf_ktime_get_ns() : increment->mono_ns;
}

static __always_inline void start_flow(struct flow_stats *stats, const struct packet *packet,
				       const struct increment *increment)
{
	__builtin_memset(stats, 0, sizeof(*stats));
	stats->first_mono_ns = exact_time(increment);
	stats->last_mono_ns = stats->first_mono_ns;
	stats->packets = increment->packets;
	stats->octets_l2 = increment->octets_l2;
	stats->octets_l3 = increment->octets_l3;
	stats->sampling_interval = setting(sampling_interval) ? setting(sampling_interval) : 1;
	stats->tcp_control_bits = packet->tcp_control_bits;
	stats->tcp_flag_sets = packet->tcp_flag_sets;
	stats->dscp = packet->dscp;
	__builtin_memcpy(stats->src_mac, &packet->src_mac, sizeof(stats->src_mac));
	__builtin_memcpy(stats->dst_mac, &packet->dst_mac, sizeof(stats->dst_mac));
}

/* Add a packet to this CPU's slot of a flow. The slot is zero until this CPU sees the flow. No
 * other program runs on this CPU meanwhile: the hooks run with bottom halves disabled. */
static __always_inline void continue_flow(struct flow_stats *stats, const struct packet *packet,
					  const struct increment *increment)
{
	if (!stats->packets) {
		start_flow(stats, packet, increment);
		return;
	}
	if (stats->last_mono_ns < increment->mono_ns)
		stats->last_mono_ns = increment->mono_ns;
	/* The packets of a capture need not be in the order of their times. */
	if (setting(replay) && stats->first_mono_ns > increment->mono_ns)
		stats->first_mono_ns = increment->mono_ns;
	stats->packets += increment->packets;
	stats->octets_l2 += increment->octets_l2;
	stats->octets_l3 += increment->octets_l3;
	stats->tcp_control_bits |= packet->tcp_control_bits;
	stats->tcp_flag_sets |= packet->tcp_flag_sets;
	stats->dscp = packet->dscp;
}

/* No wake-up: user space reads the ring on its timer, and earlier when it fills. */
static __always_inline enum outcome account_refused(struct flow_record *record, int err)
{
	record->map_errno = -err;
	if (setting(ring_fallback) &&
	    !bpf_ringbuf_output(MAP(flow_ring), record, sizeof(*record), BPF_RB_NO_WAKEUP))
		return OUTCOME_RING;
	return err == -E2BIG ? OUTCOME_LOST_MAP_FULL : OUTCOME_LOST_MAP_BUSY;
}

/* Out of line: the first packet of a flow is rare beside the others. */
static __noinline int account_new(void *flows, const struct packet *packet,
				  const struct increment *increment, struct counters *ledger,
				  struct __sk_buff *skb)
{
	struct flow_record record = {};
	struct flow_stats *stats;
	/* Not long, as the helper is declared: before 6.4 the kernel's function returns an int, its
	 * call is inlined, and nothing extends the sign (d7ba4cc900bf "bpf: return long from
	 * bpf_map_ops funcs"). */
	int err;

	make_key(&record.key, packet);
	start_flow(&record.stats, packet, increment);
	/* NOEXIST: if another CPU inserted the flow since the lookup, its element stays and we add
	 * to our slot of it. */
	err = bpf_map_update_elem(flows, &record.key, &record.stats, BPF_NOEXIST);
	if (!err) {
		ledger->flows_created++;
		if (setting(owners))
			note_owner(skb, &record);
		return OUTCOME_AGGREGATED;
	}
	if (err == -EEXIST) {
		stats = bpf_map_lookup_elem(flows, &record.key);
		if (stats) {
			continue_flow(stats, packet, increment);
			return OUTCOME_AGGREGATED;
		}
	}
	return account_refused(&record, err);
}

static __always_inline enum outcome account(const struct packet *packet,
					    const struct increment *increment,
					    struct counters *ledger, struct __sk_buff *skb)
{
	struct flow_stats *stats;
	struct flow_key key;
	__u32 slot = 0;
	void *flows;

	make_key(&key, packet);
	flows = bpf_map_lookup_elem(MAP(flow_active), &slot);
	if (!flows) /* never: the slot is filled before load and only ever replaced */
		return OUTCOME_LOST_MAP_BUSY;
	stats = bpf_map_lookup_elem(flows, &key);
	if (!stats)
		return account_new(flows, packet, increment, ledger, skb) & (OUTCOMES - 1);
	continue_flow(stats, packet, increment);
	return OUTCOME_AGGREGATED;
}
