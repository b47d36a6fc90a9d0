/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/types.h>

#include "../kernel/loader.h"
#include "export.h"

/* Set before load; the verifier then removes what they switch off. One byte or a word each, widest
 * first, so that .rodata has no holes. */
SETTING(__u32, sampling_interval, 1); /* 1 in N packets; 0 and 1 take every packet */
SETTING(__u32, dns_ports, 0);         /* copy DNS of these ports, low and high half; 0 is none */
SETTING(__u16, netns, 0);             /* flow_key.netns of every packet this program sees */
SETTING(__u8, count_segments, 1);     /* GSO super-packet: 1 as its segments, 0 as one packet */
SETTING(__u8, coarse_clock, 0);       /* bpf_ktime_get_coarse_ns (5.11) for a flow's end */
SETTING(__u8, replay, 0);             /* packets come from a capture: see struct replay_context */
SETTING(__u8, ring_fallback, 1);      /* 0: what the flow map refuses is lost, and counted */

SETTING(__u8, owners, 0); /* 1: the socket of each new flow, in the map flow_owner */

/* How a replayed packet's facts lie in skb->cb, the one part of the context that every kernel's
 * BPF_PROG_TEST_RUN takes from the caller. */
enum replay_context {
	REPLAY_OCTETS = 0,   /* L2 length on the wire; the data may be cut shorter */
	REPLAY_TIME_LOW = 1, /* capture time, Unix ns */
	REPLAY_TIME_HIGH = 2,
	REPLAY_IFINDEX = 3,
	REPLAY_FRAME_OCTETS =
		4, /* as REPLAY_OCTETS, of the Ethernet frame that stands for the packet */
};
ABI_TYPE(enum, replay_context);
