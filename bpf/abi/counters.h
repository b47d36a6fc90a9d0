/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/types.h>

#include "export.h"

/* What became of a packet. Every packet that is seen has exactly one outcome. */
enum outcome {
	OUTCOME_AGGREGATED = 0, /* counted in the active flow map */
	OUTCOME_RING = 1,       /* sent unaggregated through the ring buffer */
	OUTCOME_FILTERED = 2,   /* reserved for filter rules; this program has none */
	OUTCOME_SAMPLED_OUT = 3,
	OUTCOME_NOT_IP = 4,
	OUTCOME_MALFORMED = 5,     /* truncated, or headers that contradict each other */
	OUTCOME_LOST_MAP_FULL = 6, /* flow map full and ring buffer full */
	OUTCOME_LOST_MAP_BUSY = 7, /* flow map refused for another reason and ring buffer full */
	OUTCOMES = 8,
};

struct tally {
	__u64 packets;
	__u64 octets; /* L2, as flow_stats.octets_l2 */
};

/* The kernel's half of the ledger: one per CPU and direction, monotonic, never reset.
 * seen is the sum of the outcomes, in packets and in octets. */
struct counters {
	struct tally seen;
	struct tally outcome[OUTCOMES];
	__u64 flows_created;       /* entries inserted into the flow maps */
	__u64 fragments_unmatched; /* later fragments whose first fragment was not seen: port 0 */
};
_Static_assert(sizeof(struct counters) == 160, "counters is ABI");
ABI_TYPE(enum, outcome);
